//! Which state events a client needs besides those in a room's timeline.

use std::collections::{BTreeMap, HashSet};

use myelin_core::{
    number::{EventNr, KeyNr},
    state::State,
};

/// The states between which a client moves with one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// What the client has; `None`: nothing of this room.
    pub(crate) base: Option<&'a State>,
    /// Before the first event of the timeline.
    pub(crate) start: &'a State,
    /// After the whole timeline.
    pub(crate) end: &'a State,
}

impl Step<'_> {
    /// What must stand in `state`, so that whoever applies it, and then the timeline's state events, ends
    /// up with `end`, and sees each event of the timeline in the light of `start`.
    ///
    /// Where the room's graph has forks, `end` has entries that lead neither through the start nor through
    /// the timeline; they win over those of `start`.
    pub(crate) fn before_timeline(
        &self,
        in_timeline: &HashSet<EventNr>,
    ) -> BTreeMap<KeyNr, EventNr> {
        let mut wanted = self.since_base(self.start);
        for change in self.start.diff(self.end) {
            let Some(new) = change.new.map(|entry| entry.event()) else {
                continue;
            };
            if in_timeline.contains(&new) {
                continue;
            }
            if self.base_has(change.key, new) {
                wanted.remove(&change.key);
            } else {
                wanted.insert(change.key, new);
            }
        }
        wanted.retain(|_, event| !in_timeline.contains(event));
        wanted
    }

    /// What must stand in `state_after`: everything in which `end` differs from what the client has.
    pub(crate) fn after_timeline(&self) -> BTreeMap<KeyNr, EventNr> {
        self.since_base(self.end)
    }

    fn since_base(&self, state: &State) -> BTreeMap<KeyNr, EventNr> {
        match self.base {
            None => state
                .entries()
                .map(|(key, entry)| (key, entry.event()))
                .collect(),
            Some(base) => base
                .diff(state)
                .into_iter()
                .filter_map(|change| Some((change.key, change.new?.event())))
                .collect(),
        }
    }

    fn base_has(&self, key: KeyNr, event: EventNr) -> bool {
        let entry = self.base.and_then(|base| base.get(key));
        entry.is_some_and(|entry| entry.event() == event)
    }
}

#[cfg(test)]
mod tests {
    use super::{EventNr, KeyNr, State, Step};
    use myelin_core::{
        key_table::{KeyTable, StateKey},
        state::{Entry, HashKey},
    };
    use proptest::{collection::vec, prop_assert_eq, proptest};
    use std::collections::{BTreeMap, HashSet};

    /// A state of pairs of key and event; keys are even, as of other events than memberships.
    fn state(entries: &[(u32, i64)]) -> State {
        let mut keys = KeyTable::default();
        for number in 0..8 {
            keys.intern(StateKey::new("t", number.to_string()));
        }
        let mut state = State::empty(HashKey([7; 16]));
        for (key, event) in entries {
            state.set(
                &keys,
                KeyNr(key << 1),
                Some(Entry::new(EventNr(*event), None)),
            );
        }
        state
    }

    fn numbers(wanted: &BTreeMap<KeyNr, EventNr>) -> Vec<i64> {
        wanted.values().map(|event| event.0).collect()
    }

    #[test]
    fn a_new_room_gets_all_that_its_timeline_does_not_show() {
        let (start, end) = (state(&[(0, 1), (1, 2)]), state(&[(0, 1), (1, 3), (2, 4)]));
        let step = Step {
            base: None,
            start: &start,
            end: &end,
        };
        let timeline = HashSet::from([EventNr(3), EventNr(4)]);
        assert_eq!(numbers(&step.before_timeline(&timeline)), [1, 2]);
        assert_eq!(numbers(&step.after_timeline()), [1, 3, 4]);
    }

    #[test]
    fn a_gap_is_filled_with_what_changed_in_it() {
        let base = state(&[(0, 1), (1, 2)]);
        let (start, end) = (state(&[(0, 5), (1, 2)]), state(&[(0, 5), (1, 6)]));
        let step = Step {
            base: Some(&base),
            start: &start,
            end: &end,
        };
        let timeline = HashSet::from([EventNr(6)]);
        assert_eq!(numbers(&step.before_timeline(&timeline)), [5]);
        assert_eq!(numbers(&step.after_timeline()), [5, 6]);
    }

    #[test]
    fn what_came_by_resolution_is_not_lost() {
        let base = state(&[(0, 1)]);
        let (start, end) = (state(&[(0, 1)]), state(&[(0, 9)]));
        let step = Step {
            base: Some(&base),
            start: &start,
            end: &end,
        };
        assert_eq!(numbers(&step.before_timeline(&HashSet::new())), [9]);
    }

    #[test]
    fn a_fork_that_starts_from_an_old_state_brings_nothing_old_back() {
        let base = state(&[(0, 2)]);
        let (start, end) = (state(&[(0, 1)]), state(&[(0, 2)]));
        let step = Step {
            base: Some(&base),
            start: &start,
            end: &end,
        };
        assert_eq!(
            numbers(&step.before_timeline(&HashSet::new())),
            [] as [i64; 0]
        );
    }

    proptest! {
        /// A client that has `base` and applies what it is sent ends up with `end`, except for what
        /// nothing can express: entries that went away, and timelines which show a losing event last.
        #[test]
        fn applying_the_delta_leads_to_the_end(
            base in vec((0..4_u32, 1..6_i64), 0..4),
            start in vec((0..4_u32, 1..6_i64), 0..4),
            timeline in vec((0..4_u32, 10..20_i64), 0..4),
            known in proptest::bool::ANY,
        ) {
            let (base, start) = (state(&base), state(&start));
            let mut end: Vec<(u32, i64)> =
                start.entries().map(|(key, entry)| (key.0 >> 1, entry.event().0)).collect();
            end.extend(&timeline);
            let end = state(&end);
            let step = Step { base: known.then_some(&base), start: &start, end: &end };
            let shown: HashSet<EventNr> = timeline.iter().map(|(_, nr)| EventNr(*nr)).collect();
            let mut client: BTreeMap<KeyNr, EventNr> = BTreeMap::new();
            if known {
                client.extend(base.entries().map(|(key, entry)| (key, entry.event())));
            }
            client.extend(step.before_timeline(&shown));
            client.extend(timeline.iter().map(|(key, nr)| (KeyNr(key << 1), EventNr(*nr))));
            for (key, entry) in end.entries() {
                prop_assert_eq!(client.get(&key), Some(&entry.event()));
            }
        }
    }
}
