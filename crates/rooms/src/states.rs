//! Stored states of one room: loading a chain of deltas, storing one more link.

use std::sync::Arc;

use myelin_core::{
    number::{KeyNr, SnapshotNr},
    receive::KnownState,
    state::{Entry, State, StateHash},
    state_codec::{self, delta_base_depth},
};
use myelin_storage::{
    StorageError, Tx,
    snapshots::{self, Chunk, Link},
};

use crate::{
    Rooms,
    room::Room,
    state_cache::{LinkPlace, StateCache},
};

/// A state that has to be stored with the event that refers to it.
#[derive(Clone, Debug)]
pub(crate) struct NewSnapshot {
    pub(crate) nr: SnapshotNr,
    hash: StateHash,
    link: Link,
    chunks: Vec<Chunk>,
}

impl NewSnapshot {
    /// Writes it.
    pub(crate) async fn put(&self, tx: &mut Tx, room: &Room) -> Result<(), StorageError> {
        snapshots::put(tx, room.key.room, self.nr, self.hash, &self.link).await?;
        for chunk in &self.chunks {
            snapshots::put_chunk(tx, self.nr, chunk).await?;
        }
        Ok(())
    }
}

/// States that are in memory and are to be stored. When this is dropped without that, they are
/// forgotten, or later events would refer to something that is stored nowhere.
pub(crate) struct Unstored {
    room: Arc<Room>,
    snapshots: Vec<SnapshotNr>,
}

impl Unstored {
    pub(crate) fn new(room: &Arc<Room>) -> Self {
        Self {
            room: room.clone(),
            snapshots: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, nr: SnapshotNr) {
        self.snapshots.push(nr);
    }

    pub(crate) fn are_stored(&mut self) {
        self.snapshots.clear();
    }
}

impl Drop for Unstored {
    fn drop(&mut self) {
        if !self.snapshots.is_empty() {
            self.room.states.forget(&self.snapshots);
        }
    }
}

/// A chain as it was read: the newest link first, down to a state in memory or a base.
struct Chain {
    deltas: Vec<Vec<u8>>,
    place: LinkPlace,
    start: Start,
}

enum Start {
    Memory(State),
    Chunks(Vec<Chunk>),
}

/// Reads links until one is in memory or in chunks.
async fn read_chain(
    tx: &mut Tx,
    cache: &StateCache,
    nr: SnapshotNr,
) -> Result<Chain, StorageError> {
    let mut deltas = Vec::new();
    let mut newest = None;
    let mut at = nr;
    loop {
        if let Some((state, place)) = cache.get(at) {
            let place = newest.unwrap_or(place);
            return Ok(Chain {
                deltas,
                place,
                start: Start::Memory(state),
            });
        }
        let link = snapshots::link(tx, at)
            .await?
            .ok_or_else(|| StorageError::Corrupt(format!("snapshot {at} is missing")))?;
        let place = LinkPlace {
            base: link.base,
            depth: link.depth,
            partial: link.partial,
        };
        let place = *newest.get_or_insert(place);
        match (link.base, link.delta) {
            (Some(base), Some(delta)) => {
                deltas.push(delta);
                at = base;
            }
            _ => {
                let chunks = snapshots::chunks(tx, at).await?;
                return Ok(Chain {
                    deltas,
                    place,
                    start: Start::Chunks(chunks),
                });
            }
        }
    }
}

impl Chain {
    fn build(self, room: &Room) -> Result<State, StorageError> {
        let corrupt =
            |error: state_codec::CorruptState| StorageError::Corrupt(format!("state: {error}"));
        let keys = room.keys();
        let mut state = match self.start {
            Start::Memory(state) => state,
            Start::Chunks(chunks) => {
                let mut entries: Vec<(KeyNr, Entry)> = Vec::new();
                for chunk in chunks {
                    entries.extend(state_codec::decode_chunk(&chunk.entries).map_err(corrupt)?);
                }
                State::from_entries(room.hash_key, &keys, entries)
            }
        };
        let deltas = self
            .deltas
            .iter()
            .rev()
            .map(|delta| state_codec::decode_delta(delta))
            .collect::<Result<Vec<_>, _>>()
            .map_err(corrupt)?;
        for (key, entry) in state_codec::merge_deltas(deltas) {
            state.set(&keys, key, entry);
        }
        Ok(state)
    }
}

impl Room {
    /// A stored state.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if there is no such state.
    pub async fn state(
        self: &Arc<Self>,
        rooms: &Rooms,
        nr: SnapshotNr,
    ) -> Result<State, StorageError> {
        Ok(self.state_and_place(rooms, nr).await?.0)
    }

