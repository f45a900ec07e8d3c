//! The auth difference of whole states, found without walking the chains of all that they share.
//!
//! With U the shared entries and Dᵢ those of the i-th state that differ, the state's full auth chain
//! is Cᵢ = chain(U) ∪ chain(Dᵢ). So the difference ∪Cᵢ − ∩Cᵢ is what is in some chain(Dᵢ) but not in
//! all of them, and not in chain(U). (A chain includes the events it starts from, see
//! [`resolve`](super::resolve).)
//!
//! The chains of the differing entries are short: power levels, join rules, the memberships of a few
//! users. They are walked, though not beyond events that are known to be in chain(U): an event that
//! is shared itself, or that the shared power levels reach, which most superseded ones do. Whether
//! chain(U) has one of the few others is found out from the other end, by walking *forward* to the
//! events that cite it until there is one that is shared.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{ResolutionError, auth_graph::AuthGraph, conflict::Conflict};
use crate::{event::Event, number::EventNr};

/// Up to this many shared entries, their chains are simply walked.
const FEW: usize = 16;

/// How far a walk towards citing events goes before something else is tried.
struct Reach {
    /// How many of the events that cite an event are looked at before the walk goes deeper. One of
    /// the first is nearly always shared, and an event can have a hundred thousand of them.
    first_look: usize,
    /// The most events that are visited before the chains of all shared entries are walked instead.
    most_visited: usize,
}

const REACH: Reach = Reach {
    first_look: 64,
    most_visited: 10_000,
};

/// The auth difference, conflicted events left out: they are in the full conflicted set anyway.
///
/// # Errors
/// [`ResolutionError::Incomplete`] or [`ResolutionError::Gap`].
pub(super) fn auth_difference(
    graph: &mut AuthGraph<'_>,
    conflict: &Conflict<'_>,
) -> Result<Vec<Arc<Event>>, ResolutionError> {
    auth_difference_within(&REACH, graph, conflict)
}

fn auth_difference_within(
    reach: &Reach,
    graph: &mut AuthGraph<'_>,
    conflict: &Conflict<'_>,
) -> Result<Vec<Arc<Event>>, ResolutionError> {
    let known = known_in_shared_chain(graph, conflict);
    let mut candidates = candidates(graph, conflict, &known);
    // While a chain isn't whole, a candidate may only seem to be one.
    graph.check()?;

    let walk = ForwardWalk {
        graph,
        conflict,
        known: &known,
        reach,
    };
    let in_shared_chain = match walk.answer(&candidates)? {
        Some(in_shared_chain) => in_shared_chain,
        None => {
            let chain = graph.chain_of_entries(conflict.all_shared());
            graph.check()?;
            chain.into_keys().collect()
        }
    };
    candidates.retain(|nr, _| !in_shared_chain.contains(nr));
    Ok(candidates.into_values().collect())
}

/// Some events of chain(U): for a small U all of them, otherwise what the power levels reach.
fn known_in_shared_chain(graph: &mut AuthGraph<'_>, conflict: &Conflict<'_>) -> BTreeSet<EventNr> {
    let chain = if conflict.shared_len() <= FEW {
        graph.chain_of_entries(conflict.all_shared())
    } else {
        graph.chain_of_entries(conflict.shared("m.room.power_levels", ""))
    };
    chain.into_keys().collect()
}

/// The events of some chain(Dᵢ), but not of all of them, that are not known to be in chain(U).
fn candidates(
    graph: &mut AuthGraph<'_>,
    conflict: &Conflict<'_>,
    known: &BTreeSet<EventNr>,
) -> BTreeMap<EventNr, Arc<Event>> {
    let mut found = BTreeMap::<EventNr, (usize, Arc<Event>)>::new();
    for differing in conflict.differing() {
        let stop = |event: &Event| known.contains(&event.nr) || conflict.shares(event);
        for (nr, event) in graph.chain(differing.values(), stop) {
            found.entry(nr).or_insert((0, event)).0 += 1;
        }
    }
    for event in conflict.events() {
        found.remove(&event.nr);
    }
    let states = conflict.differing().len();
    found
        .into_iter()
        .filter(|(_, (chains, _))| *chains < states)
        .map(|(nr, (_, event))| (nr, event))
        .collect()
}

/// A walk from events to those that cite them, in search of shared entries.
struct ForwardWalk<'a, 'g> {
    graph: &'g AuthGraph<'a>,
    conflict: &'g Conflict<'g>,
    known: &'g BTreeSet<EventNr>,
    reach: &'g Reach,
}

/// What a walk came across.
#[derive(Default)]
struct Visited {
    /// Every event that was visited, with those by which the walk came to it.
    from: BTreeMap<EventNr, Vec<EventNr>>,
    /// Those that a shared entry cites, or another event of chain(U).
    cited: Vec<EventNr>,
    /// Whether events were left unvisited because too many cite one event.
    cut: bool,
    /// Whether something was not on the desk.
    missing: bool,
}

impl ForwardWalk<'_, '_> {
    /// Which of the candidates are in chain(U); `None` if that would take too long.
    fn answer(
        &self,
        candidates: &BTreeMap<EventNr, Arc<Event>>,
    ) -> Result<Option<BTreeSet<EventNr>>, ResolutionError> {
        let mut found = BTreeSet::new();
        let mut open = candidates.keys().copied().collect::<Vec<_>>();
        let mut look = self.reach.first_look;
        loop {
            let Some(visited) = self.walk(&open, look) else {
                return Ok(None);
            };
            if visited.missing {
                return Err(ResolutionError::Incomplete);
            }
            found.extend(visited.reaching());
            open.retain(|nr| !found.contains(nr));
            if open.is_empty() || !visited.cut {
                return Ok(Some(found));
            }
            look = look.saturating_mul(64);
        }
    }

