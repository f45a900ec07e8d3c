//! What becomes of an event: the checks on receipt of a PDU that depend on other events, and what
//! follows for the room's graph and state (server-server API, "Checks performed on receipt of a
//! PDU", 4 to 7).
//!
//! [`decide`] is pure. What it needs is on the [`Desk`]; what it misses there it asks for, and the
//! caller calls again. A result that was computed with something missing never leaves this module.

mod again;
mod checks;
mod states;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedEventId, events::TimelineEventType};

use crate::{
    completeness::Completeness,
    desk::{Desk, Needed},
    event::{Event, Verdict},
    key_table::{KeyTable, StateKey},
    number::EventNr,
    pdu::{CREATE, Pdu},
    policy_server::PolicyServer,
    resolution::ResolutionError,
    room_version::RoomVersion,
    state::State,
    validate::ValidPdu,
};

pub use self::{
    again::{Rejudged, judge_again},
    states::{apply, current_state, state_after},
};

use self::{
    checks::{
        Unrecommended, check_before, check_claimed, check_current, check_policy,
        claimed_auth_events,
    },
    states::{moves, state_before},
};

/// A state and whether it has all memberships.
#[derive(Clone, Debug)]
pub struct KnownState {
    /// The entries.
    pub state: State,
    /// Whether memberships may be missing.
    pub completeness: Completeness,
}

/// How an event came to us, and what that permits.
#[derive(Clone, Debug)]
pub enum Placement {
    /// Pushed by another server, or made by one of our users: all its parents must be in the
    /// timeline, or its origin could choose the room's state (R50).
    Live,
    /// Asked for. A parent that isn't in the timeline is replaced by the state after it, as another
    /// server gave it.
    Pulled {
        /// Whether it is history: no current state, no extremity, no soft-failure.
        backfilled: bool,
        /// The states after parents that aren't in the timeline.
        after_missing: BTreeMap<OwnedEventId, KnownState>,
    },
    /// Our own join through another server, which gave the state before it.
    RemoteJoin {
        /// That state.
        before: KnownState,
    },
    /// Outside the graph; judged by its claimed auth events alone.
    Outlier,
}

/// What has been done to get the signature of the room's policy server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recommendation {
    /// Nothing: if the event lacks the signature, the server is to be asked.
    NotAsked,
    /// The server was asked. An event that lacks its signature is soft-failed.
    Asked,
    /// No signature is wanted, since the event isn't sent as it is.
    NotWanted,
}

/// An event to be judged.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The number it has or gets.
    pub nr: EventNr,
    /// The event. Its (type, state key) is in the room's numbering.
    pub pdu: ValidPdu,
    /// How it came.
    pub placement: Placement,
    /// Whether a timeline event that was accepted already has it as its parent, or behind parents that
    /// were rejected or soft-failed.
    pub is_built_upon: bool,
    /// What is known of the policy server's opinion.
    pub recommendation: Recommendation,
}

/// What is known of the room.
#[derive(Clone, Copy, Debug)]
pub struct RoomFacts<'a> {
    /// Its version.
    pub version: RoomVersion,
    /// Its numbering.
    pub keys: &'a KeyTable,
    /// Its forward extremities.
    pub extremities: &'a BTreeSet<EventNr>,
    /// Its current state; `None` as long as it has no timeline.
    pub current: Option<&'a KnownState>,
    /// Below this depth nothing is held.
    pub min_depth: i64,
    /// The state of a room without events.
    pub empty: &'a State,
    /// While the current state is partial: the servers that were in the room at the join.
    pub servers_at_join: &'a [String],
}

/// What the caller has to get from other servers before an event can be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteNeed {
    /// Parents of a live event.
    Parents(Vec<OwnedEventId>),
    /// The states after parents of a pulled event.
    StatesAfter(Vec<OwnedEventId>),
    /// Claimed auth events.
    AuthEvents(Vec<OwnedEventId>),
    /// The signature of the room's policy server.
    PolicySignature(PolicyServer),
}

/// Why an event is neither stored nor waited for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DropReason {
    /// It is in the timeline already.
    #[error("the event is known")]
    Known,
    /// Its parents are missing and it is too old to ask for them (R51).
    #[error("the event's parents are missing and it lies below what this server holds")]
    BelowMinimumDepth,
    /// It is a create event, and the room has one.
    #[error("the room has another create event")]
    SecondCreate,
    /// The states that it brings together cannot be resolved.
    #[error("the states before the event cannot be resolved")]
    Unresolvable,
}

