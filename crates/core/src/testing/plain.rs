//! State resolution as the specification defines it, at whatever cost: the measure of the real one.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    EventId, OwnedEventId,
    state_res::{StateMap, utils::event_id_set::EventIdSet},
};

use super::Room;
use crate::{
    event::Event,
    event_type::{key_for_ruma, key_from_ruma},
    key_table::StateKey,
    state::State,
};

/// Resolves whole states with their whole auth chains.
///
/// # Panics
/// If the algorithm reports an error, which it never does for a room that was made here.
pub fn resolve_plainly(room: &Room, states: &[State]) -> BTreeMap<StateKey, OwnedEventId> {
    let maps = states
        .iter()
        .map(|state| whole_map(room, state))
        .collect::<Vec<_>>();
    let chains = maps
        .iter()
        .map(|map| chain(room, map.values().cloned()))
        .collect();
    let rules = room.version.rules();
    let resolved = ruma::state_res::resolve(
        &rules.authorization,
        rules
            .state_res
            .v2_rules()
            .expect("every supported version has a later algorithm"),
        &maps,
        chains,
        |id| room.event_by_id(id).cloned(),
        |conflicted| Some(paths_between(room, conflicted.values().flatten())),
    );
    let resolved = resolved.expect("well-formed events can be resolved");
    resolved
        .into_iter()
        .map(|(key, id)| (key_from_ruma(key), id))
        .collect()
}

fn whole_map(room: &Room, state: &State) -> StateMap<OwnedEventId> {
    let entry = |event: &Arc<Event>| {
        let state_key = event.pdu.state_key.clone().unwrap_or_default();
        let name = StateKey::new(event.pdu.event_type.to_string(), state_key);
        (key_for_ruma(&name), event.pdu.event_id.clone())
    };
    state
        .entries()
        .map(|(_, state_entry)| entry(room.event(state_entry.event())))
        .collect()
}

/// The given events and all that they reach.
fn chain(room: &Room, starts: impl Iterator<Item = OwnedEventId>) -> EventIdSet<OwnedEventId> {
    let mut reached = EventIdSet::new();
    let mut next = starts.collect::<Vec<_>>();
    while let Some(id) = next.pop() {
        if reached.insert(id.clone()) {
            next.extend(cited_by(room, &id).iter().cloned());
        }
    }
    reached
}

fn cited_by<'a>(room: &'a Room, id: &EventId) -> &'a [OwnedEventId] {
    room.event_by_id(id)
        .map(|event| event.pdu.auth_events.as_slice())
        .unwrap_or_default()
}

/// MSC4297's subgraph, by trying: an event is on a path if one of the given events reaches it and it
/// reaches one of them.
fn paths_between<'a>(
    room: &Room,
    conflicted: impl Iterator<Item = &'a OwnedEventId>,
) -> EventIdSet<OwnedEventId> {
    let conflicted = conflicted.cloned().collect::<Vec<_>>();
    let reaches_one = |id: &OwnedEventId| {
        let chain = chain(room, [id.clone()].into_iter());
        conflicted
            .iter()
            .any(|conflicted| chain.contains(conflicted))
    };
    chain(room, conflicted.iter().cloned())
        .into_iter()
        .filter(reaches_one)
        .collect()
}
