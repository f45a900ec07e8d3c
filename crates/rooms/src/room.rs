//! A room in memory: its numbering, what is known of its graph, and the order of changes to it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use futures_util::future::select;
use myelin_core::{
    completeness::StateRef,
    event::Event,
    key_table::{KeyTable, MEMBER, StateKey},
    number::{EventNr, KeyNr, SnapshotNr, StreamPosition},
    receive::KnownState,
    state::{HashKey, Membership, State},
};
use myelin_storage::{
    StorageError, Tx,
    events::{self, Known, RoomKey},
    joins::{self, PartialRoom},
    rooms::{self as room_table, LocalMembership, RoomRow},
};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, ServerName};
use tokio::sync::watch;

use crate::{Rooms, event_cache::EventCache, state_cache::StateCache, unread_cache::UnreadCache};

/// A room that this server knows. There is one for each while it is in use; whoever changes the room
/// holds its turn.
#[derive(Debug)]
pub struct Room {
    /// Its number, ID and version.
    pub key: RoomKey,
    pub(crate) hash_key: HashKey,
    /// The room's queue: held while events are loaded, decided and committed, never across the
    /// network. `None` as long as it isn't known what a write has changed: who comes next reads it
    /// again.
    pub(crate) turn: Arc<tokio::sync::Mutex<Option<Graph>>>,
    numbering: RwLock<Numbering>,
    current: RwLock<Option<CurrentState>>,
    users: RwLock<BTreeSet<OwnedUserId>>,
    pub(crate) states: StateCache,
    events: EventCache,
    unread: UnreadCache,
    /// Whether the room has a partial record: its resync isn't done.
    partial: watch::Sender<bool>,
    /// Whether it was deleted: what goes on in it comes to nothing.
    ended: watch::Sender<bool>,
    /// While the room is partial: the servers that were in it at the join.
    servers_at_join: RwLock<Arc<[String]>>,
    /// Pushed events that wait to be judged.
    pub(crate) inbound: crate::inbound::Inbound,
    /// Local sends that wait for the turn.
    sends: Mutex<VecDeque<crate::new_event::Waiting>>,
    /// Held during a backfill: one at a time (R61).
    pub(crate) backfilling: tokio::sync::Mutex<()>,
    /// Held while history that failed before is tried again.
    pub(crate) trying_again: Arc<tokio::sync::Mutex<()>>,
    /// Held while another server lets one of our users in.
    pub(crate) joining: tokio::sync::Mutex<()>,
}

/// What is known of the room's graph. Lives behind the turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    pub(crate) revision: i64,
    pub(crate) extremities: BTreeSet<EventNr>,
    pub(crate) current: Option<CurrentState>,
    pub(crate) min_depth: i64,
    /// The last state that was stored: the next is a small step from it.
    pub(crate) last_snapshot: Option<SnapshotNr>,
}

/// The current state and where it is stored.
#[derive(Clone, Debug)]
pub struct CurrentState {
    /// Where it is stored, and whether it is complete.
    pub reference: StateRef,
    /// The entries.
    pub state: State,
}

impl CurrentState {
    pub(crate) fn known(&self) -> KnownState {
        KnownState {
            state: self.state.clone(),
            completeness: self.reference.completeness(),
        }
    }
}

#[derive(Debug, Default)]
struct Numbering {
    table: KeyTable,
    unsaved: BTreeSet<KeyNr>,
}

/// A room's numbering, held for reading. Not to be kept across an await.
pub struct Keys<'a>(RwLockReadGuard<'a, Numbering>);

impl std::ops::Deref for Keys<'_> {
    type Target = KeyTable;

    fn deref(&self) -> &KeyTable {
        &self.0.table
    }
}

/// A room as it is stored, without its numbering.
struct Stored {
    row: RoomRow,
    extremities: Vec<EventNr>,
    partial: Option<PartialRoom>,
    members: Vec<LocalMembership>,
}

impl Stored {
    async fn read(tx: &mut Tx, room_id: &RoomId) -> Result<Option<Self>, StorageError> {
        let Some(row) = room_table::by_id(tx, room_id).await? else {
            return Ok(None);
        };
        let room = row.key.room;
        Ok(Some(Self {
            row,
            extremities: events::forward_extremities(tx, room).await?,
            partial: joins::partial_room(tx, room).await?,
            members: room_table::memberships_of_room(tx, room).await?,
        }))
    }
}

