//! What somebody who was invited, or who knocks, may know of a room (client-server API, "Stripped state").

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::{key_table::MEMBER, number::EventNr, pdu::Pdu};
use myelin_rooms::{Room, Rooms};
use myelin_storage::StorageError;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::value::to_raw_value;

use crate::{
    SyncError,
    access::placed,
    answer::StrippedEvent,
    client_event::{EventJson, shown},
};

/// The stripped state that goes with an invite or a knock of a user: what the room was when it was made, as this
/// server or the inviting one knows that, and the event itself.
pub(crate) async fn stripped_state(
    rooms: &Rooms,
    room: &Arc<Room>,
    user: &UserId,
    membership: EventNr,
) -> Result<Vec<EventJson>, SyncError> {
    if let Some(known) = rooms.out_of_band(room, user).await?
        && known.event.nr == membership
    {
        let is_other = |json: &EventJson| !says_membership_of(json, user);
        let mut stripped: Vec<_> = known.stripped_state.into_iter().filter(is_other).collect();
        stripped.extend(strip(&known.event.pdu)?);
        return Ok(stripped);
    }
    let found = room.events(rooms, [membership]).await?;
    let mut wanted = BTreeSet::from([membership]);
    if let Some(event) = found.get(&membership)
        && let Some((_, before)) = placed(event)
    {
        let state = room.state(rooms, before.snapshot()).await?;
        wanted.extend(room.telling_events(&state, &event.pdu.sender));
    }
    let mut events: Vec<_> = room.events(rooms, wanted).await?.into_values().collect();
    // The membership last: it is what the rest explains.
    events.sort_by_key(|event| (event.nr == membership, event.nr));
    let mut stripped = Vec::new();
    for event in events {
        let pdu = shown(room, &event)?;
        stripped.extend(strip(&pdu)?);
    }
    Ok(stripped)
}

/// Whether the last of some stripped events, which is the membership, was made by one of some users.
pub(crate) fn ends_with_one_by(stripped: &[EventJson], users: &[OwnedUserId]) -> bool {
    #[derive(Deserialize)]
    struct Sender {
        sender: String,
    }
    let last = stripped.last().filter(|_| !users.is_empty());
    let sender = last.and_then(|json| serde_json::from_str::<Sender>(json.get()).ok());
    sender.is_some_and(|last| users.iter().any(|user| *user == last.sender))
}

/// A state event as those see it who are not in the room.
fn strip(pdu: &Pdu) -> Result<Option<EventJson>, SyncError> {
    let Some(state_key) = &pdu.state_key else {
        return Ok(None);
    };
    let json = to_raw_value(&StrippedEvent {
        content: &pdu.content,
        sender: pdu.sender.as_str(),
        state_key,
        event_type: &pdu.event_type.to_string(),
    });
    Ok(Some(json.map_err(|error| {
        StorageError::Corrupt(error.to_string())
    })?))
}

/// Whether a stripped event is a membership of a user: of that, the event itself is shown.
fn says_membership_of(json: &EventJson, user: &UserId) -> bool {
    #[derive(Deserialize)]
    struct Key {
        #[serde(rename = "type")]
        event_type: String,
        state_key: String,
    }
    serde_json::from_str::<Key>(json.get())
        .is_ok_and(|key| key.event_type == MEMBER && key.state_key == user.as_str())
}
