//! Authorisation: which state events decide about an event, and what they decide (server-server API,
//! "Authorisation rules"; the rules stand with each room version).
//!
//! The rules themselves are ruma's. Everything here is a function of its arguments alone (R26).

use std::sync::Arc;

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    state_res::{
        self, auth_types_for_event, check_state_dependent_auth_rules,
        check_state_independent_auth_rules,
    },
};
use serde_json::value::RawValue;

use crate::{
    event::Event, event_type::EventType, key_table::StateKey, pdu::Pdu, room_version::RoomVersion,
    validate::check_field_bytes,
};

/// Why an event is not permitted. The text names the rule, for logs and for clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The event by itself, or the list of its auth events, breaks a rule that no state could mend.
    #[error("{0}")]
    Malformed(String),
    /// The state it was checked against does not permit it.
    #[error("{0}")]
    Forbidden(String),
}

/// The state entries that decide about an event: what its author should name as auth events, where
/// they exist (server-server API, "Auth events selection"). In room versions whose room ID is the
/// create event's hash the create event is not among them.
///
/// # Errors
/// If the event is a membership without a state key or a valid `membership`, or names a
/// third-party invite or an authorising user in the wrong form. No state permits such an event.
pub fn auth_keys(version: RoomVersion, pdu: &Pdu) -> Result<Vec<StateKey>, Rejection> {
    auth_keys_for(
        version,
        &pdu.event_type,
        &pdu.sender,
        pdu.state_key.as_deref(),
        &pdu.content,
    )
}

/// The same for an event that isn't made yet.
///
/// # Errors
/// As for [`auth_keys`].
pub fn auth_keys_for(
    version: RoomVersion,
    event_type: &EventType,
    sender: &UserId,
    state_key: Option<&str>,
    content: &RawValue,
) -> Result<Vec<StateKey>, Rejection> {
    let rules = version.authorization();
    let keys = auth_types_for_event(event_type.for_ruma(), sender, state_key, content, rules);
    let keys = keys.map_err(Rejection::Malformed)?.into_iter();
    Ok(keys
        .map(|(event_type, state_key)| StateKey::new(event_type.to_string(), state_key))
        .collect())
}

/// The create event that stands behind an event without being named among its auth events, in room
/// versions whose room ID is that event's hash. A create event has none behind it.
pub fn implied_create_event(version: RoomVersion, pdu: &Pdu) -> Option<OwnedEventId> {
    if !version.room_id_is_create_hash() || pdu.event_type == TimelineEventType::RoomCreate {
        return None;
    }
    // A room ID that is no hash has no event behind it; the rules reject what is sent there.
    EventId::parse(format!("${}", pdu.room_id.strip_sigil())).ok()
}

/// Check 4: the rules about the event and its list of auth events, then the rules about state,
/// against exactly those auth events.
///
/// `auth_events` holds every event that `pdu.auth_events` names, in any order. They are examined as
/// a list, so that a rejected one cannot hide behind an accepted one of the same key (L6). `create`
/// is the event of [`implied_create_event`].
///
/// # Errors
/// The reason for rejecting the event.
pub fn check_claimed(
    version: RoomVersion,
    pdu: &Pdu,
    auth_events: &[Arc<Event>],
    create: Option<&Arc<Event>>,
) -> Result<(), Rejection> {
    check_field_bytes(pdu).map_err(|reason| Rejection::Malformed(reason.to_string()))?;
    if pdu.event_type == TimelineEventType::RoomCreate {
        check_create_version(version, pdu)?;
    }
    let create = create.filter(|_| version.room_id_is_create_hash());
    let known = || auth_events.iter().chain(create);
    check_state_independent_auth_rules(version.authorization(), Incoming(pdu), |id| {
        known().find(|event| event.id() == id).cloned()
    })
    .map_err(Rejection::Malformed)?;
    check_against(version, pdu, |event_type, state_key| {
        known()
            .find(|event| event.pdu.is_state(event_type, state_key))
            .cloned()
    })
}

/// Checks 5 and 6: the rules about state, against whatever state `lookup` stands for. It is asked
/// for the entries of [`auth_keys`] and for the create event.
///
/// # Errors
/// The reason why the state doesn't permit the event.
pub fn check_against(
    version: RoomVersion,
    pdu: &Pdu,
    lookup: impl Fn(&str, &str) -> Option<Arc<Event>>,
) -> Result<(), Rejection> {
    let lookup = |event_type: &StateEventType, key: &str| lookup(&event_type.to_string(), key);
    check_state_dependent_auth_rules(version.authorization(), Incoming(pdu), lookup)
        .map_err(Rejection::Forbidden)
}

/// Rule 1.3: a create event states the version of its room, and the reader judges it by that one.
fn check_create_version(version: RoomVersion, create: &Pdu) -> Result<(), Rejection> {
    match RoomVersion::of_create_event(create) {
        Ok(stated) if stated == version => Ok(()),
        Ok(stated) => Err(Rejection::Malformed(format!(
            "create event of room version {stated} in a room of version {version}"
        ))),
        Err(error) => Err(Rejection::Malformed(error.to_string())),
    }
}

/// An event under judgement, as ruma wants to see it: as it was sent.
struct Incoming<'p>(&'p Pdu);

impl state_res::Event for Incoming<'_> {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.0.event_id
    }

    /// Only what the event itself carries: a create event whose hash is the room ID has none.
    fn room_id(&self) -> Option<&RoomId> {
        let derived = self.0.event_type == TimelineEventType::RoomCreate
            && self.0.room_id.server_name().is_none()
            && Some(self.0.room_id.strip_sigil()) == self.0.event_id.as_str().strip_prefix('$');
        (!derived).then_some(&self.0.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.0.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.0.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        self.0.event_type.for_ruma()
    }

    fn content(&self) -> &RawValue {
        self.0.content_for_ruma()
    }

    fn state_key(&self) -> Option<&str> {
        self.0.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.0.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.0.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        false
    }
}
