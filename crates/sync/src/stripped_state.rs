//! What somebody who was invited, or who knocks, may know of a room (client-server API, "Stripped state").

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::number::EventNr;
use myelin_rooms::{Room, Rooms};
use myelin_storage::StorageError;
use serde_json::value::to_raw_value;

use crate::{
    SyncError,
    access::placed,
    answer::StrippedEvent,
    client_event::{EventJson, shown},
};

/// The stripped state that goes with an invite or a knock: what the room was when it was made, if this server
/// knows that, and the event itself.
pub(crate) async fn stripped_state(
    rooms: &Rooms,
    room: &Arc<Room>,
    membership: EventNr,
) -> Result<Vec<EventJson>, SyncError> {
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
        let Some(state_key) = &pdu.state_key else {
            continue;
        };
        let json = to_raw_value(&StrippedEvent {
            content: &pdu.content,
            sender: pdu.sender.as_str(),
            state_key,
            event_type: &pdu.event_type.to_string(),
        });
        stripped.push(json.map_err(|error| StorageError::Corrupt(error.to_string()))?);
    }
    Ok(stripped)
}
