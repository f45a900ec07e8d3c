//! Check 1: the format of a PDU.

use ruma::OwnedEventId;

use super::{
    DropReason, MAX_AUTH_EVENTS, MAX_DEPTH, MAX_FIELD_BYTES, MAX_PDU_BYTES, MAX_PREV_EVENTS,
};
use crate::{
    canonical_json::{MAX_INTEGER, Object, Value},
    pdu::{CREATE, Pdu},
    room_version::RoomVersion,
};

const TOO_LONG: &str = "is longer than 255 bytes";

pub(super) fn bad(field: &'static str, problem: &'static str) -> DropReason {
    DropReason::Field { field, problem }
}

/// Check 1, as far as it concerns the JSON: sizes, and the presence and kind of each field. `bytes`
/// is the size of the event.
pub(crate) fn check_format(
    version: RoomVersion,
    event: &Object<'_>,
    bytes: usize,
) -> Result<(), DropReason> {
    if bytes > MAX_PDU_BYTES {
        return Err(DropReason::TooLarge(bytes));
    }
    let is_create = required_text(version, event, "type")? == CREATE;
    required_text(version, event, "sender")?;
    match text(version, event, "room_id")? {
        Some(_) if is_create && version.room_id_is_create_hash() => {
            return Err(bad("room_id", "must not be on a create event"));
        }
        None if !(is_create && version.room_id_is_create_hash()) => {
            return Err(bad("room_id", "is missing"));
        }
        _ => {}
    }
    text(version, event, "state_key")?;
    integer(event, "depth", MAX_DEPTH)?;
    integer(event, "origin_server_ts", MAX_INTEGER)?;
    for field in ["content", "signatures"] {
        if event.get(field).and_then(Value::as_object).is_none() {
            return Err(bad(field, "is no object"));
        }
    }
    if version.has_ids_in_events() {
        required_text(version, event, "event_id")?;
    }
    let prev_events = references(version, event, "prev_events")?;
    let auth_events = references(version, event, "auth_events")?;
    if prev_events > MAX_PREV_EVENTS || auth_events > MAX_AUTH_EVENTS {
        return Err(DropReason::TooManyReferences {
            prev_events,
            auth_events,
        });
    }
    Ok(())
}

fn text<'e>(
    version: RoomVersion,
    event: &'e Object<'_>,
    field: &'static str,
) -> Result<Option<&'e str>, DropReason> {
    let fits = |text: &str| match version.has_fields_of_code_points() {
        true => text.chars().count() <= MAX_FIELD_BYTES,
        false => text.len() <= MAX_FIELD_BYTES,
    };
    match event.get(field) {
        None => Ok(None),
        Some(Value::Text(text)) if fits(text) => Ok(Some(text)),
        Some(Value::Text(_)) => Err(bad(field, TOO_LONG)),
        Some(_) => Err(bad(field, "is no string")),
    }
}

fn required_text<'e>(
    version: RoomVersion,
    event: &'e Object<'_>,
    field: &'static str,
) -> Result<&'e str, DropReason> {
    text(version, event, field)?.ok_or(bad(field, "is missing"))
}

/// The field that is too long, though it was read: nobody may make such an event, and who gets one rejects it.
/// Of the IDs none can be: with more than 255 bytes they are no IDs.
pub(crate) fn check_field_bytes(pdu: &Pdu) -> Result<(), DropReason> {
    let event_type = pdu.event_type.to_string();
    let state_key = pdu.state_key.as_deref().unwrap_or_default();
    for (field, value) in [("type", event_type.as_str()), ("state_key", state_key)] {
        if value.len() > MAX_FIELD_BYTES {
            return Err(bad(field, TOO_LONG));
        }
    }
    Ok(())
}

fn integer(event: &Object<'_>, field: &'static str, max: i64) -> Result<(), DropReason> {
    match event.get(field) {
        Some(Value::Integer(value)) if (0..=max).contains(value) => Ok(()),
        Some(Value::Integer(_)) => Err(bad(field, "is out of range")),
        Some(_) => Err(bad(field, "is no integer")),
        None => Err(bad(field, "is missing")),
    }
}

/// The number of event IDs in a field; before room version 3 each is in a list with a hash.
fn references(
    version: RoomVersion,
    event: &Object<'_>,
    field: &'static str,
) -> Result<usize, DropReason> {
    let items = event
        .get(field)
        .and_then(Value::as_array)
        .ok_or(bad(field, "is no array"))?;
    let is_id = |item: &Value<'_>| item.as_str().is_some_and(|id| id.len() <= MAX_FIELD_BYTES);
    let fits = |item: &Value<'_>| match item.as_array() {
        Some([id, hash]) => version.has_ids_in_events() && is_id(id) && hash.as_object().is_some(),
        Some(_) => false,
        None => !version.has_ids_in_events() && is_id(item),
    };
    if items.iter().all(fits) {
        Ok(items.len())
    } else {
        Err(bad(field, "has something else than event IDs"))
    }
}

/// Check 1, as far as it needs the parsed event.
pub(crate) fn check_references(version: RoomVersion, pdu: &Pdu) -> Result<(), DropReason> {
    let hash = pdu.room_id.strip_sigil();
    let is_create = |id: &OwnedEventId| id.as_str().strip_prefix('$') == Some(hash);
    if version.room_id_is_create_hash() && pdu.auth_events.iter().any(is_create) {
        return Err(DropReason::CreateAmongAuthEvents);
    }
    Ok(())
}