impl Room {
    /// Reads a room. `None` if this server does not know it.
    pub(crate) async fn load(
        rooms: &Rooms,
        room_id: &RoomId,
    ) -> Result<Option<Arc<Self>>, StorageError> {
        let room_id = room_id.to_owned();
        let read = rooms
            .database()
            .read("load a room", move |tx| {
                Box::pin(async move {
                    let Some(stored) = Stored::read(tx, &room_id).await? else {
                        return Ok(None);
                    };
                    let keys = room_table::state_keys(tx, stored.row.key.room).await?;
                    Ok(Some((stored, keys)))
                })
            })
            .await?;
        let Some((stored, keys)) = read else {
            return Ok(None);
        };
        let mut table = KeyTable::default();
        for (number, name) in keys {
            if table.intern(name).0 != number {
                return Err(StorageError::Corrupt(format!(
                    "state keys of {}",
                    stored.row.key.room_id
                )));
            }
        }
        let room = Arc::new(Self::new(rooms, stored.row.key.clone(), table));
        let graph = room.take_over(rooms, stored).await?;
        *room.turn.lock().await = Some(graph);
        Ok(Some(room))
    }

    /// The room's graph as it is stored, after a write of which it isn't known what became. Everything
    /// else in memory that the write may have changed is as it is stored, too.
    pub(crate) async fn read_again(self: &Arc<Self>, rooms: &Rooms) -> Result<Graph, StorageError> {
        let room_id = self.key.room_id.clone();
        let stored = rooms
            .database()
            .read("read a room again", move |tx| {
                Box::pin(async move { Stored::read(tx, &room_id).await })
            })
            .await?;
        self.events.lock().forget_all();
        match stored {
            // It was to be made with that write.
            None => Ok(Graph::default()),
            Some(stored) if stored.row.key.room != self.key.room => Err(StorageError::Gone),
            Some(stored) => self.take_over(rooms, stored).await,
        }
    }

    /// Makes what is stored what is in memory.
    async fn take_over(
        self: &Arc<Self>,
        rooms: &Rooms,
        stored: Stored,
    ) -> Result<Graph, StorageError> {
        let current = match stored.row.current {
            None => None,
            Some(reference) => {
                let state = self.state(rooms, reference.snapshot()).await?;
                Some(CurrentState { reference, state })
            }
        };
        match &stored.partial {
            Some(partial) => self.set_partial(partial),
            None => self.set_full(),
        }
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = stored
            .members
            .into_iter()
            .filter(|member| matches!(&member.membership[..], "join" | "invite" | "knock"))
            .map(|member| member.user_id)
            .collect();
        self.publish(current.clone());
        Ok(Graph {
            revision: stored.row.revision,
            extremities: stored.extremities.into_iter().collect(),
            last_snapshot: current.as_ref().map(|current| current.reference.snapshot()),
            current,
            min_depth: stored.row.min_depth,
        })
    }

    /// A room without anything in it.
    pub(crate) fn new(rooms: &Rooms, key: RoomKey, table: KeyTable) -> Self {
        Self {
            key,
            hash_key: rooms.hash_key(),
            turn: Arc::new(tokio::sync::Mutex::new(Some(Graph::default()))),
            numbering: RwLock::new(Numbering {
                table,
                unsaved: BTreeSet::new(),
            }),
            current: RwLock::default(),
            users: RwLock::default(),
            states: StateCache::default(),
            events: EventCache::default(),
            unread: UnreadCache::default(),
            partial: watch::channel(false).0,
            ended: watch::channel(false).0,
            servers_at_join: RwLock::default(),
            inbound: crate::inbound::Inbound::default(),
            sends: Mutex::default(),
            backfilling: tokio::sync::Mutex::default(),
            trying_again: Arc::default(),
            joining: tokio::sync::Mutex::default(),
        }
    }

    /// Local sends that wait for the turn.
    pub(crate) fn sends(&self) -> MutexGuard<'_, VecDeque<crate::new_event::Waiting>> {
        self.sends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbering.
    pub fn keys(&self) -> Keys<'_> {
        Keys(
            self.numbering
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Gives numbers to pairs that have none. They are stored with the next commit.
    pub(crate) fn intern(&self, keys: impl IntoIterator<Item = StateKey>) {
        let mut numbering = self
            .numbering
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            let (number, new) = numbering.table.intern(key);
            if new {
                numbering.unsaved.insert(number);
            }
        }
    }

    /// Numbers that are not stored yet.
    pub(crate) fn unsaved_keys(&self) -> Vec<(KeyNr, StateKey)> {
        let numbering = self
            .numbering
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let table = &numbering.table;
        numbering
            .unsaved
            .iter()
            .filter_map(|number| Some((*number, (**table.name(*number)?).clone())))
            .collect()
    }

