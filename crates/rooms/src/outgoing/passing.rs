//! EDUs that are of no use later: a restart, a failing server or too many others may end them.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use ruma::OwnedUserId;
use serde_json::value::RawValue;

/// How many are kept for a server.
const MOST_PASSING: usize = 100;

/// How many users a server is told of at once that are there, or aren't any more.
const TOLD_TOGETHER: usize = 100;

/// Of how many it has yet to be told at most.
const MOST_TOLD: usize = 1_000;

/// One of them.
#[derive(Debug)]
pub(crate) struct PassingEdu {
    /// What it is about: of two with the same key, the later one counts.
    pub(crate) key: String,
    pub(crate) edu: Box<RawValue>,
}

/// Those that wait for one server.
#[derive(Debug, Default)]
pub(super) struct Passing {
    edus: VecDeque<Arc<PassingEdu>>,
    /// Of whose presence it has to be told, as it is by then.
    presence: BTreeSet<OwnedUserId>,
}

impl Passing {
    pub(super) fn is_empty(&self) -> bool {
        self.edus.is_empty() && self.presence.is_empty()
    }

    /// Adds one in place of one with the same key, or of the oldest.
    pub(super) fn add(&mut self, edu: Arc<PassingEdu>) {
        self.edus.retain(|other| other.key != edu.key);
        if self.edus.len() == MOST_PASSING {
            self.edus.pop_front();
        }
        self.edus.push_back(edu);
    }

    /// Takes the oldest, `limit` at most.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Box<RawValue>> {
        let taken = self.edus.drain(..limit.min(self.edus.len()));
        taken.map(|passing| passing.edu.clone()).collect()
    }

    /// Adds users of whose presence the server has to be told.
    pub(super) fn add_presence(&mut self, users: BTreeSet<OwnedUserId>) {
        let room = MOST_TOLD.saturating_sub(self.presence.len());
        self.presence.extend(users.into_iter().take(room));
    }

    /// Takes some of them.
    pub(super) fn take_presence(&mut self) -> Vec<OwnedUserId> {
        let last = self.presence.iter().nth(TOLD_TOGETHER).cloned();
        let rest = last.map(|last| self.presence.split_off(&last));
        let taken = std::mem::replace(&mut self.presence, rest.unwrap_or_default());
        taken.into_iter().collect()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, BTreeSet, OwnedUserId, Passing, PassingEdu, RawValue};

    fn edu(key: usize, text: &str) -> Arc<PassingEdu> {
        Arc::new(PassingEdu {
            key: key.to_string(),
            edu: RawValue::from_string(format!("\"{text}\"")).expect("JSON"),
        })
    }

    fn texts(taken: &[Box<RawValue>]) -> Vec<&str> {
        taken
            .iter()
            .map(|edu| edu.get().trim_matches('"'))
            .collect()
    }

    #[test]
    fn of_two_edus_about_the_same_the_later_one_is_sent() {
        let mut passing = Passing::default();
        passing.add(edu(1, "types"));
        passing.add(edu(2, "other"));
        passing.add(edu(1, "types no more"));
        assert_eq!(texts(&passing.take(100)), ["other", "types no more"]);
        assert!(passing.is_empty());
    }

    #[test]
    fn the_oldest_of_more_than_100_edus_are_given_up() {
        let mut passing = Passing::default();
        for number in 0..130 {
            passing.add(edu(number, &number.to_string()));
        }
        assert_eq!(texts(&passing.take(2)), ["30", "31"]);
        let rest = passing.take(1_000);
        assert_eq!((rest.len(), texts(&rest)[97]), (98, "129"));
    }

    #[test]
    fn a_server_is_told_of_100_users_at_once_and_of_each_once() {
        let user = |number: usize| OwnedUserId::try_from(format!("@u{number:04}:x.example"));
        let users: BTreeSet<_> = (0..1_050).map(|n| user(n).expect("a user ID")).collect();
        let mut passing = Passing::default();
        passing.add_presence(users.iter().take(150).cloned().collect());
        passing.add_presence(users.iter().take(150).cloned().collect());
        assert_eq!(passing.take_presence().len(), 100);
        assert_eq!(passing.take_presence().len(), 50);
        assert!(passing.is_empty());
        passing.add_presence(users);
        let mut told = 0;
        while !passing.is_empty() {
            told += passing.take_presence().len();
        }
        assert_eq!(told, 1_000);
    }
}