    async fn state_and_place(
        self: &Arc<Self>,
        rooms: &Rooms,
        nr: SnapshotNr,
    ) -> Result<(State, LinkPlace), StorageError> {
        if let Some(cached) = self.states.get(nr) {
            return Ok(cached);
        }
        let room = self.clone();
        let chain = rooms
            .database()
            .read("load a state", move |tx| {
                Box::pin(async move { read_chain(tx, &room.states, nr).await })
            })
            .await?;
        let place = chain.place;
        let state = chain.build(self)?;
        self.states.put(nr, state.clone(), place);
        Ok((state, place))
    }

    /// The number of a stored state equal to `known`, and what has to be stored for it. A new one
    /// becomes a delta over `predecessor` or one of its ancestors.
    pub(crate) async fn place_state(
        self: &Arc<Self>,
        rooms: &Rooms,
        known: &KnownState,
        predecessor: Option<SnapshotNr>,
    ) -> Result<(SnapshotNr, Option<NewSnapshot>), StorageError> {
        let hash = known.state.hash();
        let partial = known.completeness.to_stored();
        let cached = self.states.lock().by_hash.get(&(hash, partial)).copied();
        if let Some(nr) = cached {
            return Ok((nr, None));
        }
        let room = self.key.room;
        let stored = rooms
            .database()
            .look_up("find a state", move |tx| {
                Box::pin(async move { snapshots::by_hash(tx, room, hash, partial).await })
            })
            .await?;
        if let Some(nr) = stored {
            return Ok((nr, None));
        }
        let nr = rooms.numbers().snapshot();
        let (link, chunks) = self.link(rooms, &known.state, partial, predecessor).await?;
        let place = LinkPlace {
            base: link.base,
            depth: link.depth,
            partial,
        };
        self.states.put(nr, known.state.clone(), place);
        Ok((
            nr,
            Some(NewSnapshot {
                nr,
                hash,
                link,
                chunks,
            }),
        ))
    }

    /// How a new state is stored.
    async fn link(
        self: &Arc<Self>,
        rooms: &Rooms,
        state: &State,
        partial: bool,
        predecessor: Option<SnapshotNr>,
    ) -> Result<(Link, Vec<Chunk>), StorageError> {
        if let Some(predecessor) = predecessor
            && let Some((depth, base, before)) =
                self.delta_base(rooms, predecessor, partial).await?
        {
            let changes = before.diff(state);
            if changes.len() <= state.len() / 2 + 8 {
                let delta = Some(state_codec::encode_delta(&changes));
                return Ok((
                    Link {
                        base: Some(base),
                        depth,
                        delta,
                        partial,
                    },
                    Vec::new(),
                ));
            }
        }
        let chunks = state_codec::encode_base(state)
            .into_iter()
            .map(|chunk| Chunk {
                members: chunk.members,
                first_key: chunk.first_key,
                entries: chunk.bytes,
            })
            .collect();
        Ok((
            Link {
                base: None,
                depth: 0,
                delta: None,
                partial,
            },
            chunks,
        ))
    }

    /// The ancestor that a delta after `predecessor` starts from, and the delta's depth. None if it
    /// is time for a new base, or if a full state would come to depend on a partial one.
    async fn delta_base(
        self: &Arc<Self>,
        rooms: &Rooms,
        predecessor: SnapshotNr,
        partial: bool,
    ) -> Result<Option<(u64, SnapshotNr, State)>, StorageError> {
        let (mut state, mut place) = self.state_and_place(rooms, predecessor).await?;
        if place.partial && !partial {
            return Ok(None);
        }
        let depth = place.depth + 1;
        let Some(base_depth) = delta_base_depth(depth) else {
            return Ok(None);
        };
        let mut nr = predecessor;
        while place.depth > base_depth {
            let Some(base) = place.base else {
                return Ok(None);
            };
            (state, place) = self.state_and_place(rooms, base).await?;
            nr = base;
        }
        Ok(Some((depth, nr, state)))
    }
}