    /// Notes that numbers were stored.
    pub(crate) fn keys_saved(&self, saved: &[(KeyNr, StateKey)]) {
        let mut numbering = self
            .numbering
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for (number, _) in saved {
            numbering.unsaved.remove(number);
        }
    }

    /// The current state; `None` as long as the room has no timeline here.
    pub fn current(&self) -> Option<CurrentState> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn publish(&self, current: Option<CurrentState>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
    }

    /// The state of a room without events.
    pub(crate) fn empty_state(&self) -> State {
        State::empty(self.hash_key)
    }

    /// Whether a server has a joined user, by the current state.
    pub fn has_server(&self, server: &ServerName) -> bool {
        self.current()
            .is_some_and(|current| current.state.has_server(server.as_str()))
    }

    /// Whether a user is in the room, as far as is known: while it is partial, somebody unknown may be.
    pub(crate) fn may_be_joined(&self, user: &ruma::UserId) -> bool {
        let Some(current) = self.current() else {
            return false;
        };
        let entry = current.state.get_named(&self.keys(), MEMBER, user.as_str());
        match entry {
            Some(entry) => entry.membership() == Some(Membership::Join),
            None => self.is_partial(),
        }
    }

    /// The local users that are told of what happens here: joined, invited or knocking.
    pub fn local_users(&self) -> Vec<OwnedUserId> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        users.iter().cloned().collect()
    }

    /// Whether a user is one of these.
    pub(crate) fn tells(&self, user: &ruma::UserId) -> bool {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        users.contains(user)
    }

    pub(crate) fn set_local_user(&self, user: &ruma::UserId, listens: bool) {
        let mut users = self.users.write().unwrap_or_else(PoisonError::into_inner);
        if listens {
            users.insert(user.to_owned());
        } else {
            users.remove(user);
        }
    }

    /// Whether the resync of a partial join isn't done.
    pub fn is_partial(&self) -> bool {
        *self.partial.borrow()
    }

    pub(crate) fn set_partial(&self, partial: &PartialRoom) {
        let servers = partial.servers.iter().chain([&partial.served_by]);
        *self
            .servers_at_join
            .write()
            .unwrap_or_else(PoisonError::into_inner) = servers.map(ToString::to_string).collect();
        self.partial.send_replace(true);
    }

    pub(crate) fn set_full(&self) {
        *self
            .servers_at_join
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::default();
        self.partial.send_replace(false);
    }

    /// The room was deleted. Who waits for its state gets what there is.
    pub(crate) fn end(&self) {
        self.ended.send_replace(true);
        self.set_full();
    }

    /// Whether the room was deleted.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Does something that goes on for long, until the room is deleted.
    pub(crate) async fn while_it_lasts(&self, work: impl Future<Output = ()>) {
        let mut ended = self.ended.subscribe();
        let end = ended.wait_for(|ended| *ended);
        drop(select(Box::pin(work), Box::pin(end)).await);
    }

    /// While the room is partial: the servers that were in it at the join, for an approximate list.
    pub(crate) fn servers_at_join(&self) -> Arc<[String]> {
        self.servers_at_join
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn watch_partial(&self) -> watch::Receiver<bool> {
        self.partial.subscribe()
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
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        let changes = {
            let cache = self.events.lock();
            for nr in numbers {
                match cache.get(nr) {
                    Some(event) => drop(found.insert(nr, event.clone())),
                    None => missing.push(nr),
                }
            }
            cache.changes()
        };
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
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        let changes = {
            let cache = self.events.lock();
            for id in ids {
                match cache.by_id(&id) {
                    Some(event) => drop(found.insert(id, Known::Held(event.clone()))),
                    None => missing.push(id),
                }
            }
            cache.changes()
        };
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

    /// What users have not read, as it was counted last.
    pub(crate) fn unread_cache(&self) -> &UnreadCache {
        &self.unread
    }

    /// The current state as of a position, for readers of the past.
    ///
    /// # Errors
    /// Any storage error.
    pub async fn state_at(
        self: &Arc<Self>,
        rooms: &Rooms,
        position: StreamPosition,
    ) -> Result<Option<CurrentState>, StorageError> {
        let room = self.key.room;
        let reference = rooms
            .database()
            .look_up("state at a position", move |tx| {
                Box::pin(async move { room_table::state_at(tx, room, position).await })
            })
            .await?;
        Ok(match reference {
            None => None,
            Some(reference) => {
                let state = self.state(rooms, reference.snapshot()).await?;
                Some(CurrentState { reference, state })
            }
        })
    }
}
