//! State resolution as the specification defines it, at whatever cost: the measure of the real one.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    EventId, OwnedEventId,
    room_version_rules::StateResolutionV2Rules,
    state_res::{StateMap, utils::event_id_set::EventIdSet},
};
use sha1::{Digest as _, Sha1};

use super::Room;
use crate::{
    auth,
    event::Event,
    event_type::{key_for_ruma, key_from_ruma},
    key_table::StateKey,
    state::State,
};

/// Resolves whole states as the room's version wants it.
pub fn resolve_plainly(room: &Room, states: &[State]) -> BTreeMap<StateKey, OwnedEventId> {
    match room.version.resolves_as_at_first() {
        true => resolve_as_at_first(room, states),
        false => resolve_with_chains(room, states),
    }
}

/// Resolves whole states with their whole auth chains: by version 2 of the algorithm, or a later one if the
/// room's version has it.
///
/// # Panics
/// If the algorithm reports an error, which it never does for a room that was made here.
pub fn resolve_with_chains(room: &Room, states: &[State]) -> BTreeMap<StateKey, OwnedEventId> {
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
            .unwrap_or(&StateResolutionV2Rules::V2_0),
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

/// The algorithm of room version 1.
fn resolve_as_at_first(room: &Room, states: &[State]) -> BTreeMap<StateKey, OwnedEventId> {
    let mut candidates: BTreeMap<StateKey, BTreeMap<OwnedEventId, Arc<Event>>> = BTreeMap::new();
    for (_, entry) in states.iter().flat_map(State::entries) {
        let event = room.event(entry.event());
        let state_key = event.pdu.state_key.clone().unwrap_or_default();
        let name = StateKey::new(event.pdu.event_type.to_string(), state_key);
        let of_key = candidates.entry(name).or_default();
        of_key.insert(event.pdu.event_id.clone(), event.clone());
    }
    let undisputed = candidates.iter().filter(|(_, events)| events.len() == 1);
    let mut result: BTreeMap<StateKey, Arc<Event>> = undisputed
        .map(|(name, events)| (name.clone(), events.values().next().unwrap().clone()))
        .collect();
    candidates.retain(|_, events| events.len() > 1);
    let passes = [
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.member",
        "",
    ];
    for (pass, of_type) in passes.iter().enumerate() {
        let settled = result.clone();
        for (name, events) in &candidates {
            let type_pass = passes.iter().position(|known| *known == name.event_type);
            if type_pass.unwrap_or(3) != pass {
                continue;
            }
            let mut ascending: Vec<_> = events.values().cloned().collect();
            ascending.sort_by_key(|event| {
                let hash = Sha1::digest(event.pdu.event_id.as_str());
                (event.pdu.depth, std::cmp::Reverse(hash))
            });
            let permits = |state: &BTreeMap<StateKey, Arc<Event>>, event: &Event| {
                let lookup = |kind: &str, key: &str| state.get(&StateKey::new(kind, key)).cloned();
                auth::check_against(room.version, &event.pdu, lookup).is_ok()
            };
            let mut state = settled.clone();
            let mut chosen = ascending[0].clone();
            if of_type.is_empty() {
                let mut descending = ascending.iter().rev();
                let permitted = descending.find(|event| permits(&settled, event));
                chosen = permitted.unwrap_or(&chosen).clone();
            } else {
                for event in &ascending[1..] {
                    state.insert(name.clone(), chosen.clone());
                    if !permits(&state, event) {
                        break;
                    }
                    chosen = event.clone();
                }
            }
            result.insert(name.clone(), chosen);
        }
    }
    let ids = result.into_iter();
    ids.map(|(name, event)| (name, event.pdu.event_id.clone()))
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
