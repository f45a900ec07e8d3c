//! The states before and after events, and where an accepted event moves the room.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Decision, Incoming, KnownState, Moves, Parents, Pending, Placement, RoomFacts, conclude,
};
use crate::{
    completeness::Completeness,
    desk::Desk,
    event::{Event, Place, Verdict},
    key_table::KeyTable,
    number::EventNr,
    pdu::Pdu,
    resolution,
    state::{Entry, State},
};

/// The state after a timeline event. A rejected event changes nothing (R30).
pub fn state_after(keys: &KeyTable, desk: &Desk, event: &Event) -> Option<KnownState> {
    let Place::Timeline { before, .. } = event.place else {
        return None;
    };
    let mut state = desk.snapshot(before.snapshot())?.clone();
    apply(keys, &mut state, event.nr, &event.pdu, event.verdict);
    Some(KnownState {
        state,
        completeness: before.completeness(),
    })
}

/// Puts a state event that was not rejected into the state.
pub fn apply(keys: &KeyTable, state: &mut State, nr: EventNr, pdu: &Pdu, verdict: Verdict) {
    let Some(state_key) = &pdu.state_key else {
        return;
    };
    if verdict == Verdict::Rejected {
        return;
    }
    if let Some(key) = keys.number(&pdu.event_type.to_string(), state_key) {
        state.set(keys, key, Some(Entry::new(nr, pdu.membership)));
    }
}

pub(super) fn state_before(
    room: &RoomFacts<'_>,
    desk: &Desk,
    incoming: &Incoming,
    parents: &Parents,
) -> Result<KnownState, Pending> {
    let mut states = Vec::new();
    for parent in &parents.seen {
        states.extend(state_after(room.keys, desk, parent));
    }
    match &incoming.placement {
        // In a room that is partial here already, the answer lacks the earlier joins (L52).
        Placement::RemoteJoin { before } if !parents.missing.is_empty() || states.is_empty() => {
            states.push(before.clone());
        }
        Placement::Pulled { after_missing, .. } => states.extend(
            parents
                .missing
                .iter()
                .filter_map(|id| after_missing.get(id))
                .cloned(),
        ),
        _ => {}
    }
    if !desk.is_complete() {
        return Err(Pending::Local);
    }
    resolve(room, desk, states)
}

/// Resolves states; the result is as complete as the least complete of them.
pub(super) fn resolve(
    room: &RoomFacts<'_>,
    desk: &Desk,
    states: Vec<KnownState>,
) -> Result<KnownState, Pending> {
    let completeness = Completeness::derived(states.iter().map(|known| known.completeness));
    let mut states: Vec<State> = states.into_iter().map(|known| known.state).collect();
    let state = match states.len() {
        0 => room.empty.clone(),
        1 => states.remove(0),
        _ => resolution::resolve(room.version, room.keys, desk, &states)?,
    };
    Ok(KnownState {
        state,
        completeness,
    })
}

/// The extremities and the current state once the event is there.
pub(super) fn moves(
    room: &RoomFacts<'_>,
    desk: &Desk,
    incoming: &Incoming,
    parents: &Parents,
    before: &KnownState,
) -> Result<Moves, Pending> {
    let mut extremities = room.extremities.clone();
    for covered in covered_by(desk, parents) {
        extremities.remove(&covered);
    }
    let mut after = before.clone();
    apply(
        room.keys,
        &mut after.state,
        incoming.nr,
        &incoming.pdu,
        Verdict::Accepted,
    );
    let mut states = vec![after];
    for nr in &extremities {
        if let Some(event) = desk.event(*nr) {
            states.extend(state_after(room.keys, desk, event));
        }
    }
    if !desk.is_complete() {
        return Err(Pending::Local);
    }
    extremities.insert(incoming.nr);
    if states.len() == 1 {
        let current = resolve(room, desk, states)?;
        return Ok(Moves {
            extremities,
            current,
        });
    }
    // The state after the event has the event itself, and a fork makes resolution look at it.
    let judged = Event {
        nr: incoming.nr,
        pdu: incoming.pdu.pdu().clone(),
        verdict: Verdict::Accepted,
        place: Place::Outlier,
        redacted_by: None,
    };
    let with_it = desk.with(Arc::new(judged));
    let current = resolve(room, &with_it, states);
    desk.take_back(&with_it);
    Ok(Moves {
        extremities,
        current: current?,
    })
}

/// The events that stop being extremities: the parents, and what lies behind parents that were
/// rejected or soft-failed and so never took the place of theirs.
fn covered_by(desk: &Desk, parents: &Parents) -> BTreeSet<EventNr> {
    let mut covered = BTreeSet::new();
    let mut queue: Vec<Arc<Event>> = parents.seen.clone();
    while let Some(event) = queue.pop() {
        if !covered.insert(event.nr) || event.verdict == Verdict::Accepted {
            continue;
        }
        for id in &event.pdu.prev_events {
            queue.extend(
                desk.event_by_id(id)
                    .filter(|event| event.in_timeline())
                    .cloned(),
            );
        }
    }
    covered
}

/// The current state: the resolution of the states after the forward extremities.
pub fn current_state(room: &RoomFacts<'_>, desk: &Desk) -> Decision<KnownState> {
    let states = room
        .extremities
        .iter()
        .filter_map(|nr| state_after(room.keys, desk, desk.event(*nr)?))
        .collect();
    conclude(desk, resolve(room, desk, states))
}