    /// Visits what cites `starts`, and what cites that, up to shared entries. Of the events that
    /// cite an event, only `look` are looked at. `None` if there are too many in all.
    fn walk(&self, starts: &[EventNr], look: usize) -> Option<Visited> {
        let desk = self.graph.desk;
        let mut visited = Visited::default();
        let mut next = starts.to_vec();
        visited
            .from
            .extend(starts.iter().map(|nr| (*nr, Vec::new())));
        while let Some(nr) = next.pop() {
            if visited.from.len() > self.reach.most_visited {
                return None;
            }
            let Some(citing) = desk.auth_children(nr) else {
                visited.missing = true;
                continue;
            };
            visited.cut |= citing.len() > look;
            let citing = &newest(citing, look);
            if citing.iter().any(|citing| self.in_shared_chain(*citing)) {
                visited.cited.push(nr);
                continue;
            }
            // All of them are asked for before that counts.
            let here = citing
                .iter()
                .filter(|citing| desk.event(**citing).is_some());
            if here.count() < citing.len() {
                // One of them may turn out to be shared, so going deeper would be premature.
                visited.missing = true;
                continue;
            }
            for citing in citing {
                let from = visited.from.entry(*citing).or_insert_with(|| {
                    next.push(*citing);
                    Vec::new()
                });
                from.push(nr);
            }
        }
        Some(visited)
    }

    /// Whether an event is known to be in chain(U). One that is not on the desk isn't, yet.
    fn in_shared_chain(&self, nr: EventNr) -> bool {
        let event = self.graph.desk.peek(nr);
        self.known.contains(&nr) || event.is_some_and(|event| self.conflict.shares(event))
    }
}

/// The `most` newest events, newest first. They are the likeliest to be shared: the last event that
/// cites a superseded membership is the one that superseded it.
fn newest(events: &[EventNr], most: usize) -> Vec<EventNr> {
    let mut events = events.to_vec();
    events.sort_unstable_by_key(|nr| std::cmp::Reverse(*nr));
    events.truncate(most);
    events
}

impl Visited {
    /// The visited events from which a shared entry is reached.
    fn reaching(&self) -> BTreeSet<EventNr> {
        let mut found = BTreeSet::new();
        let mut next = self.cited.clone();
        while let Some(nr) = next.pop() {
            if found.insert(nr) {
                next.extend(self.from.get(&nr).into_iter().flatten());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, test_runner::RngSeed};

    use super::*;
    use crate::{
        desk::{Desk, Needed},
        resolution::conflict,
        room_version::RoomVersion,
        testing::{Room, Story},
    };

    fn desk_with_everything(room: &Room) -> Desk {
        let mut desk = Desk::default();
        for nr in (1..=room.len() as i64).map(EventNr) {
            room.load(&mut desk, &Needed::Event(nr));
            room.load(&mut desk, &Needed::AuthChildren(nr));
        }
        desk
    }

    fn numbers(events: Vec<Arc<Event>>) -> Vec<EventNr> {
        events.into_iter().map(|event| event.nr).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 300,
            rng_seed: RngSeed::Fixed(20),
            ..ProptestConfig::default()
        })]

        #[test]
        fn however_far_it_reaches_the_difference_is_the_same(
            numbers_of_steps in prop::collection::vec(any::<u64>(), 0..120),
        ) {
            let story = Story::tell(RoomVersion::V11, 3, &numbers_of_steps);
            let desk = desk_with_everything(&story.room);
            let states = conflict::distinct(&story.states);
            let conflict = Conflict::between_states(&story.room.keys, &desk, &states).unwrap();
            let difference = |reach| {
                let mut graph = AuthGraph::new(&desk);
                numbers(auth_difference_within(&reach, &mut graph, &conflict).unwrap())
            };
            let usual = difference(REACH);
            prop_assert_eq!(&difference(Reach { first_look: 1, most_visited: 10_000 }), &usual);
            prop_assert_eq!(&difference(Reach { first_look: 64, most_visited: 0 }), &usual);
        }

        #[test]
        fn walking_forward_finds_what_walking_back_finds(
            numbers_of_steps in prop::collection::vec(any::<u64>(), 0..120),
        ) {
            let story = Story::tell(RoomVersion::V12, 2, &numbers_of_steps);
            let desk = desk_with_everything(&story.room);
            let states = conflict::distinct(&story.states);
            let conflict = Conflict::between_states(&story.room.keys, &desk, &states).unwrap();
            let graph = &mut AuthGraph::new(&desk);
            // Nothing is known beforehand, so that the walk has to find everything.
            let known = &BTreeSet::new();
            let candidates = candidates(graph, &conflict, known);
            let mut expected =
                graph.chain_of_entries(conflict.all_shared()).into_keys().collect::<BTreeSet<_>>();
            expected.retain(|nr| candidates.contains_key(nr));
            let reach = &Reach { first_look: 1, most_visited: 10_000 };
            let mut found = ForwardWalk { graph, conflict: &conflict, known, reach }
                .answer(&candidates)
                .unwrap()
                .unwrap();
            found.retain(|nr| candidates.contains_key(nr));
            prop_assert_eq!(found, expected);
        }
    }
}
