//! The story of a single event for who collects traces, from its receipt until those who wait for it are awake.
//!
//! An event crosses tasks, and shares its turn and its commit with others. So each has a span of its own, whose
//! steps follow upon one another without a gap. It is kept beside what waits; a crash ends it.

use std::collections::BTreeMap;

use myelin_env::TracePoint;
use ruma::{EventId, RoomId};
use tracing::{Span, field::Empty};

/// How many events of a room are traced at most while they wait.
const MOST_WAITING: usize = 1_000;

/// An event's span, which ends when this is dropped, and the step that it is in.
#[derive(Debug)]
pub(crate) struct Trace {
    /// First: a step ends before what it belongs to.
    step: Span,
    event: Span,
}

impl Trace {
    /// An event was received, or is to be made. It belongs to the trace of the request that is being answered.
    pub(crate) fn begin(room: &RoomId) -> Self {
        let event = tracing::debug_span!(
            "event", room_id = %room, event_id = Empty, verdict = Empty
        );
        let mut trace = Self {
            step: Span::none(),
            event,
        };
        trace.step("wait for the turn");
        trace
    }

    /// Of an event that is not traced.
    pub(crate) fn none() -> Self {
        Self {
            step: Span::none(),
            event: Span::none(),
        }
    }

    /// The event's ID is known.
    pub(crate) fn identify(&self, event_id: &EventId) {
        self.event.record("event_id", event_id.as_str());
    }

    /// Ends the event's last step and begins the next.
    pub(crate) fn step(&mut self, name: &'static str) {
        if !self.event.is_disabled() {
            self.step = Span::none();
            self.step = tracing::debug_span!(parent: &self.event, "step", otel.name = name);
        }
    }

    /// It was judged, and is going to be written.
    pub(crate) fn judged(&mut self, verdict: &str) {
        self.event.record("verdict", verdict);
        self.step("commit");
    }

    /// Where what follows from the event later belongs; `None` if it is not collected.
    pub(crate) fn point(&self) -> Option<TracePoint> {
        TracePoint::of(&self.event)
    }
}

/// The traces of events that wait, by the numbers under which they are staged.
#[derive(Debug, Default)]
pub(crate) struct Waiting(BTreeMap<i64, Trace>);

impl Waiting {
    /// Keeps a trace while its event waits.
    pub(crate) fn put(&mut self, staged: i64, trace: Trace) {
        if !trace.event.is_disabled() && self.0.len() < MOST_WAITING {
            self.0.insert(staged, trace);
        }
    }

    /// The trace of an event that waits no more.
    pub(crate) fn take(&mut self, staged: i64) -> Trace {
        self.0.remove(&staged).unwrap_or_else(Trace::none)
    }
}