/// The outcome of a question to this module.
#[derive(Clone, Debug)]
pub enum Decision<T> {
    /// Load these and ask again.
    NeedLocal(BTreeSet<Needed>),
    /// Give these pairs numbers and ask again.
    NeedKeys(Vec<StateKey>),
    /// Get this from other servers and ask again.
    NeedRemote(RemoteNeed),
    /// Nothing can be done.
    Drop(DropReason),
    /// The answer.
    Done(T),
}

impl RemoteNeed {
    /// What figures call it.
    fn name(&self) -> &'static str {
        match self {
            Self::Parents(_) => "needs parents",
            Self::StatesAfter(_) => "needs states",
            Self::AuthEvents(_) => "needs auth events",
            Self::PolicySignature(_) => "needs a policy server",
        }
    }
}

impl DropReason {
    /// What figures call it.
    fn name(&self) -> &'static str {
        match self {
            Self::Known => "dropped as known",
            Self::BelowMinimumDepth => "dropped as too old",
            Self::SecondCreate => "dropped as a second create event",
            Self::Unresolvable => "dropped as unresolvable",
        }
    }
}

impl Decision<Plan> {
    /// What figures call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NeedLocal(_) | Self::NeedKeys(_) => "needs more of the room",
            Self::NeedRemote(need) => need.name(),
            Self::Drop(reason) => reason.name(),
            Self::Done(plan) => plan.verdict.name(),
        }
    }
}

/// What to store.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The event's number.
    pub nr: EventNr,
    /// The event.
    pub pdu: Arc<Pdu>,
    /// What the checks said.
    pub verdict: Verdict,
    /// Why it was rejected or soft-failed.
    pub reason: Option<String>,
    /// Its claimed auth events.
    pub auth_events: Vec<EventNr>,
    /// Its place in the graph; `None` for an outlier.
    pub timeline: Option<TimelinePlan>,
}

/// What a timeline event does to the room.
#[derive(Clone, Debug)]
pub struct TimelinePlan {
    /// The state before the event.
    pub before: KnownState,
    /// Whether it is history.
    pub backfilled: bool,
    /// The forward extremities and the current state from now on, if it moves them.
    pub moves: Option<Moves>,
}

/// A room's new forward extremities and state.
#[derive(Clone, Debug)]
pub struct Moves {
    /// The extremities.
    pub extremities: BTreeSet<EventNr>,
    /// The state.
    pub current: KnownState,
}

/// An event that isn't stored because something cannot be computed yet.
enum Pending {
    Local,
    Keys(Vec<StateKey>),
    Remote(RemoteNeed),
    Drop(DropReason),
}

impl From<ResolutionError> for Pending {
    fn from(error: ResolutionError) -> Self {
        match error {
            ResolutionError::Incomplete => Self::Local,
            ResolutionError::Gap(id) => Self::Remote(RemoteNeed::AuthEvents(vec![id])),
            ResolutionError::Unnumbered(keys) => Self::Keys(keys),
            ResolutionError::Malformed | ResolutionError::NoState => {
                Self::Drop(DropReason::Unresolvable)
            }
        }
    }
}

/// Judges an event: what to store of it, if anything.
pub fn decide(room: &RoomFacts<'_>, desk: &Desk, incoming: &Incoming) -> Decision<Plan> {
    conclude(
        desk,
        match &incoming.placement {
            Placement::Outlier => judge_outlier(room, desk, incoming),
            _ => judge_timeline(room, desk, incoming),
        },
    )
}

/// A result counts only if nothing was missing while it was computed.
fn conclude<T>(desk: &Desk, result: Result<T, Pending>) -> Decision<T> {
    let missing = desk.take_missing();
    match result {
        Err(Pending::Drop(reason)) => Decision::Drop(reason),
        _ if !missing.is_empty() => Decision::NeedLocal(missing),
        Ok(answer) => Decision::Done(answer),
        Err(Pending::Keys(keys)) => Decision::NeedKeys(keys),
        Err(Pending::Remote(need)) => Decision::NeedRemote(need),
        Err(Pending::Local) => Decision::Drop(DropReason::Unresolvable),
    }
}

/// A room has one create event. Up to room version 11 its ID does not say which, and the rules permit any
/// that comes from the server in the ID.
fn must_not_be_second_create(room: &RoomFacts<'_>, incoming: &Incoming) -> Result<(), Pending> {
    if incoming.pdu.event_type != TimelineEventType::RoomCreate {
        return Ok(());
    }
    let current = room.current.map(|current| &current.state);
    match current.and_then(|state| state.get_named(room.keys, CREATE, "")) {
        Some(create) if create.event() != incoming.nr => {
            Err(Pending::Drop(DropReason::SecondCreate))
        }
        _ => Ok(()),
    }
}

