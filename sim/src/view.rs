//! What a server holds, read from its database: what the checkers compare.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    sync::Arc,
};

use myelin_core::{
    completeness::Completeness,
    event::{Event, Verdict},
    number::{EventNr, SnapshotNr, StreamPosition},
};
use myelin_rooms::{Room, Rooms};
use myelin_server::Assembled;
use myelin_storage::{
    Database, StorageError, events,
    joins::{self, PartialRoom},
    params,
    queues::{self, Queues},
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};

/// Which events are held in a room.
const HELD: &str = "SELECT event FROM events WHERE room = $1 AND verdict > 0 ORDER BY event";

/// What could not be had, and is asked for again only after hours.
const FAILED_PULLS: &str = "SELECT COUNT(*) FROM pull_failures";

/// What waits at a server.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The queues.
    pub queues: Queues,
    /// Joins that were begun.
    pub joins: usize,
    /// Rooms whose state is partial, and what became of the attempts to complete it.
    pub partial: Vec<(OwnedRoomId, PartialRoom)>,
}

impl Waiting {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let Queues {
            staged,
            edus,
            behind,
            ..
        } = self.queues;
        [staged, edus, behind] == [0; 3] && self.joins == 0 && self.partial.is_empty()
    }
}

/// The IDs of a state's events, in order.
pub type StateIds = Arc<BTreeSet<OwnedEventId>>;

/// What a server thinks of an event.
#[derive(Clone, Debug)]
pub struct Opinion {
    /// The event, as the server has it.
    pub event: Arc<Event>,
    /// The state before the event, if it is in the timeline.
    pub before: Option<StateIds>,
}

impl Opinion {
    /// What the checks said.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.event.verdict
    }

    /// Whether the state before the event lacks memberships.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        let before = self.event.before();
        before.is_some_and(|before| before.completeness() != Completeness::FULL)
    }

    /// What the event says, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let pdu = &self.event.pdu;
        let key = pdu.state_key.as_deref().unwrap_or("-");
        let place = self.event.place;
        format!("{} {key} by {} at {place:?}", pdu.event_type, pdu.sender)
    }
}

/// What a server knows of a room whose state is partial.
#[derive(Clone, Debug)]
pub struct Partial {
    /// The servers that may be asked for the rest: those in it, and those that were named when it was joined.
    pub askable: BTreeSet<String>,
    /// The parents, not held, of its first event whose state is partial: the state after them is asked for.
    pub wanted: BTreeSet<OwnedEventId>,
}

/// What a server holds of a room.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// All events, by ID.
    pub events: BTreeMap<OwnedEventId, Opinion>,
    /// Those that clients are shown, in order.
    pub timeline: Vec<OwnedEventId>,
    /// The current state.
    pub current: StateIds,
    /// The servers in the room by that state.
    pub servers: BTreeSet<String>,
    /// Whether its state is partial and nobody can tell the rest of it.
    pub is_forsaken: bool,
}

impl View {
    /// Reads it; nothing if the server doesn't know the room.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn read(server: &Server, room_id: &RoomId) -> Result<Option<Self>, StorageError> {
        let Some(room) = server.rooms.room(room_id).await? else {
            return Ok(None);
        };
        let held = server.held(&room).await?;
        let by_number: BTreeMap<EventNr, Arc<Event>> =
            held.into_iter().map(|event| (event.nr, event)).collect();
        let mut states = BTreeMap::new();
        let mut view = Self::default();
        for event in by_number.values() {
            let before = match event.before() {
                None => None,
                Some(before) => {
                    let nr = before.snapshot();
                    if let std::collections::btree_map::Entry::Vacant(vacant) = states.entry(nr) {
                        vacant.insert(server.state(&room, nr, &by_number).await?);
                    }
                    states.get(&nr).cloned()
                }
            };
            let opinion = Opinion {
                event: Arc::clone(event),
                before,
            };
            view.events.insert(event.id().to_owned(), opinion);
        }
        view.timeline = server.timeline(&room).await?;
        if let Some(current) = room.current() {
            view.current = ids(&current.state, &by_number);
        }
        view.servers = server.servers(room_id).await?;
        Ok(Some(view))
    }

    /// What the server thinks of an event.
    #[must_use]
    pub fn opinion(&self, id: &str) -> Option<&Opinion> {
        let id: &EventId = id.try_into().ok()?;
        self.events.get(id)
    }
}

fn ids(state: &myelin_core::state::State, events: &BTreeMap<EventNr, Arc<Event>>) -> StateIds {
    let of = |event: EventNr| events.get(&event).map(|event| event.id().to_owned());
    Arc::new(
        state
            .entries()
            .filter_map(|(_, entry)| of(entry.event()))
            .collect(),
    )
}

/// The parts of a server that are looked into.
#[derive(Clone)]
pub struct Server {
    /// Its database.
    pub database: Database,
    /// Its rooms.
    pub rooms: Rooms,
}

impl Server {
    /// The parts of a server that runs.
    #[must_use]
    pub fn of(server: &Assembled) -> Self {
        Self {
            database: server.database().clone(),
            rooms: server.rooms().clone(),
        }
    }

