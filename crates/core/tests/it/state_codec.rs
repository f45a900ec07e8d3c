//! States as bytes.

use myelin_core::{
    number::KeyNr,
    state::{Change, Entry, HashKey, State},
    state_codec::{
        BASE_INTERVAL, CHUNK_ENTRIES, CorruptState, MAX_DELTAS, decode_chunk, decode_delta,
        delta_base_depth, encode_base, encode_delta, merge_deltas,
    },
};
use proptest::{collection::btree_map, prelude::*};

use crate::state::{config, entry, memberships, numbering};

/// Entries of keys below `keys`, with near and with far event numbers.
fn entries(keys: u32) -> impl Strategy<Value = Vec<(KeyNr, Option<Entry>)>> {
    let event = prop_oneof![0..1000_i64, 1_000_000..1_000_100_i64, 0..(1_i64 << 61)];
    btree_map(
        0..keys,
        prop::option::weighted(0.8, (event, memberships())),
        0..200,
    )
    .prop_map(|map| {
        let entry = |key, new: Option<_>| new.map(|(event, kind)| entry(key, event, kind));
        map.into_iter()
            .map(|(key, new)| (KeyNr(key), entry(KeyNr(key), new)))
            .collect()
    })
}

fn changes(entries: &[(KeyNr, Option<Entry>)]) -> Vec<Change> {
    entries
        .iter()
        .map(|(key, new)| Change {
            key: *key,
            old: None,
            new: *new,
        })
        .collect()
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn a_delta_is_read_as_it_was_written(entries in entries(u32::MAX)) {
        let mut changes = changes(&entries);
        changes.reverse();
        prop_assert_eq!(decode_delta(&encode_delta(&changes)), Ok(entries));
    }

    #[test]
    fn a_base_is_read_as_it_was_written(entries in entries(3000)) {
        let keys = numbering(3000);
        let entries = entries.into_iter().filter_map(|(key, entry)| Some((key, entry?)));
        let state = State::from_entries(HashKey([1; 16]), &keys, entries);
        let mut read = Vec::new();
        for chunk in encode_base(&state) {
            let entries = decode_chunk(&chunk.bytes).unwrap();
            prop_assert_eq!(entries[0].0, chunk.first_key);
            prop_assert!(entries.iter().all(|(key, _)| key.is_member() == chunk.members));
            read.extend(entries);
        }
        prop_assert!(read.iter().copied().eq(state.entries()));
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_but_never_panic(
        format in 0..4_u8,
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        bytes.insert(0, format);
        let _ = decode_delta(&bytes);
        let _ = decode_chunk(&bytes);
    }

    #[test]
    fn damaged_bytes_never_panic_and_cut_ones_are_refused(
        entries in entries(5000),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let whole = encode_delta(&changes(&entries));
        let at = at.index(whole.len());
        prop_assert!(decode_delta(&whole[..at]).is_err());
        let mut damaged = whole.clone();
        damaged[at] = byte;
        if let Ok(delta) = decode_delta(&damaged) {
            prop_assert!(delta.is_sorted_by(|one, next| one.0 < next.0));
        }
    }

    #[test]
    fn merged_deltas_do_what_they_do_one_by_one(
        one in entries(40),
        two in entries(40),
        three in entries(40),
    ) {
        let keys = numbering(40);
        let mut apart = State::empty(HashKey([1; 16]));
        for (key, entry) in [&one, &two, &three].into_iter().flatten() {
            apart.set(&keys, *key, *entry);
        }
        let mut merged = State::empty(HashKey([1; 16]));
        for (key, entry) in merge_deltas([one, two, three]) {
            merged.set(&keys, key, entry);
        }
        prop_assert_eq!(apart.hash(), merged.hash());
    }
}

#[test]
fn what_databases_hold_is_written_as_ever() {
    let join = myelin_core::state::Membership::Join;
    let entries = [(1, Some(5)), (4, Some(3)), (300, None)];
    let entries = entries.map(|(key, event)| {
        (
            KeyNr(key),
            event.map(|event| entry(KeyNr(key), event, join)),
        )
    });
    // Format and count; then the step to the key, and the event: of a join, of something else two
    // events before, none.
    let delta = [1, 3, 1, 5 << 4 | 1, 2, 3 << 3, 0x80 | 39, 2, 7];
    assert_eq!(encode_delta(&changes(&entries)), delta);
    let keys = numbering(3000);
    let held = entries
        .into_iter()
        .filter_map(|(key, entry)| Some((key, entry?)));
    let chunks = encode_base(&State::from_entries(HashKey([1; 16]), &keys, held));
    let [other, member] = &chunks[..] else {
        panic!("a chunk for each family");
    };
    assert_eq!((other.members, other.first_key), (false, KeyNr(4)));
    assert_eq!(other.bytes, [2, 1, 0, 2, 3 << 4]);
    assert_eq!((member.members, member.first_key), (true, KeyNr(1)));
    assert_eq!(member.bytes, [2, 1, 1, 0, 5 << 4 | 1]);
}

#[test]
fn each_kind_of_damage_has_its_error() {
    assert_eq!(decode_delta(&[]), Err(CorruptState::Truncated));
    assert_eq!(decode_delta(&[9, 0]), Err(CorruptState::UnknownFormat(9)));
    assert_eq!(
        decode_chunk(&encode_delta(&[])),
        Err(CorruptState::UnknownFormat(1))
    );
    assert_eq!(
        decode_delta(&[1, 0, 0]),
        Err(CorruptState::TrailingBytes(1))
    );
    // More entries than there can be, so that nothing is allocated for them.
    assert_eq!(
        decode_delta(&[1, 0xff, 0xff, 0xff, 0x7f]),
        Err(CorruptState::Truncated)
    );
    // A membership under a key that is not one's.
    assert_eq!(decode_delta(&[1, 1, 2, 1]), Err(CorruptState::OutOfRange));
    // A key, then a number, of more than 64 bits.
    let too_long = [
        1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0,
    ];
    assert_eq!(decode_delta(&too_long), Err(CorruptState::OutOfRange));
}

#[test]
fn chunks_hold_a_thousand_entries_of_a_few_bytes() {
    let keys = numbering(10_000);
    let joined = Entry::new(myelin_core::number::EventNr(0), None);
    assert_eq!(joined.membership(), None);
    // Members who joined one after the other, in a server that holds ten million events.
    let members = (0..5000_u32).map(|n| {
        let key = KeyNr(2 * n + 1);
        let join = myelin_core::state::Membership::Join;
        (key, entry(key, 10_000_000 + 3 * i64::from(n), join))
    });
    let state = State::from_entries(HashKey([1; 16]), &keys, members);
    let chunks = encode_base(&state);
    assert_eq!(chunks.len(), 5000_usize.div_ceil(CHUNK_ENTRIES));
    let bytes = chunks.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
    assert!(bytes <= 5000 * 3, "{bytes} bytes for 5000 entries");
}

#[test]
fn an_entry_is_at_most_93_deltas_away_and_bases_come_every_32768_snapshots() {
    let mut longest = 0;
    for depth in (0..3 * BASE_INTERVAL).step_by(7).chain([BASE_INTERVAL - 1]) {
        let mut at = depth;
        let mut deltas = 0;
        while let Some(base) = delta_base_depth(at) {
            assert!(base < at && base / BASE_INTERVAL == depth / BASE_INTERVAL);
            at = base;
            deltas += 1;
        }
        assert_eq!(at % BASE_INTERVAL, 0);
        longest = longest.max(deltas);
    }
    assert_eq!(longest, MAX_DELTAS);
    assert_eq!(MAX_DELTAS, 93);
}

#[test]
fn no_change_is_stored_more_than_three_times() {
    // Each snapshot changes one entry, and always another, so that merging saves nothing.
    let last = BASE_INTERVAL - 1;
    let stored = (1..=last)
        .map(|depth| depth - delta_base_depth(depth).expect("there is one base only"))
        .sum::<u64>();
    assert!(
        stored <= 3 * last,
        "{stored} changes stored for {last} made"
    );
}