fn judge_outlier(room: &RoomFacts<'_>, desk: &Desk, incoming: &Incoming) -> Result<Plan, Pending> {
    must_not_be_second_create(room, incoming)?;
    if desk.event_by_id(&incoming.pdu.event_id).is_some() {
        return Err(Pending::Drop(DropReason::Known));
    }
    let claimed = claimed_auth_events(desk, &incoming.pdu)?;
    let (verdict, reason) = match check_claimed(room, desk, &incoming.pdu, &claimed)? {
        Ok(()) => (Verdict::Accepted, None),
        Err(rejection) => (Verdict::Rejected, Some(rejection.to_string())),
    };
    Ok(plan(incoming, verdict, reason, &claimed, None))
}

fn judge_timeline(room: &RoomFacts<'_>, desk: &Desk, incoming: &Incoming) -> Result<Plan, Pending> {
    let pdu = &incoming.pdu;
    must_not_be_second_create(room, incoming)?;
    if desk
        .event_by_id(&pdu.event_id)
        .is_some_and(|event| event.in_timeline())
    {
        return Err(Pending::Drop(DropReason::Known));
    }
    let parents = Parents::find(desk, pdu);
    if !desk.is_complete() {
        return Err(Pending::Local);
    }
    parents.must_suffice(room, incoming)?;
    let claimed = claimed_auth_events(desk, pdu)?;
    let before = state_before(room, desk, incoming, &parents)?;
    let mut verdict = Verdict::Accepted;
    let mut reason = None;
    let checks = check_claimed(room, desk, pdu, &claimed)?
        .and(check_before(room, desk, pdu, &before, &claimed)?);
    if let Err(rejection) = checks {
        verdict = Verdict::Rejected;
        reason = Some(rejection.to_string());
    } else if let Err(rejection) = check_current(room, desk, incoming, &parents, &before)? {
        verdict = Verdict::SoftFailed;
        reason = Some(rejection.to_string());
    } else if let Err(Unrecommended(server)) = check_policy(room, desk, incoming)? {
        verdict = Verdict::SoftFailed;
        reason = Some(format!(
            "the room's policy server {server} has not signed it"
        ));
    }
    let backfilled = matches!(
        incoming.placement,
        Placement::Pulled {
            backfilled: true,
            ..
        }
    );
    let moves = if verdict == Verdict::Accepted && !backfilled && !incoming.is_built_upon {
        Some(moves(room, desk, incoming, &parents, &before)?)
    } else {
        None
    };
    let timeline = TimelinePlan {
        before,
        backfilled,
        moves,
    };
    Ok(plan(incoming, verdict, reason, &claimed, Some(timeline)))
}

fn plan(
    incoming: &Incoming,
    verdict: Verdict,
    reason: Option<String>,
    claimed: &[Arc<Event>],
    timeline: Option<TimelinePlan>,
) -> Plan {
    Plan {
        nr: incoming.nr,
        pdu: incoming.pdu.pdu().clone(),
        verdict,
        reason,
        auth_events: claimed.iter().map(|event| event.nr).collect(),
        timeline,
    }
}

/// An event's parents, apart by whether they are in the timeline.
struct Parents {
    seen: Vec<Arc<Event>>,
    missing: Vec<OwnedEventId>,
}

impl Parents {
    fn find(desk: &Desk, pdu: &Pdu) -> Self {
        let mut parents = Self {
            seen: Vec::new(),
            missing: Vec::new(),
        };
        for id in &pdu.prev_events {
            match desk.event_by_id(id) {
                Some(parent) if parent.in_timeline() => parents.seen.push(parent.clone()),
                _ => parents.missing.push(id.clone()),
            }
        }
        parents
    }

    /// Missing parents are asked for, or what the placement brought stands in for them.
    fn must_suffice(&self, room: &RoomFacts<'_>, incoming: &Incoming) -> Result<(), Pending> {
        if self.missing.is_empty() {
            return Ok(());
        }
        match &incoming.placement {
            Placement::RemoteJoin { .. } | Placement::Outlier => Ok(()),
            Placement::Live if incoming.pdu.depth <= room.min_depth => {
                Err(Pending::Drop(DropReason::BelowMinimumDepth))
            }
            Placement::Live => Err(Pending::Remote(RemoteNeed::Parents(self.missing.clone()))),
            Placement::Pulled { after_missing, .. } => {
                let without_state: Vec<_> = self
                    .missing
                    .iter()
                    .filter(|id| !after_missing.contains_key(*id))
                    .cloned()
                    .collect();
                if without_state.is_empty() {
                    Ok(())
                } else {
                    Err(Pending::Remote(RemoteNeed::StatesAfter(without_state)))
                }
            }
        }
    }
}
