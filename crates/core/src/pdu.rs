//! A PDU: an event as it travels between servers, parsed once.

use std::{borrow::Cow, fmt};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId,
    events::TimelineEventType,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    canonical_json::{self, Object, Value},
    event_type::{EventType, levels_for_ruma},
    key_table::MEMBER,
    room_version::RoomVersion,
    state::Membership,
};

/// The type of create events.
pub(crate) const CREATE: &str = "m.room.create";

/// The parsed form of a PDU. Immutable; shared behind an `Arc`.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// The reference hash of the event, with a `$`; before room version 3 what its server made up.
    pub event_id: OwnedEventId,
    /// The room. For a create event of room version 12, which carries none, derived from its ID.
    pub room_id: OwnedRoomId,
    /// The author.
    pub sender: OwnedUserId,
    /// The type.
    pub event_type: EventType,
    /// The state key of state events.
    pub state_key: Option<String>,
    /// The content.
    pub content: Box<RawValue>,
    /// The parents in the graph.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that the author says authorise this one.
    pub auth_events: Vec<OwnedEventId>,
    /// For redactions: the event to redact, wherever the room version puts it.
    pub redacts: Option<OwnedEventId>,
    /// The author's clock, in milliseconds since the Unix epoch.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// One more than the greatest depth among the parents, by the author's word.
    pub depth: i64,
    /// What `content.membership` says, for `m.room.member` events with a known value.
    pub membership: Option<Membership>,
    /// The canonical JSON as it travels, without `unsigned`.
    pub json: Box<str>,
    /// The content as ruma is told it, if that is different.
    pub(crate) ruma_content: Option<Box<RawValue>>,
}

/// Stored JSON that does not have the form of a PDU.
#[derive(Debug, thiserror::Error)]
#[error("event {event_id} is malformed: {reason}")]
pub struct MalformedPdu {
    /// The event.
    pub event_id: OwnedEventId,
    /// What is wrong.
    pub reason: String,
}

/// The fields of a PDU, in one pass over its JSON.
#[derive(Deserialize)]
struct Fields<'a> {
    auth_events: Vec<Reference>,
    #[serde(borrow)]
    content: &'a RawValue,
    depth: i64,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    prev_events: Vec<Reference>,
    #[serde(default)]
    redacts: Option<&'a RawValue>,
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    state_key: Option<String>,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
}

/// The ID of another event, which before room version 3 stands in a list with its reference hash.
struct Reference(OwnedEventId);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct IdOrPair;
        impl<'de> Visitor<'de> for IdOrPair {
            type Value = Reference;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an event ID, or a list of it and its hash")
            }

            fn visit_str<E: Error>(self, id: &str) -> Result<Reference, E> {
                EventId::parse(id).map(Reference).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Reference, A::Error> {
                let id = pair.next_element()?;
                while pair.next_element::<IgnoredAny>()?.is_some() {}
                id.map(Reference)
                    .ok_or_else(|| A::Error::invalid_length(0, &self))
            }
        }
        from.deserialize_any(IdOrPair)
    }
}

fn ids(references: Vec<Reference>) -> Vec<OwnedEventId> {
    references.into_iter().map(|Reference(id)| id).collect()
}

impl Pdu {
    /// Parses an event of this server's own storage: canonical JSON that was validated before.
    /// Nothing is verified and no hash computed.
    ///
    /// # Errors
    /// If the JSON lacks a field that every PDU has, or a field has the wrong form.
    pub fn from_stored(
        version: RoomVersion,
        event_id: OwnedEventId,
        json: impl Into<Box<str>>,
    ) -> Result<Self, MalformedPdu> {
        let json = json.into();
        let fields: Fields<'_> = match serde_json::from_str(&json) {
            Ok(fields) => fields,
            Err(error) => {
                return Err(MalformedPdu {
                    event_id,
                    reason: error.to_string(),
                });
            }
        };
        let event_type = EventType::from(&*fields.event_type);
        let redacts = match event_type.for_ruma() {
            TimelineEventType::RoomRedaction => redacted_event(version, &fields),
            _ => None,
        };
        let membership = match event_type.for_ruma() {
            TimelineEventType::RoomMember => membership(fields.content),
            _ => None,
        };
        let ruma_content = match event_type.for_ruma() {
            TimelineEventType::RoomPowerLevels => levels_for_ruma(fields.content),
            _ => None,
        };
        let Some(room_id) = fields
            .room_id
            .or_else(|| derived_room(version, &event_type, &event_id))
        else {
            return Err(MalformedPdu {
                event_id,
                reason: "`room_id` is missing".to_owned(),
            });
        };
        Ok(Self {
            room_id,
            sender: fields.sender,
            event_type,
            state_key: fields.state_key,
            content: fields.content.to_owned(),
            prev_events: ids(fields.prev_events),
            auth_events: ids(fields.auth_events),
            redacts,
            origin_server_ts: fields.origin_server_ts,
            depth: fields.depth,
            membership,
            event_id,
            json,
            ruma_content,
        })
    }

    /// The content as ruma is told it.
    pub(crate) fn content_for_ruma(&self) -> &RawValue {
        self.ruma_content.as_ref().unwrap_or(&self.content)
    }

    /// Whether this is a state event of a given type and state key.
    pub fn is_state(&self, event_type: &str, state_key: &str) -> bool {
        self.state_key.as_deref() == Some(state_key) && self.event_type.to_string() == event_type
    }
}

