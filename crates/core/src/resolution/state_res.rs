//! The one place that runs `ruma-state-res`' algorithm.
//!
//! It keeps its intermediate results in hash maps with a random order. What comes out doesn't
//! depend on that: events are replayed in orders that are total (power or mainline position, then
//! time stamp, then event ID), and the rest are sets. Only which of several malformed events an
//! error names would depend on it, so its errors are not passed on. And it silently drops events
//! that it cannot fetch, so a result is only used if every one was there.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use ruma::{
    EventId, OwnedEventId,
    room_version_rules::StateResolutionV2Rules,
    state_res::{StateMap, utils::event_id_set::EventIdSet},
};

use super::{AuthState, ResolutionError, conflict::Conflict};
use crate::{
    desk::Desk,
    event::Event,
    event_type::{key_for_ruma, key_from_ruma},
    key_table::StateKey,
    room_version::RoomVersion,
};

/// Replays the full conflicted set: the conflicted events, the auth `difference`, and with version
/// 2.1 the conflicted `subgraph`. Gives the entries of all keys that are not shared.
pub(super) fn replay(
    version: RoomVersion,
    desk: &Desk,
    conflict: &Conflict<'_>,
    difference: &[Arc<Event>],
    subgraph: Option<&[Arc<Event>]>,
) -> Result<AuthState, ResolutionError> {
    let full_conflicted = conflict
        .events()
        .chain(difference)
        .chain(subgraph.into_iter().flatten());
    let relevant = conflict
        .shared_auth_events(version, desk, full_conflicted)
        .ok_or(ResolutionError::Incomplete)?;
    let maps = conflict
        .differing()
        .iter()
        .map(|differing| relevant.iter().chain(differing).map(to_ruma).collect())
        .collect::<Vec<StateMap<OwnedEventId>>>();

    let failed = Cell::new(None);
    let fetch = |id: &EventId| {
        let event = desk.event_by_id(id);
        if event.is_none() {
            note_failure(&failed, desk, id);
        }
        event.cloned()
    };
    let rules = version.rules();
    let resolved = ruma::state_res::resolve(
        &rules.authorization,
        rules
            .state_res
            .v2_rules()
            .unwrap_or(&StateResolutionV2Rules::V2_0),
        &maps,
        vec![ids(difference), EventIdSet::new()],
        fetch,
        |_| Some(ids(subgraph.unwrap_or_default())),
    );
    if let Some(error) = failed.take() {
        return Err(error);
    }
    let resolved = resolved.map_err(|_| ResolutionError::Malformed)?;
    // Step 5: what is shared wins. Of that, ruma was given the relevant entries only.
    resolved
        .into_iter()
        .map(|(key, id)| (key_from_ruma(key), id))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .filter(|(name, _)| conflict.shared(&name.event_type, &name.state_key).is_none())
        .map(|(name, id)| {
            let event = desk.event_by_id(&id).ok_or(ResolutionError::Incomplete)?;
            Ok((name, event.clone()))
        })
        .collect()
}

/// Remembers what stands in the way. A hole outweighs what can be loaded, the smallest ID another.
fn note_failure(failed: &Cell<Option<ResolutionError>>, desk: &Desk, id: &EventId) {
    let failure = match failed.take() {
        Some(ResolutionError::Gap(other)) if !desk.lacks(id) || *other < *id => {
            ResolutionError::Gap(other)
        }
        _ if desk.lacks(id) => ResolutionError::Gap(id.to_owned()),
        _ => ResolutionError::Incomplete,
    };
    failed.set(Some(failure));
}

fn to_ruma(
    (name, event): (&StateKey, &Arc<Event>),
) -> ((ruma::events::StateEventType, String), OwnedEventId) {
    (key_for_ruma(name), event.pdu.event_id.clone())
}

fn ids(events: &[Arc<Event>]) -> EventIdSet<OwnedEventId> {
    events
        .iter()
        .map(|event| event.pdu.event_id.clone())
        .collect()
}
