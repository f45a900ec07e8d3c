//! What has been loaded for one decision, and what was found missing while making it.
//!
//! State resolution silently drops events that it cannot fetch, and that would be a silent split of
//! the room. So every question that the desk cannot answer is recorded; **a result that was computed
//! while something was missing must be discarded** and computed again once it is loaded.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use ruma::{EventId, OwnedEventId};

use crate::{
    event::Event,
    number::{EventNr, SnapshotNr},
    state::State,
};

/// Something that can be loaded from this server's storage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needed {
    /// An event by its ID, which may turn out not to be held.
    EventById(OwnedEventId),
    /// An event by its number, which is held.
    Event(EventNr),
    /// The events that name an event among their auth events.
    AuthChildren(EventNr),
    /// A stored state.
    Snapshot(SnapshotNr),
}

/// The desk.
#[derive(Debug, Default)]
pub struct Desk {
    by_id: HashMap<OwnedEventId, Option<EventNr>>,
    events: HashMap<EventNr, Arc<Event>>,
    auth_children: HashMap<EventNr, Arc<[EventNr]>>,
    snapshots: HashMap<SnapshotNr, State>,
    missing: Mutex<BTreeSet<Needed>>,
    wanted_chains: Mutex<BTreeSet<EventNr>>,
}

impl Desk {
    /// Puts an event on the desk, in place of an older version of it.
    pub fn put_event(&mut self, event: Arc<Event>) {
        self.by_id
            .insert(event.pdu.event_id.clone(), Some(event.nr));
        self.events.insert(event.nr, event);
    }

    /// Notes that this server does not hold an event.
    pub fn put_absent(&mut self, id: OwnedEventId) {
        self.by_id.insert(id, None);
    }

    /// Puts the events that cite `event` among their auth events on the desk.
    pub fn put_auth_children(&mut self, event: EventNr, children: Arc<[EventNr]>) {
        self.auth_children.insert(event, children);
    }

    /// Puts a state on the desk.
    pub fn put_snapshot(&mut self, nr: SnapshotNr, state: State) {
        self.snapshots.insert(nr, state);
    }

    /// The same desk with an event on it that is being judged: resolution may meet it in the state
    /// after it. What is found missing there counts here after [`Desk::take_back`].
    pub(crate) fn with(&self, event: Arc<Event>) -> Self {
        let mut desk = Self {
            by_id: self.by_id.clone(),
            events: self.events.clone(),
            auth_children: self.auth_children.clone(),
            snapshots: self.snapshots.clone(),
            missing: Mutex::default(),
            wanted_chains: Mutex::default(),
        };
        desk.put_event(event);
        desk
    }

    /// Takes over what was found missing on a desk made by [`Desk::with`].
    pub(crate) fn take_back(&self, other: &Self) {
        self.missing().extend(other.take_missing());
        for event in other.take_wanted_chains() {
            self.want_auth_chain(event);
        }
    }

    /// An event by its ID; `None` if this server does not hold it, or if that isn't known yet.
    pub fn event_by_id(&self, id: &EventId) -> Option<&Arc<Event>> {
        match self.by_id.get(id) {
            Some(Some(nr)) => self.event(*nr),
            Some(None) => None,
            None => self.miss(Needed::EventById(id.to_owned())),
        }
    }

    /// Whether it is known that this server does not hold an event.
    pub fn lacks(&self, id: &EventId) -> bool {
        matches!(self.by_id.get(id), Some(None))
    }

    /// An event by its number.
    pub fn event(&self, nr: EventNr) -> Option<&Arc<Event>> {
        self.events
            .get(&nr)
            .or_else(|| self.miss(Needed::Event(nr)))
    }

    /// An event, if it happens to be here. For those who can do without: nothing is recorded.
    pub fn peek(&self, nr: EventNr) -> Option<&Arc<Event>> {
        self.events.get(&nr)
    }

    /// The events that cite `event` among their auth events.
    pub fn auth_children(&self, event: EventNr) -> Option<&Arc<[EventNr]>> {
        self.auth_children
            .get(&event)
            .or_else(|| self.miss(Needed::AuthChildren(event)))
    }

    /// A stored state.
    pub fn snapshot(&self, nr: SnapshotNr) -> Option<&State> {
        self.snapshots
            .get(&nr)
            .or_else(|| self.miss(Needed::Snapshot(nr)))
    }

    /// Notes that the walk along the auth chain of `event` came upon something missing. That is
    /// recorded as any other miss, one link of the chain after the other; who loads the whole chain
    /// at once saves that many rounds.
    pub fn want_auth_chain(&self, event: EventNr) {
        self.wanted_chains
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(event);
    }

    /// The events whose auth chains should come with what [`Desk::take_missing`] gives.
    pub fn take_wanted_chains(&self) -> BTreeSet<EventNr> {
        let mut wanted = self
            .wanted_chains
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *wanted)
    }

    fn missing(&self) -> std::sync::MutexGuard<'_, BTreeSet<Needed>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn miss<T>(&self, needed: Needed) -> Option<T> {
        self.missing().insert(needed);
        None
    }

    /// Whether nothing was found missing since the last call of [`Desk::take_missing`].
    pub fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// What was found missing since the last call. Empty means that everything computed since then
    /// can be relied on.
    pub fn take_missing(&self) -> BTreeSet<Needed> {
        std::mem::take(&mut *self.missing())
    }
}
