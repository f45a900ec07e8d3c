//! The states of one room that are in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use myelin_core::{
    number::SnapshotNr,
    state::{State, StateHash},
};

use crate::held::Held;

/// How many states of a room are kept in memory. They share what they have in common, so each
/// further one costs little; states from different chains are rare.
const CACHED_STATES: usize = 256;

/// The states of a room that are in memory.
#[derive(Debug, Default)]
pub(crate) struct StateCache(Mutex<Cached>);

#[derive(Debug)]
pub(crate) struct Cached {
    states: HashMap<SnapshotNr, (State, LinkPlace)>,
    pub(crate) by_hash: HashMap<(StateHash, bool), SnapshotNr>,
    oldest_first: VecDeque<SnapshotNr>,
    /// By number only: what they share makes it impossible to say how large each is.
    held: Held,
}

impl Default for Cached {
    fn default() -> Self {
        Self {
            states: HashMap::new(),
            by_hash: HashMap::new(),
            oldest_first: VecDeque::new(),
            held: Held::new("states"),
        }
    }
}

/// Where a stored state is in its chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkPlace {
    pub(crate) base: Option<SnapshotNr>,
    pub(crate) depth: u64,
    pub(crate) partial: bool,
}

impl StateCache {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, nr: SnapshotNr) -> Option<(State, LinkPlace)> {
        self.lock().states.get(&nr).cloned()
    }

    pub(crate) fn put(&self, nr: SnapshotNr, state: State, place: LinkPlace) {
        let mut cached = self.lock();
        cached.by_hash.insert((state.hash(), place.partial), nr);
        if cached.states.insert(nr, (state, place)).is_none() {
            cached.oldest_first.push_back(nr);
            cached.held.add(0);
        }
        while cached.oldest_first.len() > CACHED_STATES {
            let Some(oldest) = cached.oldest_first.pop_front() else {
                break;
            };
            cached.forget(oldest);
        }
    }

    pub(crate) fn forget(&self, snapshots: &[SnapshotNr]) {
        let mut cached = self.lock();
        for nr in snapshots {
            cached.forget(*nr);
        }
        cached.oldest_first.retain(|nr| !snapshots.contains(nr));
    }
}

impl Cached {
    fn forget(&mut self, nr: SnapshotNr) {
        if let Some((state, place)) = self.states.remove(&nr) {
            self.by_hash.remove(&(state.hash(), place.partial));
            self.held.remove(0);
        }
    }
}
