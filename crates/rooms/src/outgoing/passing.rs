//! EDUs that are of no use later: a restart, a failing server or too many others may end them.

use std::{collections::VecDeque, sync::Arc};

use serde_json::value::RawValue;

/// How many are kept for a server.
const MOST_PASSING: usize = 100;

/// One of them.
#[derive(Debug)]
pub(crate) struct PassingEdu {
    /// What it is about: of two with the same key, the later one counts.
    pub(crate) key: String,
    pub(crate) edu: Box<RawValue>,
}

/// Those that wait for one server.
#[derive(Debug, Default)]
pub(super) struct Passing(VecDeque<Arc<PassingEdu>>);

impl Passing {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one in place of one with the same key, or of the oldest.
    pub(super) fn add(&mut self, edu: Arc<PassingEdu>) {
        self.0.retain(|other| other.key != edu.key);
        if self.0.len() == MOST_PASSING {
            self.0.pop_front();
        }
        self.0.push_back(edu);
    }

    /// Takes the oldest, `limit` at most.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Box<RawValue>> {
        let taken = self.0.drain(..limit.min(self.0.len()));
        taken.map(|passing| passing.edu.clone()).collect()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Passing, PassingEdu, RawValue};

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
}
