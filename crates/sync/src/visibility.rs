//! Which events of a page a user may see. The rule is `core`'s; here is what it needs to know.

use std::{collections::HashMap, sync::Arc};

use myelin_core::{
    event::Event,
    number::{EventNr, SnapshotNr},
    state::Membership,
    visibility::{HistoryVisibility, UserFacts, user_may_see},
};
use myelin_rooms::{Room, Rooms};
use ruma::UserId;

use crate::{
    SyncError,
    access::{Access, placed},
    client_event::Seen,
};

/// What one state says about visibility.
#[derive(Clone, Copy)]
struct Facts {
    visibility: Option<EventNr>,
    membership: Option<Membership>,
}

/// Of some timeline events, in order, those that a user who reads the room by this right may see.
pub(crate) async fn visible(
    rooms: &Rooms,
    room: &Arc<Room>,
    user: &UserId,
    access: Access,
    events: Vec<Arc<Event>>,
) -> Result<Vec<Seen>, SyncError> {
    let mut facts: HashMap<SnapshotNr, Facts> = HashMap::new();
    for event in &events {
        if let Some(nr) = event.before().map(|before| before.snapshot())
            && !facts.contains_key(&nr)
        {
            facts.insert(nr, read_facts(rooms, room, user, nr).await?);
        }
    }
    let wanted = facts.values().filter_map(|facts| facts.visibility);
    let visibilities: HashMap<EventNr, HistoryVisibility> = room
        .events(rooms, wanted)
        .await?
        .into_iter()
        .map(|(nr, event)| (nr, HistoryVisibility::read(Some(&event.pdu))))
        .collect();
    let seen = events.into_iter().filter_map(|event| {
        let (position, before) = placed(&event)?;
        let facts = facts.get(&before.snapshot())?;
        let visibility = match facts.visibility {
            // A state may name an event that is not held; then nothing is known to be open.
            Some(nr) => *visibilities.get(&nr).unwrap_or(&HistoryVisibility::Joined),
            None => HistoryVisibility::read(None),
        };
        let membership = facts.membership;
        let may_see = access == Access::Administering
            || user_may_see(
                user,
                &event,
                &UserFacts {
                    visibility,
                    membership,
                    joined_later: access.joined_after(position),
                },
            );
        may_see.then(|| {
            let is_own = event.pdu.state_key.as_deref() == Some(user.as_str());
            let after = event.pdu.membership.filter(|_| is_own).or(membership);
            Seen {
                event,
                membership: Some(after.unwrap_or(Membership::Leave)),
                pruned: false,
            }
        })
    });
    let mut seen: Vec<Seen> = seen.collect();
    prune_erased(rooms, &mut seen).await?;
    Ok(seen)
}

/// Who wanted to be forgotten is shown without words to those who were not there, however open the history
/// is (client-server API, "Deactivating accounts").
async fn prune_erased(rooms: &Rooms, seen: &mut [Seen]) -> Result<(), SyncError> {
    let was_there = |seen: &Seen| seen.membership == Some(Membership::Join);
    let strange = seen.iter().filter(|seen| !was_there(seen));
    let senders = strange.map(|seen| &*seen.event.pdu.sender);
    let erased = rooms.erased(senders).await?;
    for seen in seen {
        seen.pruned |= !was_there(seen) && erased.contains(&seen.event.pdu.sender);
    }
    Ok(())
}

/// The user is this server's own, so its membership is known even from a partial state.
async fn read_facts(
    rooms: &Rooms,
    room: &Arc<Room>,
    user: &UserId,
    nr: SnapshotNr,
) -> Result<Facts, SyncError> {
    let state = room.state(rooms, nr).await?;
    let keys = room.keys();
    let visibility = state.get_named(&keys, "m.room.history_visibility", "");
    let member = state.get_named(&keys, myelin_core::key_table::MEMBER, user.as_str());
    Ok(Facts {
        visibility: visibility.map(|entry| entry.event()),
        membership: member.and_then(|entry| entry.membership()),
    })
}
