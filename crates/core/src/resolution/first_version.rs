//! The algorithm of room version 1 (specification, room version 1, "State resolution").
//!
//! Where the text leaves it open which conflicts are resolved together, this does as the reference does, since servers
//! of one room have to agree: each key by itself, against what was settled before its pass.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use sha1::{Digest as _, Sha1};

use super::{AuthState, ResolutionError, conflict::Conflict};
use crate::{
    auth,
    desk::Desk,
    event::Event,
    key_table::{MEMBER, StateKey},
    room_version::RoomVersion,
};

/// The types that decide about others, in the order in which their conflicts are resolved.
const DECISIVE: [&str; 3] = ["m.room.power_levels", "m.room.join_rules", MEMBER];

/// The events of one key, among which one has to be chosen.
type Candidates = BTreeMap<StateKey, Vec<Arc<Event>>>;

/// The entries of all keys that are not shared.
pub(super) fn resolve(
    version: RoomVersion,
    desk: &Desk,
    conflict: &Conflict<'_>,
) -> Result<AuthState, ResolutionError> {
    let shared = conflict
        .shared_auth_events(version, desk, conflict.events())
        .ok_or(ResolutionError::Incomplete)?;
    let (mut resolved, conflicting) = take_apart(conflict);
    let settled = |resolved: &AuthState| -> AuthState {
        let shared = shared.iter().chain(resolved);
        let entry = |(name, event): (&StateKey, &Arc<Event>)| (name.clone(), event.clone());
        shared.map(entry).collect()
    };
    for decisive in DECISIVE {
        let known = settled(&resolved);
        let of_type = |(name, _): &(&StateKey, _)| *name.event_type == *decisive;
        for (name, candidates) in conflicting.iter().filter(of_type) {
            let chosen = last_permitted(version, &known, name, candidates);
            resolved.extend(chosen.map(|event| (name.clone(), event)));
        }
    }
    let known = settled(&resolved);
    for (name, candidates) in conflicting {
        if !resolved.contains_key(&name) {
            let chosen = first_permitted(version, &known, &candidates);
            resolved.extend(chosen.map(|event| (name, event)));
        }
    }
    Ok(resolved)
}

/// What only some states have, and nothing contradicts, and the conflicts: from the greatest depth to the
/// least, and of one depth from the least hash to the greatest.
fn take_apart(conflict: &Conflict<'_>) -> (AuthState, Candidates) {
    let mut by_key: BTreeMap<StateKey, BTreeMap<_, Arc<Event>>> = BTreeMap::new();
    for (name, event) in conflict.differing().iter().flatten() {
        let order = (Reverse(event.pdu.depth), Sha1::digest(event.id().as_str()));
        let candidates = by_key.entry(name.clone()).or_default();
        candidates.insert((order, event.nr), event.clone());
    }
    let (mut undisputed, mut conflicting) = (AuthState::new(), Candidates::new());
    for (name, mut candidates) in by_key {
        match candidates.len() {
            1 => undisputed.extend(candidates.pop_first().map(|(_, event)| (name, event))),
            _ => _ = conflicting.insert(name, candidates.into_values().collect()),
        }
    }
    (undisputed, conflicting)
}

/// Of events that decide about others: from the least depth on, each has to be permitted where the one before
/// it counts. The first counts in any case.
fn last_permitted(
    version: RoomVersion,
    known: &AuthState,
    name: &StateKey,
    candidates: &[Arc<Event>],
) -> Option<Arc<Event>> {
    let mut ascending = candidates.iter().rev();
    let mut counting = ascending.next()?;
    for event in ascending {
        let lookup = |event_type: &str, state_key: &str| {
            let wanted = StateKey::new(event_type, state_key);
            let before = (wanted == *name).then_some(counting);
            before.or_else(|| known.get(&wanted)).cloned()
        };
        if auth::check_against(version, &event.pdu, lookup).is_err() {
            break;
        }
        counting = event;
    }
    Some(counting.clone())
}

/// Of events that decide about nothing: the deepest that is permitted; if none is, the least deep.
fn first_permitted(
    version: RoomVersion,
    known: &AuthState,
    candidates: &[Arc<Event>],
) -> Option<Arc<Event>> {
    let lookup = |event_type: &str, key: &str| known.get(&StateKey::new(event_type, key)).cloned();
    let permitted = |event: &&Arc<Event>| auth::check_against(version, &event.pdu, lookup).is_ok();
    let chosen = candidates.iter().find(permitted);
    chosen.or(candidates.last()).cloned()
}
