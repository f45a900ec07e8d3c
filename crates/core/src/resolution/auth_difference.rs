//! The auth difference of whole states, found without walking the chains of what they share.
//!
//! With U the shared entries and Dᵢ those of the i-th state that differ, the state's full auth chain
//! is Cᵢ = chain(U) ∪ chain(Dᵢ). So the difference ∪Cᵢ − ∩Cᵢ is what is in some chain(Dᵢ) but not in
//! all of them, and not in chain(U).

use std::{collections::BTreeMap, sync::Arc};

use super::{ResolutionError, auth_graph::AuthGraph, conflict::Conflict};
use crate::{event::Event, number::EventNr};

/// The auth difference, conflicted events left out: they are in the full conflicted set anyway.
pub(super) fn auth_difference(
    graph: &mut AuthGraph<'_>,
    conflict: &Conflict<'_>,
) -> Result<Vec<Arc<Event>>, ResolutionError> {
    let shared = graph.chain_of_entries(conflict.all_shared());
    let mut candidates = BTreeMap::<EventNr, (usize, Arc<Event>)>::new();
    for differing in conflict.differing() {
        let stop = |event: &Event| shared.contains_key(&event.nr);
        for (nr, event) in graph.chain(differing.values(), stop) {
            candidates.entry(nr).or_insert((0, event)).0 += 1;
        }
    }
    graph.check()?;
    for event in conflict.events() {
        candidates.remove(&event.nr);
    }
    let states = conflict.differing().len();
    Ok(candidates
        .into_values()
        .filter(|(chains, _)| *chains < states)
        .map(|(_, event)| event)
        .collect())
}
