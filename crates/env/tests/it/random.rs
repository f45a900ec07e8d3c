//! Random numbers.

use std::collections::BTreeSet;

use myelin_env::Random;

/// Some of everything that a source gives.
fn draw(random: &Random) -> (u64, u64, String, [u8; 9]) {
    let mut bytes = [0; 9];
    random.fill(&mut bytes);
    (
        random.u64(),
        random.below(1 << 40),
        random.alphanumeric(20),
        bytes,
    )
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let (one, same, other) = (Random::seeded(1), Random::seeded(1), Random::seeded(2));
    let first = draw(&one);
    assert_eq!(first, draw(&same));
    assert_ne!(first, draw(&other));
    assert_ne!(first, draw(&one), "a source goes on");
}

#[test]
fn clones_share_one_sequence() {
    let (one, whole) = (Random::seeded(1), Random::seeded(1));
    let clone = one.clone();
    assert_eq!([one.u64(), clone.u64()], [whole.u64(), whole.u64()]);
}

#[test]
fn real_numbers_differ() {
    let drawn: BTreeSet<_> = (0..100).map(|_| draw(&Random::real())).collect();
    assert_eq!(drawn.len(), 100);
}

#[test]
fn numbers_stay_below_their_bound_and_reach_it() {
    let random = Random::seeded(3);
    let drawn: BTreeSet<u64> = (0..1_000).map(|_| random.below(7)).collect();
    assert_eq!(drawn, (0..7).collect());
    assert_eq!(random.below(1), 0);
    assert_eq!(random.below(0), 0);
}

#[test]
fn alphanumeric_strings_are_letters_and_digits() {
    let text = Random::seeded(4).alphanumeric(5_000);
    assert_eq!(text.len(), 5_000);
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(text.bytes().collect::<BTreeSet<_>>().len(), 62);
}
