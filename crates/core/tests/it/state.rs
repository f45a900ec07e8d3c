//! States as maps.

use std::collections::BTreeMap;

use myelin_core::{
    key_table::{KeyTable, StateKey},
    number::{EventNr, KeyNr},
    state::{Change, Entry, HashKey, Membership, State},
};
use proptest::{prelude::*, test_runner::RngSeed};

type Map = BTreeMap<KeyNr, Entry>;

pub(crate) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(20),
        ..ProptestConfig::default()
    }
}

/// A numbering of `size` keys, half of them memberships on three servers.
pub(crate) fn numbering(size: usize) -> KeyTable {
    let mut keys = KeyTable::default();
    for n in 0..size {
        match n % 2 {
            0 => keys.intern(StateKey::new(
                "m.room.member",
                format!("@{n}:{}.example", n % 3),
            )),
            _ => keys.intern(StateKey::new("m.room.topic", n.to_string())),
        };
    }
    keys
}

pub(crate) fn memberships() -> impl Strategy<Value = Membership> {
    let all = ["join", "invite", "leave", "ban", "knock"];
    prop::sample::select(
        all.map(|name| Membership::from_name(name).unwrap())
            .to_vec(),
    )
}

/// An entry for a key.
pub(crate) fn entry(key: KeyNr, event: i64, membership: Membership) -> Entry {
    Entry::new(EventNr(event), key.is_member().then_some(membership))
}

/// Changes to states of up to 40 keys, with few events, so that equal sets come about.
fn edits() -> impl Strategy<Value = Vec<(KeyNr, Option<Entry>)>> {
    let edit = (0..40_u32, prop::option::of((1..4_i64, memberships()))).prop_map(|(key, new)| {
        let key = KeyNr(key);
        (
            key,
            new.map(|(event, membership)| entry(key, event, membership)),
        )
    });
    prop::collection::vec(edit, 0..60)
}

const KEY: HashKey = HashKey([3; 16]);

fn perform(keys: &KeyTable, state: &State, edits: &[(KeyNr, Option<Entry>)]) -> State {
    let mut state = state.clone();
    for (key, entry) in edits {
        state.set(keys, *key, *entry);
    }
    state
}

fn to_map(state: &State) -> Map {
    state.entries().collect()
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn a_state_is_the_map_that_its_edits_make(edits in edits()) {
        let keys = numbering(80);
        let state = perform(&keys, &State::empty(KEY), &edits);
        let mut map = Map::new();
        for (key, entry) in edits {
            match entry {
                Some(entry) => map.insert(key, entry),
                None => map.remove(&key),
            };
        }
        prop_assert_eq!(to_map(&state), map.clone());
        prop_assert_eq!(state.len(), map.len());
        let joined = map.values().filter(|e| e.membership() == Some(Membership::Join)).count();
        let invited = map.values().filter(|e| e.membership() == Some(Membership::Invite)).count();
        prop_assert_eq!(state.counts().joined, joined as u64);
        prop_assert_eq!(state.counts().invited, invited as u64);
        prop_assert_eq!(state.servers().map(|(_, users)| users as usize).sum::<usize>(), joined);
    }

    #[test]
    fn hashes_are_equal_exactly_if_the_sets_are(start in edits(), one in edits(), other in edits()) {
        let keys = numbering(80);
        let start = perform(&keys, &State::empty(KEY), &start);
        let one = perform(&keys, &start, &one);
        let other = perform(&keys, &start, &other);
        prop_assert_eq!(one.hash() == other.hash(), to_map(&one) == to_map(&other));
        let rebuilt = State::from_entries(KEY, &keys, one.entries());
        prop_assert_eq!(rebuilt.hash(), one.hash());
    }

    #[test]
    fn a_difference_is_that_of_the_maps(start in edits(), one in edits(), other in edits()) {
        let keys = numbering(80);
        let start = perform(&keys, &State::empty(KEY), &start);
        let one = perform(&keys, &start, &one);
        let other = perform(&keys, &start, &other);
        let (old, new) = (to_map(&one), to_map(&other));
        let mut expected = (0..80)
            .map(KeyNr)
            .map(|key| Change { key, old: old.get(&key).copied(), new: new.get(&key).copied() })
            .filter(|change| change.old != change.new)
            .collect::<Vec<_>>();
        expected.sort_by_key(|change| (change.key.is_member(), change.key));
        prop_assert_eq!(one.diff(&other), expected);
    }

    #[test]
    fn building_at_once_gives_what_setting_one_by_one_gives(edits in edits()) {
        let keys = numbering(80);
        let state = perform(&keys, &State::empty(KEY), &edits);
        let built = State::from_entries(KEY, &keys, state.entries());
        prop_assert_eq!(built.hash(), state.hash());
        prop_assert_eq!(built.counts(), state.counts());
        prop_assert!(built.servers().eq(state.servers()));
        prop_assert_eq!(to_map(&built), to_map(&state));
        prop_assert!(built.approximate_bytes() >= State::empty(KEY).approximate_bytes());
    }
}