/// The room of a create event that carries none.
fn derived_room(
    version: RoomVersion,
    event_type: &EventType,
    event_id: &OwnedEventId,
) -> Option<OwnedRoomId> {
    let derivable =
        version.room_id_is_create_hash() && *event_type == TimelineEventType::RoomCreate;
    let hash = event_id.as_str().strip_prefix('$').filter(|_| derivable)?;
    RoomId::parse(format!("!{hash}")).ok()
}

fn membership(content: &RawValue) -> Option<Membership> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        membership: Cow<'a, str>,
    }
    let content: Content<'_> = serde_json::from_str(content.get()).ok()?;
    Membership::from_name(&content.membership)
}

/// What a redaction redacts. A value that is no event ID redacts nothing.
fn redacted_event(version: RoomVersion, fields: &Fields<'_>) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        redacts: &'a RawValue,
    }
    let redacts = if version.redacts_in_content() {
        serde_json::from_str::<Content<'_>>(fields.content.get())
            .ok()?
            .redacts
    } else {
        fields.redacts?
    };
    serde_json::from_str(redacts.get()).ok()
}

/// The event as a redaction leaves it: what is served to those who may not see its content, and
/// what is kept of an event whose content hash is wrong.
///
/// # Errors
/// If the event's stored JSON is damaged.
pub fn redact(version: RoomVersion, pdu: &Pdu) -> Result<Pdu, MalformedPdu> {
    let object =
        Object::parse_with(version.numbers(), &pdu.json).map_err(|error| MalformedPdu {
            event_id: pdu.event_id.clone(),
            reason: error.to_string(),
        })?;
    let json = canonical_json::write(&redacted(version, &object, &[]));
    Pdu::from_stored(version, pdu.event_id.clone(), json)
}

/// What a redaction leaves of a value.
pub(crate) enum Redacted<'v, 'a> {
    Whole(&'v Value<'a>),
    Parts(Vec<(&'v str, Redacted<'v, 'a>)>),
}

impl Serialize for Redacted<'_, '_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Whole(value) => value.serialize(serializer),
            Self::Parts(parts) => {
                serializer.collect_map(parts.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}

/// What the room version's redaction algorithm leaves of an event, without the keys in `left_out`.
/// (Specification, each room version, "Redactions".)
pub(crate) fn redacted<'v, 'a>(
    version: RoomVersion,
    event: &'v Object<'a>,
    left_out: &[&str],
) -> Redacted<'v, 'a> {
    let rules = version.redaction();
    let event_type = event
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut parts = Vec::new();
    for (key, value) in event.iter().filter(|(key, _)| !left_out.contains(key)) {
        match key {
            "auth_events" | "depth" | "event_id" | "hashes" | "origin_server_ts"
            | "prev_events" | "room_id" | "sender" | "signatures" | "state_key" | "type" => {
                parts.push((key, Redacted::Whole(value)));
            }
            "membership" | "origin" | "prev_state" if rules.keep_origin_membership_prev_state => {
                parts.push((key, Redacted::Whole(value)));
            }
            "content" => parts.push((key, redacted_content(version, event_type, value))),
            _ => {}
        }
    }
    Redacted::Parts(parts)
}

fn redacted_content<'v, 'a>(
    version: RoomVersion,
    event_type: &str,
    content: &'v Value<'a>,
) -> Redacted<'v, 'a> {
    let rules = version.redaction();
    let Some(object) = content.as_object() else {
        return Redacted::Whole(content);
    };
    if event_type == CREATE && rules.keep_room_create_content {
        return Redacted::Whole(content);
    }
    let parts = object.iter().filter_map(|(key, value)| {
        if event_type == MEMBER && key == "third_party_invite" {
            let invite = value.as_object()?;
            let signed = invite
                .get("signed")
                .map(|signed| ("signed", Redacted::Whole(signed)));
            return rules
                .keep_room_member_third_party_invite_signed
                .then(|| (key, Redacted::Parts(signed.into_iter().collect())));
        }
        keeps_content_key(version, event_type, key).then_some((key, Redacted::Whole(value)))
    });
    Redacted::Parts(parts.collect())
}

/// Whether a redaction leaves a key of the content as it is.
fn keeps_content_key(version: RoomVersion, event_type: &str, key: &str) -> bool {
    let rules = version.redaction();
    match (event_type, key) {
        ("m.room.aliases", "aliases") => rules.keep_room_aliases_aliases,
        (CREATE, "creator")
        | ("m.room.history_visibility", "history_visibility")
        | ("m.room.join_rules", "join_rule")
        | (MEMBER, "membership")
        | (
            "m.room.power_levels",
            "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users"
            | "users_default",
        ) => true,
        ("m.room.join_rules", "allow") => rules.keep_room_join_rules_allow,
        (MEMBER, "join_authorised_via_users_server") => {
            rules.keep_room_member_join_authorised_via_users_server
        }
        ("m.room.power_levels", "invite") => rules.keep_room_power_levels_invite,
        ("m.room.redaction", "redacts") => rules.keep_room_redaction_redacts,
        _ => false,
    }
}
