//! Many events of one room, a part at a time: a state may have 200,000.

use std::{collections::HashMap, sync::Arc};

use myelin_core::{event::Event, number::EventNr};
use myelin_rooms::{Room, Rooms};
use myelin_storage::events;

use crate::SyncError;

/// How many events are loaded at once.
pub(crate) const PART: usize = 500;

/// The parts of a list of events.
pub(crate) struct Parts<'a> {
    rooms: &'a Rooms,
    room: &'a Arc<Room>,
    rest: &'a [EventNr],
    /// The room keeps the events that it loads. A whole membership list would push everything else out.
    is_small: bool,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(rooms: &'a Rooms, room: &'a Arc<Room>, events: &'a [EventNr]) -> Self {
        Self {
            rooms,
            room,
            rest: events,
            is_small: events.len() <= PART,
        }
    }

    /// The next part, in the order of the list; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Arc<Event>>>, SyncError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (part, rest) = self.rest.split_at(self.rest.len().min(PART));
        self.rest = rest;
        if self.is_small {
            let mut found = self.room.events(self.rooms, part.iter().copied()).await?;
            return Ok(Some(
                part.iter().filter_map(|nr| found.remove(nr)).collect(),
            ));
        }
        let (key, wanted) = (self.room.key.clone(), part.to_vec());
        let found = self.rooms.database().look_up("many events", move |tx| {
            Box::pin(async move { events::by_number(tx, &key, &wanted).await })
        });
        let mut found = found.await?;
        let order: HashMap<EventNr, usize> = part
            .iter()
            .enumerate()
            .map(|(index, nr)| (*nr, index))
            .collect();
        found.sort_by_key(|event| order.get(&event.nr).copied());
        Ok(Some(found))
    }
}
