//! The events of one room that are in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use myelin_core::{event::Event, number::EventNr};
use ruma::{EventId, OwnedEventId};

use crate::held::Held;

/// How many events of a room are kept in memory.
const CACHED_EVENTS: usize = 2_000;

/// The events of a room that are in memory.
#[derive(Debug, Default)]
pub(crate) struct EventCache(Mutex<Cached>);

#[derive(Debug)]
pub(crate) struct Cached {
    by_number: HashMap<EventNr, Arc<Event>>,
    by_id: HashMap<OwnedEventId, EventNr>,
    oldest_first: VecDeque<EventNr>,
    /// Counts the times that rows changed: what was read before such a time may be stale.
    changes: u64,
    held: Held,
}

impl Default for Cached {
    fn default() -> Self {
        Self {
            by_number: HashMap::new(),
            by_id: HashMap::new(),
            oldest_first: VecDeque::new(),
            changes: 0,
            held: Held::new("events"),
        }
    }
}

impl EventCache {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cached {
    pub(crate) fn get(&self, nr: EventNr) -> Option<&Arc<Event>> {
        self.by_number.get(&nr)
    }

    pub(crate) fn by_id(&self, id: &EventId) -> Option<&Arc<Event>> {
        self.get(*self.by_id.get(id)?)
    }

    /// To be asked before events are read, for [`Cached::put_read`].
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Keeps an event as it was committed.
    pub(crate) fn put(&mut self, event: &Arc<Event>) {
        self.by_id.insert(event.pdu.event_id.clone(), event.nr);
        self.held.add(event.pdu.json.len());
        match self.by_number.insert(event.nr, event.clone()) {
            Some(replaced) => self.held.remove(replaced.pdu.json.len()),
            None => self.oldest_first.push_back(event.nr),
        }
        while self.oldest_first.len() > CACHED_EVENTS {
            let Some(oldest) = self.oldest_first.pop_front() else {
                break;
            };
            self.remove(oldest);
        }
    }

    /// Keeps an event as it was read, unless a commit may have changed it since.
    pub(crate) fn put_read(&mut self, event: &Arc<Event>, changes: u64) {
        if self.changes == changes && !self.by_number.contains_key(&event.nr) {
            self.put(event);
        }
    }

    /// Forgets an event because its row has changed.
    pub(crate) fn forget(&mut self, nr: EventNr) {
        self.changes += 1;
        if self.remove(nr) {
            self.oldest_first.retain(|cached| *cached != nr);
        }
    }

    /// Whether it was there.
    fn remove(&mut self, nr: EventNr) -> bool {
        let removed = self.by_number.remove(&nr);
        if let Some(event) = &removed {
            self.by_id.remove(&event.pdu.event_id);
            self.held.remove(event.pdu.json.len());
        }
        removed.is_some()
    }

    /// Forgets everything: any row may have changed.
    pub(crate) fn forget_all(&mut self) {
        *self = Self {
            changes: self.changes + 1,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Cached, Event, EventNr};
    use myelin_core::{
        event::{Place, Verdict},
        pdu::Pdu,
        room_version::RoomVersion,
    };

    fn event(redacted_by: Option<EventNr>) -> Arc<Event> {
        let json = r#"{"auth_events":[],"content":{},"depth":1,"origin_server_ts":1,"prev_events":[],
            "room_id":"!r:x","sender":"@a:x","type":"t"}"#;
        let id = ruma::event_id!("$e").to_owned();
        let pdu = Pdu::from_stored(RoomVersion::V11, id, json).expect("an event");
        Arc::new(Event {
            nr: EventNr(1),
            pdu: Arc::new(pdu),
            verdict: Verdict::Accepted,
            place: Place::Outlier,
            redacted_by,
        })
    }

    #[test]
    fn what_was_read_before_a_commit_does_not_come_after_it() {
        let mut cached = Cached::default();
        let read_at = cached.changes();
        cached.put(&event(Some(EventNr(2))));
        cached.put_read(&event(None), read_at);
        let kept = cached.by_id(ruma::event_id!("$e")).expect("kept");
        assert_eq!(kept.redacted_by, Some(EventNr(2)));
        cached.forget(EventNr(1));
        cached.put_read(&event(None), read_at);
        assert!(cached.get(EventNr(1)).is_none());
        cached.put_read(&event(None), cached.changes());
        assert!(cached.get(EventNr(1)).is_some());
    }
}
