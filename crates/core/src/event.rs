//! An event that this server holds.

use std::sync::Arc;

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId, events::TimelineEventType,
};
use serde_json::value::RawValue;

use crate::{
    completeness::StateRef,
    number::{EventNr, StreamPosition},
    pdu::Pdu,
};

/// The outcome of the checks on receipt of a PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed.
    Accepted,
    /// Failed check 6 only: takes part in state resolution, but is not shown and not built upon.
    SoftFailed,
    /// Failed check 4 or 5: kept so that others which refer to it can be judged.
    Rejected,
}

impl Verdict {
    /// What figures call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::SoftFailed => "soft_failed",
            Self::Rejected => "rejected",
        }
    }
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Outside the graph, without a known state.
    Outlier,
    /// Tied into the graph.
    Timeline {
        /// The state before the event.
        before: StateRef,
        /// Its position in the stream.
        position: StreamPosition,
    },
}

/// A stored event with what this server thinks of it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its number.
    pub nr: EventNr,
    /// What its author wrote.
    pub pdu: Arc<Pdu>,
    /// What the checks said.
    pub verdict: Verdict,
    /// Where it stands.
    pub place: Place,
    /// The accepted redaction of it. What clients get is pruned then; auth sees the whole.
    pub redacted_by: Option<EventNr>,
}

impl Event {
    /// Its ID.
    pub fn id(&self) -> &EventId {
        &self.pdu.event_id
    }

    /// Whether it is tied into the graph ("seen in timeline"); rejected events can be.
    pub fn in_timeline(&self) -> bool {
        matches!(self.place, Place::Timeline { .. })
    }

    /// The state before it, if it is in the timeline.
    pub fn before(&self) -> Option<StateRef> {
        match self.place {
            Place::Outlier => None,
            Place::Timeline { before, .. } => Some(before),
        }
    }

    /// Its position in the stream, if it is in the timeline.
    pub fn position(&self) -> Option<StreamPosition> {
        match self.place {
            Place::Outlier => None,
            Place::Timeline { position, .. } => Some(position),
        }
    }

    /// Whether it changes the room's state: a state event that was not rejected.
    pub fn is_effective_state(&self) -> bool {
        self.pdu.state_key.is_some() && self.verdict != Verdict::Rejected
    }
}

impl ruma::state_res::Event for Event {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.pdu.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        Some(&self.pdu.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.pdu.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.pdu.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        self.pdu.event_type.for_ruma()
    }

    fn content(&self) -> &RawValue {
        self.pdu.content_for_ruma()
    }

    fn state_key(&self) -> Option<&str> {
        self.pdu.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.pdu.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.pdu.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.pdu.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.verdict == Verdict::Rejected
    }
}
