//! Judging events anew once more is known of the state before them.

use std::collections::BTreeMap;

use ruma::OwnedEventId;

use super::{
    Decision, KnownState, Parents, Pending, RemoteNeed, RoomFacts,
    checks::{check_before, check_claimed, claimed_auth_events},
    conclude,
    states::{resolve, state_after},
};
use crate::{
    desk::Desk,
    event::{Event, Verdict},
};

/// A timeline event with the full state before it.
#[derive(Clone, Debug)]
pub struct Rejudged {
    /// That state.
    pub before: KnownState,
    /// What the checks say now.
    pub verdict: Verdict,
    /// Why it was rejected.
    pub reason: Option<String>,
}

/// Judges a timeline event again now that the states after all its parents may be full: checks 4
/// and 5 (L38). A soft-failure stays as it is, since it is a matter of the time of arrival.
pub fn judge_again(
    room: &RoomFacts<'_>,
    desk: &Desk,
    event: &Event,
    after_missing: &BTreeMap<OwnedEventId, KnownState>,
) -> Decision<Rejudged> {
    conclude(desk, rejudge(room, desk, event, after_missing))
}

fn rejudge(
    room: &RoomFacts<'_>,
    desk: &Desk,
    event: &Event,
    after_missing: &BTreeMap<OwnedEventId, KnownState>,
) -> Result<Rejudged, Pending> {
    let parents = Parents::find(desk, &event.pdu);
    let claimed = claimed_auth_events(desk, &event.pdu)?;
    let mut states = Vec::new();
    for parent in &parents.seen {
        states.extend(state_after(room.keys, desk, parent));
    }
    let without_state: Vec<_> = parents
        .missing
        .iter()
        .filter(|id| !after_missing.contains_key(*id))
        .cloned()
        .collect();
    if !desk.is_complete() {
        return Err(Pending::Local);
    }
    if !without_state.is_empty() {
        return Err(Pending::Remote(RemoteNeed::StatesAfter(without_state)));
    }
    states.extend(
        parents
            .missing
            .iter()
            .filter_map(|id| after_missing.get(id))
            .cloned(),
    );
    let before = resolve(room, desk, states)?;
    let checks = check_claimed(room, desk, &event.pdu, &claimed)?
        .and(check_before(room, desk, &event.pdu, &before, &claimed)?);
    let (verdict, reason) = match checks {
        Err(rejection) => (Verdict::Rejected, Some(rejection.to_string())),
        Ok(()) if event.verdict == Verdict::SoftFailed => (Verdict::SoftFailed, None),
        Ok(()) => (Verdict::Accepted, None),
    };
    Ok(Rejudged {
        before,
        verdict,
        reason,
    })
}
