//! Memberships of this server's own users in rooms that it is not in: invites, knocks, and what became
//! of them.

use std::sync::Arc;

use myelin_core::{
    event::{Event, Place, Verdict},
    number::{EventNr, RoomNr},
    pdu::Pdu,
};
use ruma::{OwnedServerName, UserId};
use serde_json::value::RawValue;

use crate::{StorageError, Tx, event_id, events::RoomKey};

statements! {
    /// What a user is to a room that this server is not in.
    OUT_OF_BAND = "SELECT event, event_id, json, stripped_state, via
        FROM out_of_band_memberships WHERE room = $1 AND user_id = $2";
    /// Notes that.
    PUT_OUT_OF_BAND = "INSERT INTO out_of_band_memberships (room, user_id, event, event_id, json, stripped_state, via)
        VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (room, user_id) DO UPDATE SET
        event = excluded.event, event_id = excluded.event_id, json = excluded.json, stripped_state = excluded.stripped_state,
        via = excluded.via";
    /// The room itself says what the user is to it.
    DELETE_OUT_OF_BAND = "DELETE FROM out_of_band_memberships WHERE room = $1 AND user_id = $2";
}

/// A membership in a room that this server is not in.
#[derive(Clone, Debug)]
pub struct OutOfBand {
    /// The membership event. It is judged by its signatures alone.
    pub event: Arc<Event>,
    /// What the user may know of the room: stripped state events.
    pub stripped_state: Vec<Box<RawValue>>,
    /// The server through which the room can be reached.
    pub via: OwnedServerName,
}

/// What a user is to a room that this server is not in.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_user(
    tx: &mut Tx,
    key: &RoomKey,
    user: &UserId,
) -> Result<Option<OutOfBand>, StorageError> {
    let row = tx
        .query_opt(OUT_OF_BAND, params![key.room.0, user.as_str()])
        .await?;
    let Some(row) = row else { return Ok(None) };
    let corrupt = |error: &dyn std::fmt::Display| StorageError::Corrupt(error.to_string());
    let id = event_id::from_stored(row.blob(1)?)?;
    let json = std::str::from_utf8(row.blob(2)?).map_err(|error| corrupt(&error))?;
    let pdu = Pdu::from_stored(key.version, id, json).map_err(|error| corrupt(&error))?;
    Ok(Some(OutOfBand {
        event: Arc::new(Event {
            nr: EventNr(row.int(0)?),
            pdu: Arc::new(pdu),
            verdict: Verdict::Accepted,
            place: Place::Outlier,
            redacted_by: None,
        }),
        stripped_state: serde_json::from_slice(row.blob(3)?).map_err(|error| corrupt(&error))?,
        via: row.parsed(4)?,
    }))
}

/// Notes what the target of a membership event is to a room that this server is not in.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(tx: &mut Tx, room: RoomNr, new: &OutOfBand) -> Result<(), StorageError> {
    let Some(user) = &new.event.pdu.state_key else {
        return Ok(());
    };
    let stripped = serde_json::to_vec(&new.stripped_state)
        .map_err(|error| StorageError::Corrupt(error.to_string()))?;
    let id = event_id::to_stored(&new.event.pdu.event_id);
    let (nr, json) = (new.event.nr.0, new.event.pdu.json.as_bytes());
    tx.run(
        PUT_OUT_OF_BAND,
        params![
            room.0,
            &user[..],
            nr,
            &id[..],
            json,
            &stripped[..],
            new.via.as_str()
        ],
    )
    .await?;
    Ok(())
}

/// Forgets what a user was to a room from outside: the room itself says what it is now.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete(tx: &mut Tx, room: RoomNr, user: &UserId) -> Result<(), StorageError> {
    tx.run(DELETE_OUT_OF_BAND, params![room.0, user.as_str()])
        .await?;
    Ok(())
}
