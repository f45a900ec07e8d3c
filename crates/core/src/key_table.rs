//! One room's numbering of (type, state key) pairs.

use std::{collections::HashMap, sync::Arc};

use crate::number::KeyNr;

/// The type of membership events.
pub const MEMBER: &str = "m.room.member";

/// A (type, state key) pair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    /// The event type.
    pub event_type: String,
    /// The state key.
    pub state_key: String,
}

impl StateKey {
    /// Pairs a type with a state key.
    pub fn new(event_type: impl Into<String>, state_key: impl Into<String>) -> Self {
        Self {
            event_type: event_type.into(),
            state_key: state_key.into(),
        }
    }

    /// The server of the user whose membership this is; `None` for other keys.
    pub fn member_server(&self) -> Option<&str> {
        if self.event_type != MEMBER {
            return None;
        }
        self.state_key.split_once(':').map(|(_, server)| server)
    }
}

/// The numbering. It only grows; numbers are dense, odd for memberships and even for the rest.
#[derive(Clone, Debug, Default)]
pub struct KeyTable {
    numbers: HashMap<Arc<StateKey>, KeyNr>,
    members: Vec<Arc<StateKey>>,
    others: Vec<Arc<StateKey>>,
}

impl KeyTable {
    /// The number of a pair, if it has one.
    pub fn number(&self, event_type: &str, state_key: &str) -> Option<KeyNr> {
        self.numbers
            .get(&StateKey::new(event_type, state_key))
            .copied()
    }

    /// The pair behind a number.
    pub fn name(&self, key: KeyNr) -> Option<&Arc<StateKey>> {
        let family = if key.is_member() {
            &self.members
        } else {
            &self.others
        };
        family.get((key.0 >> 1) as usize)
    }

    /// The number of a pair, giving it one if it has none. The flag tells whether it is new and
    /// must be stored.
    pub fn intern(&mut self, key: StateKey) -> (KeyNr, bool) {
        if let Some(number) = self.numbers.get(&key) {
            return (*number, false);
        }
        let is_member = key.event_type == MEMBER;
        let family = if is_member {
            &mut self.members
        } else {
            &mut self.others
        };
        let number = KeyNr((family.len() as u32) << 1 | u32::from(is_member));
        let key = Arc::new(key);
        family.push(key.clone());
        self.numbers.insert(key, number);
        (number, true)
    }

    /// How many pairs have a number.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether no pair has a number yet.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}
