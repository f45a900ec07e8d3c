//! Checks 4 to 7: what permits an event, and what is missing to say so.

use std::sync::Arc;

use ruma::OwnedServerName;

use super::{
    Incoming, KnownState, Parents, Pending, Placement, Recommendation, RemoteNeed, RoomFacts,
    states::resolve,
};
use crate::{
    auth,
    completeness::Question,
    desk::Desk,
    event::Event,
    key_table::StateKey,
    pdu::Pdu,
    policy_server::{POLICY, PolicyServer},
    resolution,
    state::State,
};

/// The events that `pdu` says authorise it, all of them.
pub(super) fn claimed_auth_events(desk: &Desk, pdu: &Pdu) -> Result<Vec<Arc<Event>>, Pending> {
    let mut found = Vec::with_capacity(pdu.auth_events.len());
    let mut absent = Vec::new();
    for id in &pdu.auth_events {
        match desk.event_by_id(id) {
            Some(event) => found.push(event.clone()),
            None => absent.push(id.clone()),
        }
    }
    if !desk.is_complete() {
        return Err(Pending::Local);
    }
    if !absent.is_empty() {
        return Err(Pending::Remote(RemoteNeed::AuthEvents(absent)));
    }
    Ok(found)
}

/// A check's own result, inside that of being able to make it.
pub(super) type Checked = Result<Result<(), auth::Rejection>, Pending>;

/// Check 4: the claimed auth events permit the event.
pub(super) fn check_claimed(
    room: &RoomFacts<'_>,
    desk: &Desk,
    pdu: &Pdu,
    claimed: &[Arc<Event>],
) -> Checked {
    let create = match auth::implied_create_event(room.version, pdu) {
        None => None,
        Some(id) => match desk.event_by_id(&id) {
            Some(create) => Some(create.clone()),
            None if !desk.is_complete() => return Err(Pending::Local),
            None => return Err(Pending::Remote(RemoteNeed::AuthEvents(vec![id]))),
        },
    };
    Ok(auth::check_claimed(
        room.version,
        pdu,
        claimed,
        create.as_ref(),
    ))
}

/// Check 5: the state before the event permits it. With a partial state, known entries and the
/// claimed auth events are resolved: known bans win, unknown memberships come from the claim
/// (R104).
pub(super) fn check_before(
    room: &RoomFacts<'_>,
    desk: &Desk,
    pdu: &Pdu,
    before: &KnownState,
    claimed: &[Arc<Event>],
) -> Checked {
    if before.completeness.permits(Question::FullAuth) {
        return check_against(room, desk, pdu, &before.state);
    }
    let known = resolution::resolve_with_claimed(
        room.version,
        room.keys,
        desk,
        pdu,
        &before.state,
        claimed,
    )?;
    Ok(auth::check_against(
        room.version,
        pdu,
        |event_type, state_key| known.get(&StateKey::new(event_type, state_key)).cloned(),
    ))
}

fn check_against(room: &RoomFacts<'_>, desk: &Desk, pdu: &Pdu, state: &State) -> Checked {
    let result = auth::check_against(room.version, pdu, |event_type, state_key| {
        let entry = state.get_named(room.keys, event_type, state_key)?;
        desk.event(entry.event()).cloned()
    });
    if desk.is_complete() {
        Ok(result)
    } else {
        Err(Pending::Local)
    }
}

/// Check 6: the current state permits the event. Not for history, and not while the current state
/// is partial (R78).
pub(super) fn check_current(
    room: &RoomFacts<'_>,
    desk: &Desk,
    incoming: &Incoming,
    parents: &Parents,
    before: &KnownState,
) -> Checked {
    let gap = match &incoming.placement {
        Placement::Live => false,
        Placement::Pulled {
            backfilled: false, ..
        } => !parents.missing.is_empty(),
        _ => return Ok(Ok(())),
    };
    let Some(current) = room.current else {
        return Ok(Ok(()));
    };
    if !current.completeness.permits(Question::SoftFailure) {
        return Ok(Ok(()));
    }
    let at_extremities = !gap
        && parents.seen.len() == room.extremities.len()
        && parents
            .seen
            .iter()
            .all(|parent| room.extremities.contains(&parent.nr));
    if at_extremities {
        return Ok(Ok(()));
    }
    if gap {
        // Gaps are easily faked, and we may have been away: what we know counts too (R77).
        let known = resolve(room, desk, vec![current.clone(), before.clone()])?;
        return check_against(room, desk, &incoming.pdu, &known.state);
    }
    check_against(room, desk, &incoming.pdu, &current.state)
}

/// The policy server that has not signed an event.
pub(super) struct Unrecommended(pub(super) OwnedServerName);

/// Check 7: the room's policy server, if there is one by the current state, has signed the event. History
/// is looked at too, since a room may have got its policy server because of it. Our own join isn't:
/// the server that took it has asked.
pub(super) fn check_policy(
    room: &RoomFacts<'_>,
    desk: &Desk,
    incoming: &Incoming,
) -> Result<Result<(), Unrecommended>, Pending> {
    let is_asked_for = incoming.recommendation != Recommendation::NotWanted
        && !matches!(incoming.placement, Placement::RemoteJoin { .. })
        && !PolicyServer::exempts(&incoming.pdu);
    let Some(current) = room.current.filter(|_| is_asked_for) else {
        return Ok(Ok(()));
    };
    let Some(policy) = current.state.get_named(room.keys, POLICY, "") else {
        return Ok(Ok(()));
    };
    let Some(policy) = desk.event(policy.event()) else {
        return Err(Pending::Local);
    };
    match PolicyServer::of_room(&current.state, room.servers_at_join, policy) {
        Some(server) if !server.has_signed(room.version, &incoming.pdu) => {
            match incoming.recommendation {
                Recommendation::Asked => Ok(Err(Unrecommended(server.name))),
                _ => Err(Pending::Remote(RemoteNeed::PolicySignature(server))),
            }
        }
        _ => Ok(Ok(())),
    }
}
