//! Finding events by time (MSC3030): what this server holds, what other servers hold where it has a gap,
//! and what it tells other servers.

use std::sync::Arc;

use myelin_core::{
    event::{Event, Verdict},
    number::StreamPosition,
};
use myelin_federation::EventAtTime;
use myelin_storage::{
    StorageError,
    events::Direction,
    timelines::{self, TimePlace},
};
use ruma::{RoomId, ServerName};
use serde_json::json;

use crate::{RoomError, Rooms, ServeError, outliers::remote, room::Room};

/// How many servers are asked at most.
const MOST_ASKED: usize = 5;

/// How many events are read together, and how often, to find one that may be seen.
const READ_TOGETHER: usize = 50;
const MOST_READS: usize = 8;

/// A time from which an event is looked for, and which way.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time, in Unix milliseconds.
    pub at_ms: i64,
    /// Forward: the first event at that time or later. Backward: the last at it or earlier.
    pub direction: Direction,
}

impl Moment {
    /// Whether a time is on the right side of this moment, and nearer to it than another's.
    fn is_nearer(self, at_ms: i64, than: Option<i64>) -> bool {
        match self.direction {
            Direction::Forward => self.at_ms <= at_ms && than.is_none_or(|than| at_ms < than),
            Direction::Backward => at_ms <= self.at_ms && than.is_none_or(|than| than < at_ms),
        }
    }

    /// What is said when there is no such event.
    pub fn nothing(self) -> String {
        let way = match self.direction {
            Direction::Forward => "forward",
            Direction::Backward => "backward",
        };
        format!(
            "Unable to find event from {} in {way} direction",
            self.at_ms
        )
    }
}

/// Events by their distance from a moment, a few at a time. Reading is given up where many in a row were
/// of no use.
#[derive(Clone)]
pub struct EventsNear {
    rooms: Rooms,
    room: Arc<Room>,
    direction: Direction,
    beyond: TimePlace,
    upto: StreamPosition,
    reads_left: usize,
}

impl EventsNear {
    /// The next events, nearest first; `None` at the end.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn read_on(&mut self) -> Result<Option<Vec<Arc<Event>>>, StorageError> {
        if self.reads_left == 0 {
            return Ok(None);
        }
        let (nr, direction) = (self.room.key.room, self.direction);
        let bounds = (self.beyond, self.upto);
        let found = self
            .rooms
            .database()
            .look_up("events near a time", move |tx| {
                Box::pin(async move {
                    timelines::near_time(tx, nr, direction, bounds, READ_TOGETHER).await
                })
            })
            .await?;
        match found.last() {
            Some((_, last)) if found.len() == READ_TOGETHER => {
                self.beyond = *last;
                self.reads_left -= 1;
            }
            _ => self.reads_left = 0,
        }
        let numbers = found.iter().map(|(nr, _)| *nr);
        let mut events = self.room.events(&self.rooms, numbers).await?;
        let events = found.iter().filter_map(|(nr, _)| events.remove(nr));
        Ok(Some(events.collect()))
    }
}

impl Rooms {
    /// Accepted timeline events on the right side of a moment, nearest first, as far as they have positions
    /// up to `upto`.
    pub fn events_near(
        &self,
        room: &Arc<Room>,
        moment: Moment,
        upto: StreamPosition,
    ) -> EventsNear {
        EventsNear {
            rooms: self.clone(),
            room: room.clone(),
            direction: moment.direction,
            beyond: TimePlace::at(moment.at_ms, moment.direction),
            upto,
            reads_left: MOST_READS,
        }
    }

    /// Whether this server lacks events right before the first that it holds from a moment on: one of
    /// them may be nearer than any it holds.
    async fn has_gap_at(&self, room: &Arc<Room>, at_ms: i64) -> Result<bool, StorageError> {
        let nr = room.key.room;
        self.database()
            .read("gap at a time", move |tx| {
                Box::pin(async move {
                    let bounds = (
                        TimePlace::at(at_ms, Direction::Forward),
                        StreamPosition(i64::MAX),
                    );
                    let next = timelines::near_time(tx, nr, Direction::Forward, bounds, 1).await?;
                    let next: Vec<_> = next.into_iter().map(|(event, _)| event).collect();
                    Ok(!timelines::after_gaps(tx, nr, &next).await?.is_empty())
                })
            })
            .await
    }

    /// If there is a gap at a moment, asks other servers for an event that is nearer than one of a time
    /// that is known, and takes it into the history. What they say of its time isn't believed.
    ///
    /// # Errors
    /// Any storage error. That no server could help is none.
    pub async fn fetch_nearer_event(
        &self,
        room: &Arc<Room>,
        moment: Moment,
        than: Option<i64>,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        if !self.has_gap_at(room, moment.at_ms).await? {
            return Ok(None);
        }
        for server in self.servers_to_ask(room).into_iter().take(MOST_ASKED) {
            match self.nearer_event_of(room, &server, moment, than).await {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(RoomError::Storage(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(%server, room = %room.key.room_id, %error, "no event from it");
                }
            }
        }
        Ok(None)
    }

    async fn nearer_event_of(
        &self,
        room: &Arc<Room>,
        server: &ServerName,
        moment: Moment,
        than: Option<i64>,
    ) -> Result<Option<Arc<Event>>, RoomError> {
        let key = &room.key;
        let forward = moment.direction == Direction::Forward;
        let EventAtTime {
            event_id,
            origin_server_ts,
        } = self
            .asking()
            .timestamp_to_event(server, &key.room_id, moment.at_ms, forward)
            .await
            .map_err(remote)?;
        if !moment.is_nearer(origin_server_ts, than) {
            return Ok(None);
        }
        let held = room.event_by_id(self, &event_id).await?;
        if !held.is_some_and(|event| event.in_timeline()) {
            let pdu = self.asking().event(server, &event_id).await;
            let pdus = vec![pdu.map_err(remote)?];
            let valid = self.validate(key.version, &key.room_id, pdus).await;
            let valid = valid.into_iter().flatten();
            let asked_for = valid.filter(|pdu| pdu.event_id == event_id).collect();
            self.take_history(room, server, asked_for).await?;
        }
        let event = room.event_by_id(self, &event_id).await?;
        Ok(event.filter(|event| {
            event.in_timeline()
                && event.verdict == Verdict::Accepted
                && moment.is_nearer(event.pdu.origin_server_ts.get().into(), than)
        }))
    }

    /// `GET /timestamp_to_event`: the nearest event that the asking server may see.
    ///
    /// # Errors
    /// Any [`ServeError`].
    pub async fn serve_event_at(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        moment: Moment,
    ) -> Result<String, ServeError> {
        let room = self.room_for(origin, room_id).await?;
        if room.is_partial() {
            return Err(ServeError::Partial);
        }
        let upto = self.events_stream().readable();
        let mut near = self.events_near(&room, moment, upto);
        while let Some(events) = near.read_on().await? {
            for event in events {
                if self.may_see(&room, origin, &event).await? {
                    let (id, time) = (&event.pdu.event_id, event.pdu.origin_server_ts);
                    return Ok(json!({ "event_id": id, "origin_server_ts": time }).to_string());
                }
            }
        }
        Err(ServeError::NotFound(moment.nothing()))
    }
}
