//! The pushed events of one room that wait to be judged.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use myelin_storage::staged::Staged;

/// The pushed events of a room that wait.
#[derive(Debug, Default)]
pub(crate) struct Inbound(Mutex<Waiting>);

/// What waits, and who works on it.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Staged events up to this one were decided or parked.
    pub(crate) cursor: i64,
    /// Rows that were committed after later ones begin behind this: the cursor goes back there.
    pub(crate) rewind: Option<i64>,
    pub(crate) working: bool,
    /// More was staged since the worker last looked.
    pub(crate) more: bool,
    pub(crate) parked: VecDeque<Staged>,
    pub(crate) settling: bool,
    pub(crate) backlog: usize,
    /// A join is under way: what arrives waits for it (R42).
    pub(crate) joining: bool,
}

impl Inbound {
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the worker look again from `first` on. Transactions of two servers can be committed in
    /// another order than they were numbered in, and none may be passed over.
    pub(crate) fn rewind_before(&self, first: Option<i64>) {
        let Some(first) = first else { return };
        let mut waiting = self.lock();
        let back = waiting.rewind.map_or(first - 1, |back| back.min(first - 1));
        waiting.rewind = Some(back);
    }

    pub(crate) fn set_joining(&self, joining: bool) {
        self.lock().joining = joining;
    }

    pub(crate) fn is_joining(&self) -> bool {
        self.lock().joining
    }
}
