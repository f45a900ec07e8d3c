//! The events of a room: in memory, or read.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use myelin_core::{event::Event, number::EventNr};
use myelin_storage::{
    StorageError,
    events::{self, Known},
};
use ruma::{EventId, OwnedEventId};

use super::Room;
use crate::{Rooms, event_cache::Cached};

impl Room {
    /// Those of some events that are in memory, the others, and the changes to what is in memory until now.
    fn cached<N: Eq + Hash>(
        &self,
        names: impl IntoIterator<Item = N>,
        get: impl Fn(&Cached, &N) -> Option<Arc<Event>>,
    ) -> (HashMap<N, Arc<Event>>, Vec<N>, u64) {
        let cache = self.events.lock();
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        for name in names {
            match get(&cache, &name) {
                Some(event) => drop(found.insert(name, event)),
                None => missing.push(name),
            }
        }
        (found, missing, cache.changes())
    }

    /// Events by number. Those that are not held are left out.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn events(
        self: &Arc<Self>,
        rooms: &Rooms,
        numbers: impl IntoIterator<Item = EventNr>,
    ) -> Result<HashMap<EventNr, Arc<Event>>, StorageError> {
        let (mut found, missing, changes) =
            self.cached(numbers, |cache, nr| cache.get(*nr).cloned());
        if missing.is_empty() {
            return Ok(found);
        }
        let key = self.key.clone();
        let loaded = rooms
            .database()
            .look_up("load events", move |tx| {
                Box::pin(async move { events::by_number(tx, &key, &missing).await })
            })
            .await?;
        for event in loaded {
            self.events.lock().put_read(&event, changes);
            found.insert(event.nr, event);
        }
        Ok(found)
    }

    /// What is known of some event IDs. Unknown ones are left out.
    pub(crate) async fn known_events(
        self: &Arc<Self>,
        rooms: &Rooms,
        ids: impl IntoIterator<Item = OwnedEventId>,
    ) -> Result<HashMap<OwnedEventId, Known>, StorageError> {
        let (held, missing, changes) = self.cached(ids, |cache, id| cache.by_id(id).cloned());
        let held = held.into_iter().map(|(id, event)| (id, Known::Held(event)));
        let mut found: HashMap<_, _> = held.collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let key = self.key.clone();
        let loaded = rooms
            .database()
            .look_up("find events", move |tx| {
                Box::pin(async move { events::by_id(tx, &key, &missing).await })
            })
            .await?;
        for (id, known) in loaded {
            if let Known::Held(event) = &known {
                self.events.lock().put_read(event, changes);
            }
            found.insert(id, known);
        }
        Ok(found)
    }

    /// The numbers of those of some events that are held.
    pub(crate) async fn held_numbers(
        self: &Arc<Self>,
        rooms: &Rooms,
        ids: impl IntoIterator<Item = OwnedEventId>,
    ) -> Result<Vec<EventNr>, StorageError> {
        let known = self.known_events(rooms, ids).await?.into_values();
        Ok(known
            .filter_map(|known| match known {
                Known::Held(event) => Some(event.nr),
                Known::Referenced(_) => None,
            })
            .collect())
    }

    /// An event by its ID, if it is held and of this room.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn event_by_id(
        self: &Arc<Self>,
        rooms: &Rooms,
        id: &EventId,
    ) -> Result<Option<Arc<Event>>, StorageError> {
        let known = self.known_events(rooms, [id.to_owned()]).await?;
        Ok(known.into_values().find_map(|known| match known {
            Known::Held(event) => Some(event),
            Known::Referenced(_) => None,
        }))
    }

    /// Keeps an event as it was committed.
    pub(crate) fn cache_event(&self, event: &Arc<Event>) {
        self.events.lock().put(event);
    }

    /// Forgets an event in memory because its row has changed.
    pub(crate) fn forget_event(&self, nr: EventNr) {
        self.events.lock().forget(nr);
    }

    /// Forgets all events in memory because rows of some have changed, and what was counted of them.
    pub(crate) fn forget_events(&self) {
        self.events.lock().forget_all();
        self.unread.forget_all();
    }
}
