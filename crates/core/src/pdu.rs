//! A PDU: an event as it travels between servers, parsed once.

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, events::TimelineEventType,
};
use serde_json::value::RawValue;

use crate::state::Membership;

/// The parsed form of a PDU. Immutable; shared behind an `Arc`.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// The reference hash of the event, with a `$`.
    pub event_id: OwnedEventId,
    /// The room. For a create event of room version 12, which carries none, derived from its ID.
    pub room_id: OwnedRoomId,
    /// The author.
    pub sender: OwnedUserId,
    /// The type.
    pub event_type: TimelineEventType,
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
}
