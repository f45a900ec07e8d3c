//! State resolution (versions 1, 2 and 2.1) of whole states, on the part of them that conflicts.
//!
//! A room's states are large and mostly shared, so nothing here may cost what a state weighs. The
//! algorithm itself (`state_res`) gets the entries that differ, the shared entries that the
//! authorisation rules look at, and the auth difference, which is found (`auth_difference`) without
//! walking the auth chains of what is shared. The result is then laid over the shared rest.
//!
//! Everything is looked up on the [`Desk`]. What is missing there is recorded, and the call ends
//! with [`ResolutionError::Incomplete`]: load it and call again. A call looks as far as it can
//! before it gives up, so that a few rounds are enough.

mod auth_difference;
mod auth_graph;
mod conflict;
mod first_version;
mod state_res;

use std::{collections::BTreeMap, sync::Arc};

use ruma::OwnedEventId;

use self::{auth_graph::AuthGraph, conflict::Conflict};
use crate::{
    auth,
    desk::Desk,
    event::Event,
    key_table::{KeyTable, StateKey},
    pdu::Pdu,
    room_version::RoomVersion,
    state::{Entry, State},
};

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolutionError {
    /// Something is missing on the desk and was recorded there. Load it and call again.
    #[error("more has to be loaded")]
    Incomplete,
    /// The auth chain of a stored event has a hole: this server does not hold the event named here.
    /// Resolving around it could give a different result from that of other servers. Fetch it.
    #[error("event {0} is part of an auth chain but not held")]
    Gap(OwnedEventId),
    /// The result has entries whose keys have no number yet. Give them numbers and call again.
    #[error("{} keys have no number", .0.len())]
    Unnumbered(Vec<StateKey>),
    /// An event that decides about power is malformed, so events cannot be put in order. The
    /// authorisation rules of all supported room versions reject such events.
    #[error("an event that decides about power is malformed")]
    Malformed,
    /// There was no state to resolve.
    #[error("there is no state to resolve")]
    NoState,
}

/// Entries against which an event is authorised.
pub type AuthState = BTreeMap<StateKey, Arc<Event>>;

/// Resolves several states of one room (specification, room version 2, "State resolution"; room
/// version 1 for its own algorithm, room version 12 for version 2.1, MSC4297). The order of `states` doesn't matter.
///
/// # What belongs to an auth chain
/// The specification defines the auth difference by the auth chains of a state's events, and an
/// event's auth chain as everything it reaches *through* its auth events. Read to the letter, an
/// event that all states share would be in the auth difference if events of only some of the states
/// cite it. Here, as in Synapse and in the test suites of the other implementations, a state's
/// chain includes the state's own events, so what all states share is never replayed. The two
/// readings can give different results in contrived forks, and servers of one room have to agree.
///
/// # Errors
/// [`ResolutionError::Incomplete`] until everything that matters is on the desk; the others say
/// what to do about them.
pub fn resolve(
    version: RoomVersion,
    keys: &KeyTable,
    desk: &Desk,
    states: &[State],
) -> Result<State, ResolutionError> {
    let states = conflict::distinct(states);
    let [first, _, ..] = states.as_slice() else {
        return states
            .first()
            .map(|state| (*state).clone())
            .ok_or(ResolutionError::NoState);
    };
    let conflict = Conflict::between_states(keys, desk, &states)?;
    let mut resolved = match version.resolves_as_at_first() {
        true => first_version::resolve(version, desk, &conflict)?,
        false => resolve_conflict(version, desk, &conflict)?,
    };

    let mut result = (*first).clone();
    for key in conflict.numbered_keys() {
        let entry = keys
            .name(key)
            .and_then(|name| resolved.remove(&**name))
            .as_deref()
            .map(entry);
        result.set(keys, key, entry);
    }
    // What is left are events of the auth difference whose keys no state has.
    let mut unnumbered = Vec::new();
    for (name, event) in resolved {
        match keys.number(&name.event_type, &name.state_key) {
            Some(key) => result.set(keys, key, Some(entry(&event))),
            None => unnumbered.push(name),
        }
    }
    if unnumbered.is_empty() {
        Ok(result)
    } else {
        Err(ResolutionError::Unnumbered(unnumbered))
    }
}

fn entry(event: &Event) -> Entry {
    Entry::new(event.nr, event.pdu.membership)
}

/// What an event is to be judged by (check 5) while the state before it lacks members (MSC3902):
/// the resolution of that state and of the auth events that the event claims. Bans which this
/// server knows of win, memberships which it doesn't know come from the claim.
///
/// Only the keys that the authorisation rules look at for this event take part; both maps are
/// restricted to them before they are resolved. That is what makes it cheap, and it is a definition
/// of its own: in a resolution of the whole state with the claim every entry would conflict, since
/// the claim has next to none of them, and the whole state would be replayed. For the keys in
/// question the two agree on entries that both maps have. The restricted one does not let entries
/// that the event has nothing to do with decide over it: a join that the claim brings is judged by
/// the join rules which *it* cites, not by those that came later. Servers need not agree here: each
/// of them knows different members, and the resync judges the event anew by its full state. So
/// version 2 of the algorithm does for rooms of version 1 too, whose own would judge by the two small maps alone.
///
/// # Errors
/// As for [`resolve`], without [`ResolutionError::Unnumbered`].
pub fn resolve_with_claimed(
    version: RoomVersion,
    keys: &KeyTable,
    desk: &Desk,
    event: &Pdu,
    before: &State,
    claimed: &[Arc<Event>],
) -> Result<AuthState, ResolutionError> {
    let relevant = auth::auth_keys(version, event).map_err(|_| ResolutionError::Malformed)?;
    let mut claimed = claimed
        .iter()
        .filter_map(|event| Some((conflict::name_of(event)?, event.clone())))
        .collect::<AuthState>();
    let create = StateKey::new("m.room.create", "");
    let names = relevant
        .into_iter()
        .chain(claimed.keys().cloned())
        .chain([create.clone()]);
    let known = conflict::load(keys, desk, before, names)?;

    if version.room_id_is_create_hash()
        && let Some(event) = known.get(&create)
    {
        // The room's ID claims it.
        claimed.insert(create, event.clone());
    }
    let (conflict, mut result) = Conflict::between_maps(&known, &claimed);
    if !conflict.is_empty() {
        result.extend(resolve_conflict(version, desk, &conflict)?);
    }
    Ok(result)
}

/// The entries that the conflicted keys get, and those of other keys that the replay of the auth
/// difference brings up.
fn resolve_conflict(
    version: RoomVersion,
    desk: &Desk,
    conflict: &Conflict<'_>,
) -> Result<AuthState, ResolutionError> {
    let mut graph = AuthGraph::new(desk);
    // These are needed in the end; asked for now, they come with the first rounds.
    let early = conflict.shared_auth_events(version, desk, conflict.events());
    let create = conflict
        .events()
        .find_map(|event| auth::implied_create_event(version, &event.pdu));
    if let Some(create) = create {
        desk.event_by_id(&create);
    }
    let subgraph = version
        .rules()
        .state_res
        .v2_rules()
        .is_some_and(|rules| rules.consider_conflicted_state_subgraph)
        .then(|| graph.paths_between(conflict.events()));
    let difference = auth_difference::auth_difference(&mut graph, conflict)?;
    graph.check()?;
    early.ok_or(ResolutionError::Incomplete)?;
    state_res::replay(version, desk, conflict, &difference, subgraph.as_deref())
}
