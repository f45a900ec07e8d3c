//! What several states share, and where they differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{AuthState, ResolutionError};
use crate::{
    auth,
    desk::Desk,
    event::Event,
    key_table::{KeyTable, StateKey},
    number::{EventNr, KeyNr},
    room_version::RoomVersion,
    state::State,
};

/// Several maps of one room, taken apart. ("Unconflicted state map and conflicted state set".)
pub(super) struct Conflict<'a> {
    shared: Shared<'a>,
    /// For each map, its entries of the conflicted keys.
    differing: Vec<AuthState>,
}

enum Shared<'a> {
    /// Everything in `state` but the conflicted keys.
    State {
        keys: &'a KeyTable,
        state: &'a State,
        conflicted: BTreeSet<KeyNr>,
    },
    Map(BTreeMap<StateKey, EventNr>),
}

/// The states without repetitions.
pub(super) fn distinct(states: &[State]) -> Vec<&State> {
    states
        .iter()
        .map(|state| (state.hash(), state))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .collect()
}

/// The key of a state event.
pub(super) fn name_of(event: &Event) -> Option<StateKey> {
    Some(StateKey::new(
        event.pdu.event_type.to_string(),
        event.pdu.state_key.as_deref()?,
    ))
}

/// The entries that a state has for some keys.
pub(super) fn load(
    keys: &KeyTable,
    desk: &Desk,
    state: &State,
    names: impl Iterator<Item = StateKey>,
) -> Result<AuthState, ResolutionError> {
    let mut complete = true;
    let mut loaded = AuthState::new();
    for name in names {
        let Some(entry) = state.get_named(keys, &name.event_type, &name.state_key) else {
            continue;
        };
        match desk.event(entry.event()) {
            Some(event) => _ = loaded.insert(name, event.clone()),
            None => complete = false,
        }
    }
    complete
        .then_some(loaded)
        .ok_or(ResolutionError::Incomplete)
}

impl<'a> Conflict<'a> {
    /// Takes states apart, and loads the entries in which they differ.
    pub(super) fn between_states(
        keys: &'a KeyTable,
        desk: &Desk,
        states: &[&'a State],
    ) -> Result<Self, ResolutionError> {
        let Some((first, others)) = states.split_first() else {
            return Err(ResolutionError::NoState);
        };
        let conflicted = others
            .iter()
            .flat_map(|other| first.diff(other))
            .map(|change| change.key)
            .collect::<BTreeSet<_>>();
        let names = || {
            conflicted
                .iter()
                .filter_map(|key| keys.name(*key))
                .map(|name| (**name).clone())
        };
        // All are tried before the first failure counts, so that one round asks for everything.
        let differing = states
            .iter()
            .map(|state| load(keys, desk, state, names()))
            .collect::<Vec<_>>();
        let differing = differing.into_iter().collect::<Result<_, _>>()?;
        Ok(Self {
            shared: Shared::State {
                keys,
                state: first,
                conflicted,
            },
            differing,
        })
    }

    /// Takes two small maps apart; the second value is what they share.
    pub(super) fn between_maps(one: &AuthState, other: &AuthState) -> (Self, AuthState) {
        let is_shared = |name: &StateKey| {
            one.get(name).map(|event| event.nr) == other.get(name).map(|event| event.nr)
        };
        let (shared, one): (AuthState, AuthState) = one
            .clone()
            .into_iter()
            .partition(|(name, _)| is_shared(name));
        let other = other
            .iter()
            .filter(|(name, _)| !shared.contains_key(name))
            .map(|(name, event)| (name.clone(), event.clone()));
        let numbers = shared
            .iter()
            .map(|(name, event)| (name.clone(), event.nr))
            .collect();
        (
            Self {
                shared: Shared::Map(numbers),
                differing: vec![one, other.collect()],
            },
            shared,
        )
    }

    /// Whether nothing differs.
    pub(super) fn is_empty(&self) -> bool {
        self.differing.iter().all(BTreeMap::is_empty)
    }

    /// For each map, its entries of the conflicted keys.
    pub(super) fn differing(&self) -> &[AuthState] {
        &self.differing
    }

    /// All conflicted events; one that several maps have comes several times.
    pub(super) fn events(&self) -> impl Iterator<Item = &Arc<Event>> + Clone {
        self.differing.iter().flat_map(BTreeMap::values)
    }

    /// The conflicted keys, if what was taken apart are states.
    pub(super) fn numbered_keys(&self) -> impl Iterator<Item = KeyNr> + '_ {
        let conflicted = match &self.shared {
            Shared::State { conflicted, .. } => Some(conflicted),
            Shared::Map(_) => None,
        };
        conflicted.into_iter().flatten().copied()
    }

    /// The shared entry of a key.
    pub(super) fn shared(&self, event_type: &str, state_key: &str) -> Option<EventNr> {
        match &self.shared {
            Shared::State {
                keys,
                state,
                conflicted,
            } => {
                let key = keys.number(event_type, state_key)?;
                if conflicted.contains(&key) {
                    return None;
                }
                state.get(key).map(|entry| entry.event())
            }
            Shared::Map(map) => map.get(&StateKey::new(event_type, state_key)).copied(),
        }
    }

    /// Whether an event is a shared entry: whatever else is true of it, every map has it.
    pub(super) fn shares(&self, event: &Event) -> bool {
        event.pdu.state_key.as_deref().is_some_and(|state_key| {
            self.shared(&event.pdu.event_type.to_string(), state_key) == Some(event.nr)
        })
    }

    /// How many entries are shared; at most that many, where it isn't known cheaply.
    pub(super) fn shared_len(&self) -> usize {
        match &self.shared {
            Shared::State { state, .. } => state.len(),
            Shared::Map(map) => map.len(),
        }
    }

    /// All shared entries.
    pub(super) fn all_shared(&self) -> Box<dyn Iterator<Item = EventNr> + '_> {
        match &self.shared {
            Shared::State {
                state, conflicted, ..
            } => Box::new(
                state
                    .entries()
                    .filter(|(key, _)| !conflicted.contains(key))
                    .map(|(_, entry)| entry.event()),
            ),
            Shared::Map(map) => Box::new(map.values().copied()),
        }
    }

    /// The shared entries that the authorisation rules look at for any of `events`; `None` if some
    /// are not on the desk.
    pub(super) fn shared_auth_events<'e>(
        &self,
        version: RoomVersion,
        desk: &Desk,
        events: impl Iterator<Item = &'e Arc<Event>>,
    ) -> Option<AuthState> {
        let mut complete = true;
        let mut found = AuthState::new();
        for event in events {
            // Where this fails, the event is malformed and the replay skips it.
            for name in auth::auth_keys(version, &event.pdu).unwrap_or_default() {
                if found.contains_key(&name) {
                    continue;
                }
                let Some(nr) = self.shared(&name.event_type, &name.state_key) else {
                    continue;
                };
                match desk.event(nr) {
                    Some(event) => _ = found.insert(name, event.clone()),
                    None => complete = false,
                }
            }
        }
        complete.then_some(found)
    }
}
