//! Events that can be read and are traced: answers and transactions that show them to others add themselves to
//! their traces.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use myelin_core::number::StreamPosition;
use myelin_env::TracePoint;
use ruma::{ServerName, UserId};
use tracing::Span;

use crate::{Rooms, room::Room, trace::Trace};

/// How many of the newest events are known by their positions to be traced.
const MOST_RECENT: usize = 1_000;

/// How many traces one answer or transaction is added to at most.
const MOST_SHOWN: usize = 100;

/// Where the newest events that are traced are in their traces.
#[derive(Default)]
pub(crate) struct Recent(Mutex<VecDeque<Shown>>);

/// A traced event that can be read.
struct Shown {
    position: StreamPosition,
    room: Weak<Room>,
    point: TracePoint,
}

impl Recent {
    /// An event is about to be readable at this position.
    pub(crate) fn put(&self, position: StreamPosition, room: &Arc<Room>, trace: &Trace) {
        let Some(point) = trace.point() else {
            return;
        };
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == MOST_RECENT {
            recent.pop_front();
        }
        recent.push_back(Shown {
            position,
            room: Arc::downgrade(room),
            point,
        });
    }

    /// Where those events are that are wanted: the newest ones.
    fn points(&self, wanted: impl Fn(&Shown) -> bool) -> Vec<TracePoint> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = recent.iter().rev().filter(|shown| wanted(shown));
        newest
            .take(MOST_SHOWN)
            .map(|shown| shown.point.clone())
            .collect()
    }
}

impl Rooms {
    /// An answer to `/sync` is put together that has what is after one position and up to another: as long
    /// as what this returns. It is shown in the traces of the events that it may show to the user.
    #[must_use]
    pub fn trace_sync(
        &self,
        user: &UserId,
        (since, upto): (StreamPosition, StreamPosition),
    ) -> Vec<Span> {
        let shows = |shown: &Shown| {
            (since < shown.position && shown.position <= upto)
                && (shown.room.upgrade()).is_some_and(|room| room.tells(user))
        };
        let request = TracePoint::current();
        let points = self.traced().points(shows);
        let spans = points.into_iter().map(|event| {
            let span = event.adopt(tracing::debug_span!("sync", %user));
            request.iter().for_each(|request| request.link_from(&span));
            span
        });
        spans.collect()
    }

    /// Where the events at some positions are in their traces.
    pub(crate) fn trace_points(&self, positions: &[StreamPosition]) -> Vec<TracePoint> {
        if positions.is_empty() {
            return Vec::new();
        }
        self.traced()
            .points(|shown| positions.contains(&shown.position))
    }
}

/// A transaction with some events is sent to a server: as long as what this returns.
pub(crate) fn trace_delivery(events: &[TracePoint], server: &ServerName) -> Vec<Span> {
    let span = |event: &TracePoint| event.adopt(tracing::debug_span!("deliver", %server));
    events.iter().map(span).collect()
}
