//! State resolution: on pruned input, against the definition.

use std::collections::{BTreeMap, BTreeSet};

use myelin_core::{
    desk::{Desk, Needed},
    key_table::{KeyTable, StateKey},
    number::EventNr,
    resolution::{ResolutionError, resolve, resolve_with_claimed},
    room_version::RoomVersion,
    state::{Entry, Membership, State},
    testing::{Draft, HASH_KEY, Room, Story, resolve_plainly, resolve_with_chains, user},
};
use proptest::{prelude::*, test_runner::RngSeed};
use ruma::OwnedEventId;
use serde_json::json;
use sha1::{Digest as _, Sha1};

type Map = BTreeMap<StateKey, OwnedEventId>;

/// A question that asks more often for what is missing has no answer.
const MOST_ROUNDS: usize = 1000;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(20),
        ..ProptestConfig::default()
    }
}

fn versions() -> impl Strategy<Value = RoomVersion> {
    prop::sample::select(RoomVersion::supported().collect::<Vec<_>>())
}

fn stories() -> impl Strategy<Value = Story> {
    (
        versions(),
        2..=4_usize,
        prop::collection::vec(any::<u64>(), 0..120),
    )
        .prop_map(|(version, branches, numbers)| Story::tell(version, branches, &numbers))
}

/// The states over a numbering of their own, in which only their keys have numbers.
fn renumber(room: &Room, states: &[State]) -> (KeyTable, Vec<State>) {
    let mut keys = KeyTable::default();
    for (key, _) in states.iter().flat_map(State::entries) {
        keys.intern(StateKey::clone(room.keys.name(key).unwrap()));
    }
    let renumbered = states.iter().map(|state| {
        let entries = state.entries().map(|(key, entry)| {
            let name = room.keys.name(key).unwrap();
            (
                keys.number(&name.event_type, &name.state_key).unwrap(),
                entry,
            )
        });
        State::from_entries(HASH_KEY, &keys, entries)
    });
    let renumbered = renumbered.collect();
    (keys, renumbered)
}

fn to_map(room: &Room, keys: &KeyTable, state: &State) -> Map {
    let name = |key| StateKey::clone(keys.name(key).unwrap());
    let id = |entry: Entry| room.event(entry.event()).pdu.event_id.clone();
    state
        .entries()
        .map(|(key, entry)| (name(key), id(entry)))
        .collect()
}

