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
        for (server, users) in state.servers() {
            prop_assert_eq!((state.users_of(server), state.has_server(server)), (users, users > 0));
        }
        prop_assert_eq!(state.is_empty(), map.is_empty());
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
    }
}

#[test]
fn a_nameless_room_is_named_after_the_first_five_who_are_there_or_else_who_were() {
    use Membership::{Ban, Invite, Join, Knock, Leave};
    let keys = numbering(20);
    let user = |n: usize| KeyNr(2 * n as u32 + 1);
    for (memberships, own, heroes) in [
        (&[Join, Join, Invite, Leave, Ban, Knock][..], 0, &[1, 2][..]),
        (&[Join, Join, Invite, Leave, Ban, Knock], 9, &[0, 1, 2]),
        (&[Join, Leave, Knock, Ban], 0, &[1, 3]),
        (&[Join, Knock], 0, &[]),
        (&[Join; 8], 1, &[0, 2, 3, 4, 5]),
        (&[Leave; 8], 9, &[0, 1, 2, 3, 4]),
    ] {
        let mut state = State::empty(KEY);
        for (n, membership) in memberships.iter().enumerate() {
            let entry = Entry::new(EventNr(n as i64 + 100), Some(*membership));
            state.set(&keys, user(n), Some(entry));
        }
        let expected = heroes.iter().map(|n| (user(*n), EventNr(*n as i64 + 100)));
        assert_eq!(state.heroes(Some(user(own))), expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_state_has_users_only_of_servers_that_have_some() {
    let keys = numbering(20);
    let mut state = State::empty(KEY);
    let entry = |membership| Some(Entry::new(EventNr(1), Some(membership)));
    state.set(&keys, KeyNr(1), entry(Membership::Join));
    assert!(state.has_server("0.example") && !state.has_server("1.example"));
    assert_eq!(
        (state.users_of("0.example"), state.users_of("1.example")),
        (1, 0)
    );
    state.set(&keys, KeyNr(1), entry(Membership::Leave));
    assert!(!state.has_server("0.example"));
}

#[test]
fn the_memory_of_a_state_is_estimated_by_its_entries_and_servers() {
    let mut keys = KeyTable::default();
    let mut state = State::empty(KEY);
    let empty = state.approximate_bytes();
    assert!((size_of::<State>()..2000).contains(&empty));
    for n in 0..100 {
        let name = StateKey::new("m.room.member", format!("@u:{n}"));
        let (key, _) = keys.intern(name);
        let entry = Entry::new(EventNr(n), Some(Membership::Join));
        state.set(&keys, key, Some(entry));
    }
    let joined = state.approximate_bytes();
    assert!((100 * (16 + 64)..100 * (64 + 200)).contains(&(joined - empty)));
    for key in (0..100).map(|n| KeyNr(2 * n + 1)) {
        state.set(
            &keys,
            key,
            Some(Entry::new(EventNr(1), Some(Membership::Leave))),
        );
    }
    assert!((100 * 16..100 * 64).contains(&(state.approximate_bytes() - empty)));
}

#[test]
fn keys_are_numbered_by_family_in_the_order_in_which_they_come() {
    let mut keys = KeyTable::default();
    assert!(keys.is_empty());
    for (event_type, state_key, number) in [
        ("m.room.topic", "", 0),
        ("m.room.member", "@a:b", 1),
        ("m.room.name", "", 2),
        ("m.room.name", "@a:b", 4),
        ("m.room.member", "@c:d", 3),
    ] {
        let key = StateKey::new(event_type, state_key);
        assert_eq!(keys.number(event_type, state_key), None);
        assert_eq!(keys.intern(key.clone()), (KeyNr(number), true));
        assert_eq!(keys.intern(key.clone()), (KeyNr(number), false));
        assert_eq!(keys.number(event_type, state_key), Some(KeyNr(number)));
        assert_eq!(keys.name(KeyNr(number)).map(|name| &**name), Some(&key));
        let is_member = event_type == "m.room.member";
        let server = state_key.split(':').nth(1).filter(|_| is_member);
        assert_eq!(key.member_server(), server);
    }
    assert_eq!((keys.len(), keys.is_empty()), (5, false));
    assert_eq!(keys.name(KeyNr(5)), None);
    assert_eq!(
        StateKey::new("m.room.member", "nobody").member_server(),
        None
    );
}
