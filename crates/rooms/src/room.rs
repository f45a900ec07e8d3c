//! A room in memory: its numbering, what is known of its graph, and the order of changes to it.

mod events;
mod stored;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
};

use futures_util::future::select;
use myelin_core::{
    completeness::StateRef,
    key_table::{KeyTable, MEMBER, StateKey},
    number::{EventNr, KeyNr, SnapshotNr, StreamPosition},
    receive::KnownState,
    state::{HashKey, Membership, State},
};
use myelin_storage::{StorageError, events::RoomKey, joins::PartialRoom, rooms as room_table};
use ruma::{OwnedUserId, ServerName};
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

impl Room {
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