/// Asks until everything is there, loading only what is asked for.
fn load_and_ask<T>(
    room: &Room,
    desk: &mut Desk,
    mut ask: impl FnMut(&Desk) -> Result<T, ResolutionError>,
) -> (T, Vec<Needed>) {
    let mut loaded = Vec::new();
    for _ in 0..MOST_ROUNDS {
        match ask(desk) {
            Ok(result) => return (result, loaded),
            Err(ResolutionError::Incomplete) => {
                let missing = desk.take_missing();
                assert!(
                    !missing.is_empty(),
                    "incomplete without saying what is missing"
                );
                for needed in missing {
                    room.load(desk, &needed);
                    loaded.push(needed);
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("there is always something missing");
}

fn resolve_loading(room: &Room, states: &[State]) -> (Map, Vec<Needed>) {
    let (mut keys, states) = renumber(room, states);
    let mut desk = Desk::default();
    let (state, loaded) = load_and_ask(room, &mut desk, |desk| {
        loop {
            match resolve(room.version, &keys, desk, &states) {
                Err(ResolutionError::Unnumbered(names)) => {
                    assert!(!names.is_empty());
                    for name in names {
                        let (_, is_new) = keys.intern(name);
                        assert!(is_new, "the key has a number");
                    }
                }
                other => return other.map(|state| to_map(room, &keys, &state)),
            }
        }
    });
    assert!(desk.is_complete(), "a result in spite of a miss");
    (state, loaded)
}

proptest! {
    #![proptest_config(config(600))]

    /// R27, R28.
    #[test]
    fn pruned_resolution_gives_what_the_definition_gives(story in stories()) {
        let (resolved, _) = resolve_loading(&story.room, &story.states);
        prop_assert_eq!(resolved, resolve_plainly(&story.room, &story.states));
    }
}

proptest! {
    #![proptest_config(config(150))]

    /// R27.
    #[test]
    fn neither_order_nor_repetition_of_states_matters(story in stories()) {
        let mut states = story.states.clone();
        let (expected, _) = resolve_loading(&story.room, &states);
        states.reverse();
        prop_assert_eq!(&resolve_loading(&story.room, &states).0, &expected);
        states.rotate_left(1);
        states.push(states[0].clone());
        prop_assert_eq!(&resolve_loading(&story.room, &states).0, &expected);
    }

    #[test]
    fn whatever_is_taken_off_the_desk_is_asked_for(story in stories()) {
        let room = &story.room;
        let (keys, states) = (&room.keys, &story.states);
        let mut desk = Desk::default();
        let ask = |desk: &Desk| resolve(room.version, keys, desk, states);
        let (expected, loaded) = load_and_ask(room, &mut desk, ask);
        for removed in distinct_items(room, &loaded) {
            let mut desk = Desk::default();
            for needed in &loaded {
                if item(room, needed) != removed {
                    room.load(&mut desk, needed);
                }
            }
            match ask(&desk) {
                Err(ResolutionError::Incomplete) => {
                    let missing = desk.take_missing();
                    prop_assert!(missing.iter().any(|needed| item(room, needed) == removed));
                }
                other => prop_assert_eq!(other, Ok(expected.clone())),
            }
        }
    }

    #[test]
    fn a_hole_in_an_auth_chain_gives_no_result(story in stories(), pick in any::<prop::sample::Index>()) {
        let room = &story.room;
        let mut desk = Desk::default();
        let ask = |desk: &Desk| resolve(room.version, &room.keys, desk, &story.states);
        let (expected, loaded) = load_and_ask(room, &mut desk, ask);
        let events = loaded
            .iter()
            .filter_map(|needed| match needed {
                Needed::EventById(id) => Some(id.clone()),
                _ => None,
            })
            .collect::<Vec<_>>();
        prop_assume!(!events.is_empty());
        let lost = pick.get(&events);
        desk.put_absent(lost.clone());
        match ask(&desk) {
            Err(ResolutionError::Gap(id)) => prop_assert_eq!(&id, lost),
            // It was among the states' entries, which are looked up by number, or not used.
            other => prop_assert_eq!(other, Ok(expected)),
        }
    }
}

/// What a request loads: an event, whatever it is asked by, or the events that cite one.
fn item(room: &Room, needed: &Needed) -> (bool, EventNr) {
    match needed {
        Needed::EventById(id) => (false, room.event_by_id(id).unwrap().nr),
        Needed::Event(nr) => (false, *nr),
        Needed::AuthChildren(nr) => (true, *nr),
        Needed::Snapshot(nr) => panic!("asked for snapshot {nr}"),
    }
}

fn distinct_items(room: &Room, loaded: &[Needed]) -> BTreeSet<(bool, EventNr)> {
    loaded.iter().map(|needed| item(room, needed)).collect()
}

#[test]
fn equal_states_need_no_resolution() {
    let (room, state) = Room::new(RoomVersion::V10);
    let states = [state.clone(), state.clone(), state.clone()];
    assert_eq!(
        resolve(room.version, &room.keys, &Desk::default(), &states),
        Ok(state)
    );
    let none = resolve(room.version, &room.keys, &Desk::default(), &[]);
    assert_eq!(none, Err(ResolutionError::NoState));
}

#[test]
fn a_key_that_only_the_auth_difference_has_is_given_a_number_first() {
    let (mut room, before) = Room::new(RoomVersion::V10);
    let mut other = before.clone();
    let join = Draft::membership(&user(1), &user(1), Membership::Join, json!({}));
    let invite = Draft::membership(&user(1), &user(2), Membership::Invite, json!({}));
    assert!(room.write(&mut other, &join) && room.write(&mut other, &invite));
    // Somebody who heard of the invite, but not of who sent it.
    let inviter = room.keys.number("m.room.member", user(1).as_str()).unwrap();
    other.set(&room.keys, inviter, None);

    let (keys, states) = renumber(&room, &[before.clone(), other.clone()]);
    let mut desk = Desk::default();
    let ask = |desk: &Desk| match resolve(room.version, &keys, desk, &states) {
        Err(ResolutionError::Unnumbered(names)) => Ok(names),
        Err(error) => Err(error),
        Ok(state) => panic!("resolved to {state:?}"),
    };
    let (names, _) = load_and_ask(&room, &mut desk, ask);
    assert_eq!(names, [StateKey::new("m.room.member", user(1).as_str())]);
    let resolved = resolve_loading(&room, &[before, other]).0;
    assert!(resolved.contains_key(&names[0]));
}

#[test]
fn a_long_auth_chain_is_asked_for_at_once_and_the_members_not_at_all() {
    let (mut room, state) = Room::crowd(RoomVersion::V11, 400, 50);
    let states = [1, 2].map(|n| {
        let mut state = state.clone();
        let profile = json!({ "displayname": "new" });
        let draft = Draft::membership(&user(n), &user(n), Membership::Join, profile);
        assert!(room.write(&mut state, &draft));
        state
    });
    let mut desk = Desk::default();
    let (mut rounds, mut events) = (0, 0);
    let resolved = loop {
        match resolve(room.version, &room.keys, &desk, &states) {
            Err(ResolutionError::Incomplete) => {}
            other => break other.unwrap(),
        }
        events += room.load_wanted_chains(&mut desk);
        let missing = desk.take_missing();
        events += missing.len();
        missing
            .iter()
            .for_each(|needed| room.load(&mut desk, needed));
        rounds += 1;
    };
    assert_eq!(
        to_map(&room, &room.keys, &resolved),
        resolve_plainly(&room, &states)
    );
    assert!(rounds <= 4, "{rounds} rounds");
    assert!(
        events <= 150,
        "{events} loaded for a chain of some 50 power levels"
    );
}

/// What an event is judged by in a room of which `before` is known.
fn judged_by(room: &Room, before: &State, event: EventNr) -> Map {
    let event = room.event(event);
    let claimed = event
        .pdu
        .auth_events
        .iter()
        .map(|id| room.event_by_id(id).unwrap().clone());
    let claimed = claimed.collect::<Vec<_>>();
    let mut desk = Desk::default();
    let ask = |desk: &Desk| {
        resolve_with_claimed(room.version, &room.keys, desk, &event.pdu, before, &claimed)
    };
    let (known, _) = load_and_ask(room, &mut desk, ask);
    known
        .into_iter()
        .map(|(name, event)| (name, event.pdu.event_id.clone()))
        .collect()
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn a_claim_is_resolved_with_the_known_entries_of_its_keys(
        story in stories(),
        pick in any::<prop::sample::Index>(),
    ) {
        let room = &story.room;
        let event = room.event(EventNr(pick.index(room.len()) as i64 + 1));
        let before = &story.states[0];
        let create = StateKey::new("m.room.create", "");
        let names = myelin_core::auth::auth_keys(room.version, &event.pdu).unwrap();
        let names = names.into_iter().chain([create]).collect::<Vec<_>>();
        let mut known = State::empty(HASH_KEY);
        let mut claimed = State::empty(HASH_KEY);
        for name in &names {
            let key = room.keys.number(&name.event_type, &name.state_key).unwrap();
            known.set(&room.keys, key, before.get(key));
            let cited = |id: &&OwnedEventId| {
                let pdu = &room.event_by_id(id).unwrap().pdu;
                pdu.is_state(&name.event_type, &name.state_key)
            };
            match event.pdu.auth_events.iter().find(cited) {
                Some(id) => {
                    let cited = room.event_by_id(id).unwrap();
                    let entry = Entry::new(cited.nr, cited.pdu.membership);
                    claimed.set(&room.keys, key, Some(entry));
                }
                None if name.event_type == "m.room.create" && room.version == RoomVersion::V12 => {
                    claimed.set(&room.keys, key, before.get(key));
                }
                None => {}
            }
        }
        let expected = resolve_with_chains(room, &[known, claimed]);
        prop_assert_eq!(judged_by(room, before, event.nr), expected);
    }
}

struct Partial {
    room: Room,
    full: State,
}

impl Partial {
    fn new(version: RoomVersion) -> Self {
        let (mut room, mut full) = Room::new(version);
        let join = Draft::membership(&user(1), &user(1), Membership::Join, json!({}));
        assert!(room.write(&mut full, &join));
        Self { room, full }
    }

    fn write(&mut self, draft: &Draft) -> EventNr {
        assert!(
            self.room.write(&mut self.full, draft),
            "{draft:?} is not allowed"
        );
        EventNr(self.room.len() as i64)
    }

    fn topic(&mut self, by: usize) -> EventNr {
        self.write(&Draft::new(&user(by), "m.topic", "", json!({})))
    }

    fn member(&self, n: usize) -> StateKey {
        StateKey::new("m.room.member", user(n).as_str())
    }

    /// The full state without somebody's membership.
    fn without(&self, n: usize) -> State {
        let mut state = self.full.clone();
        let name = self.member(n);
        let key = self
            .room
            .keys
            .number(&name.event_type, &name.state_key)
            .unwrap();
        state.set(&self.room.keys, key, None);
        state
    }

    fn let_members_set_state(&mut self) {
        let creator = user(0);
        let mut levels = json!({ "users": {}, "state_default": 0 });
        if self.room.version != RoomVersion::V12 {
            levels["users"][creator.as_str()] = 100.into();
        }
        self.write(&Draft::new(&creator, "m.room.power_levels", "", levels));
    }
}

/// R104.
#[test]
fn an_unknown_membership_comes_from_the_claim_even_if_the_room_was_closed_since() {
    for version in RoomVersion::supported() {
        let mut partial = Partial::new(version);
        partial.let_members_set_state();
        let topic = partial.topic(1);
        let rules = json!({ "join_rule": "invite" });
        partial.write(&Draft::new(&user(0), "m.room.join_rules", "", rules));
        let known = judged_by(&partial.room, &partial.without(1), topic);
        assert!(known.contains_key(&partial.member(1)), "{version}");
    }
}

/// R104.
#[test]
fn a_known_ban_outweighs_the_membership_that_is_claimed() {
    for version in RoomVersion::supported() {
        let mut partial = Partial::new(version);
        partial.let_members_set_state();
        let topic = partial.topic(1);
        let ban = Draft::membership(&user(0), &user(1), Membership::Ban, json!({}));
        let ban = partial.write(&ban);
        let known = judged_by(&partial.room, &partial.full, topic);
        let ban = &partial.room.event(ban).pdu.event_id;
        assert_eq!(known.get(&partial.member(1)), Some(ban), "{version}");
    }
}

/// Two branches of a room of version 1, and what they come to. Events are as deep as the test wants.
struct Fork {
    room: Room,
    one: State,
    other: State,
    depths: BTreeMap<EventNr, i64>,
}

impl Fork {
    fn new() -> Self {
        let (mut room, mut state) = Room::new(RoomVersion::V1);
        for n in [1, 2] {
            let join = Draft::membership(&user(n), &user(n), Membership::Join, json!({}));
            assert!(room.write(&mut state, &join));
        }
        Self {
            room,
            one: state.clone(),
            other: state,
            depths: BTreeMap::new(),
        }
    }

    /// Writes an event on one of the branches.
    fn write(&mut self, on_one: bool, depth: i64, draft: &Draft) -> OwnedEventId {
        let state = if on_one {
            &mut self.one
        } else {
            &mut self.other
        };
        assert!(self.room.write(state, draft), "{draft:?}");
        let nr = EventNr(self.room.len() as i64);
        self.depths.insert(nr, depth);
        self.room.event(nr).pdu.event_id.clone()
    }

    fn resolved(&self, event_type: &str, state_key: &str) -> Option<OwnedEventId> {
        let (keys, states) = renumber(&self.room, &[self.one.clone(), self.other.clone()]);
        let mut desk = Desk::default();
        loop {
            match resolve(RoomVersion::V1, &keys, &desk, &states) {
                Ok(state) => {
                    let entry = state.get_named(&keys, event_type, state_key)?;
                    return Some(self.room.event(entry.event()).pdu.event_id.clone());
                }
                Err(ResolutionError::Incomplete) => {
                    for needed in desk.take_missing() {
                        let Needed::Event(nr) = needed else {
                            panic!("version 1 asks for events only, not for {needed:?}");
                        };
                        let mut event = (**self.room.event(nr)).clone();
                        if let Some(depth) = self.depths.get(&nr) {
                            let mut pdu = (*event.pdu).clone();
                            pdu.depth = *depth;
                            event.pdu = pdu.into();
                        }
                        desk.put_event(event.into());
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn topic(words: &str) -> Draft {
    Draft::new(&user(0), "m.room.topic", "", json!({ "topic": words }))
}

fn levels(of_1: i64, of_2: i64) -> Draft {
    let users = json!({ "@user0:one.example": 100, "@user1:two.example": of_1, "@user2:three.example": of_2 });
    Draft::new(
        &user(0),
        "m.room.power_levels",
        "",
        json!({ "users": users }),
    )
}

fn membership(by: usize, of: usize, value: Membership) -> Draft {
    Draft::membership(&user(by), &user(of), value, json!({}))
}

#[test]
fn in_version_1_the_deepest_event_that_is_permitted_wins() {
    let mut fork = Fork::new();
    let deep = fork.write(true, 20, &topic("deep"));
    fork.write(false, 19, &topic("later, and less deep"));
    assert_eq!(fork.resolved("m.room.topic", ""), Some(deep));

    // Its author has left on the other branch, where that is settled before topics are.
    let mut fork = Fork::new();
    let everybody = Draft::new(
        &user(0),
        "m.room.power_levels",
        "",
        json!({ "users": { "@user0:one.example": 100 }, "state_default": 0 }),
    );
    fork.write(true, 10, &everybody);
    fork.other = fork.one.clone();
    let by_1 = Draft::new(&user(1), "m.room.topic", "", json!({ "topic": "deep" }));
    fork.write(true, 20, &by_1);
    fork.write(false, 11, &membership(0, 1, Membership::Ban));
    let shallow = fork.write(false, 12, &topic("shallow"));
    assert_eq!(fork.resolved("m.room.topic", ""), Some(shallow));
}

#[test]
fn in_version_1_the_lower_hash_of_the_id_decides_between_events_of_one_depth() {
    let hash = |id: &OwnedEventId| Sha1::digest(id.as_str());
    let mut fork = Fork::new();
    let one = fork.write(true, 20, &topic("one"));
    let other = fork.write(false, 20, &topic("other"));
    let lower = if hash(&one) < hash(&other) {
        &one
    } else {
        &other
    };
    assert_eq!(fork.resolved("m.room.topic", "").as_ref(), Some(lower));

    // Of those that decide, the higher hash is tried first, and the lower counts if that permits it.
    let mut fork = Fork::new();
    let one = fork.write(true, 20, &levels(1, 0));
    let other = fork.write(false, 20, &levels(2, 0));
    let lower = if hash(&one) < hash(&other) {
        &one
    } else {
        &other
    };
    assert_eq!(
        fork.resolved("m.room.power_levels", "").as_ref(),
        Some(lower)
    );
}

#[test]
fn in_version_1_what_decides_has_to_be_permitted_by_what_is_less_deep() {
    // Whoever lost power on the one branch can't win on the other, however deep.
    let mut fork = Fork::new();
    fork.write(true, 10, &levels(50, 0));
    fork.other = fork.one.clone();
    let demoted = fork.write(true, 11, &levels(0, 0));
    let mut by_1 = levels(50, 50);
    by_1.sender = user(1);
    fork.write(false, 13, &by_1);
    assert_eq!(fork.resolved("m.room.power_levels", ""), Some(demoted));

    let mut fork = Fork::new();
    let ban = fork.write(true, 10, &membership(0, 1, Membership::Ban));
    fork.write(false, 11, &membership(1, 1, Membership::Join));
    assert_eq!(fork.resolved("m.room.member", user(1).as_str()), Some(ban));

    let mut fork = Fork::new();
    let ban = fork.write(true, 12, &membership(0, 1, Membership::Ban));
    fork.write(false, 11, &membership(1, 1, Membership::Join));
    assert_eq!(fork.resolved("m.room.member", user(1).as_str()), Some(ban));
}

#[test]
fn in_version_1_what_only_one_state_has_is_no_conflict() {
    let mut fork = Fork::new();
    let name = Draft::new(&user(0), "m.room.name", "", json!({ "name": "Harbour" }));
    let name = fork.write(true, 10, &name);
    fork.write(true, 11, &topic("one"));
    fork.write(false, 12, &topic("other"));
    assert_eq!(fork.resolved("m.room.name", ""), Some(name));
}