    /// What waits there.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn waiting(&self) -> Result<Waiting, StorageError> {
        let read = self.database.read("what waits", |tx| {
            Box::pin(async move {
                let queues = queues::count(tx).await?;
                let joins = joins::joins(tx).await?.len();
                Ok((queues, joins, joins::partial_rooms(tx).await?))
            })
        });
        let (queues, joins, records) = read.await?;
        let mut partial = Vec::new();
        for record in records {
            if let Some(room) = self.rooms.room_by_nr(record.room).await? {
                partial.push((room.key.room_id.clone(), record));
            }
        }
        Ok(Waiting {
            queues,
            joins,
            partial,
        })
    }

    /// Whether it will not ask for something for hours, because it did not get it.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn rests(&self) -> Result<bool, StorageError> {
        let read = self.database.read("failed pulls", |tx| {
            Box::pin(async move {
                let row = tx.query_opt(FAILED_PULLS, params![]).await?;
                row.map_or(Ok(false), |row| Ok(row.int(0)? > 0))
            })
        });
        read.await
    }

    /// The servers in a room by the state that this one knows.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn servers(&self, room_id: &RoomId) -> Result<BTreeSet<String>, StorageError> {
        let room = self.rooms.room(room_id).await?;
        let current = room.and_then(|room| room.current());
        let names = current.map(|current| {
            let servers = current.state.servers();
            servers.map(|(name, _)| name.to_string()).collect()
        });
        Ok(names.unwrap_or_default())
    }

    /// What was noted about a room whose state is partial.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn partial_room(&self, room_id: &RoomId) -> Result<Option<Partial>, StorageError> {
        let Some(room) = self.rooms.room(room_id).await? else {
            return Ok(None);
        };
        let key = room.key.clone();
        let read = self.database.read("a partial room", move |tx| {
            Box::pin(async move {
                let Some(record) = joins::partial_room(tx, key.room).await? else {
                    return Ok(None);
                };
                let first = events::partial_events(tx, key.room, 1).await?;
                let first = events::by_number(tx, &key, &first).await?;
                Ok(Some((record, first)))
            })
        });
        let Some((record, first)) = read.await? else {
            return Ok(None);
        };
        let parents = first.iter().flat_map(|first| &first.pdu.prev_events);
        let mut wanted: BTreeSet<OwnedEventId> = parents.cloned().collect();
        for placed in self.placed(room_id, &wanted).await? {
            wanted.remove(&placed);
        }
        let mut askable = self.servers(room_id).await?;
        let named = iter::once(record.served_by).chain(record.servers);
        askable.extend(named.map(|server| server.to_string()));
        Ok(Some(Partial { askable, wanted }))
    }

    /// Which of some events of a room are in its timeline.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn placed(
        &self,
        room_id: &RoomId,
        ids: &BTreeSet<OwnedEventId>,
    ) -> Result<BTreeSet<OwnedEventId>, StorageError> {
        let Some(room) = self.rooms.room(room_id).await? else {
            return Ok(BTreeSet::new());
        };
        let (key, wanted): (_, Vec<_>) = (room.key.clone(), ids.iter().cloned().collect());
        let read = self.database.read("some events of a room", move |tx| {
            Box::pin(async move { events::by_id(tx, &key, &wanted).await })
        });
        let known = read.await?.into_iter();
        let placed = known.filter(
            |(_, known)| matches!(known, events::Known::Held(event) if event.in_timeline()),
        );
        Ok(placed.map(|(id, _)| id).collect())
    }

    /// Whether what it knows of a room's state is partial.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn is_partial(&self, room_id: &RoomId) -> Result<bool, StorageError> {
        let room = self.rooms.room(room_id).await?;
        Ok(room.is_some_and(|room| room.is_partial()))
    }

    async fn held(&self, room: &Arc<Room>) -> Result<Vec<Arc<Event>>, StorageError> {
        let key = room.key.clone();
        let read = self.database.read("all events of a room", move |tx| {
            Box::pin(async move {
                let rows = tx.query(HELD, params![key.room.0]).await?;
                let numbers: Result<Vec<_>, _> =
                    rows.iter().map(|row| row.int(0).map(EventNr)).collect();
                events::by_number(tx, &key, &numbers?).await
            })
        });
        read.await
    }

    async fn state(
        &self,
        room: &Arc<Room>,
        nr: SnapshotNr,
        events: &BTreeMap<EventNr, Arc<Event>>,
    ) -> Result<StateIds, StorageError> {
        let state = room.state(&self.rooms, nr).await?;
        Ok(ids(&state, events))
    }

    async fn timeline(&self, room: &Arc<Room>) -> Result<Vec<OwnedEventId>, StorageError> {
        let key = room.key.clone();
        let read = self.database.read("a room's timeline", move |tx| {
            Box::pin(async move {
                let span = (StreamPosition(0), StreamPosition(i64::MAX));
                let direction = events::Direction::Forward;
                let numbers = events::timeline(tx, key.room, direction, span, 1_000_000).await?;
                let found = events::by_number(tx, &key, &numbers).await?;
                let by_number: BTreeMap<_, _> =
                    found.into_iter().map(|event| (event.nr, event)).collect();
                let ids = numbers.iter().filter_map(|nr| by_number.get(nr));
                Ok(ids.map(|event| event.id().to_owned()).collect())
            })
        });
        read.await
    }
}
