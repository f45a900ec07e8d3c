//! Rooms that guests of this server have to leave.

use myelin_core::number::{EventNr, RoomNr, StreamPosition};
use ruma::OwnedUserId;

use crate::{Row, StorageError, Tx};

statements! {
    /// The guests in a room have to leave.
    PUT = "INSERT INTO guest_departures (room, position) VALUES ($1, $2)
        ON CONFLICT (room) DO UPDATE SET position = excluded.position";
    /// Rooms that guests have to leave.
    OPEN = "SELECT room, position FROM guest_departures WHERE room > $1 AND position <= $2
        ORDER BY room LIMIT $3";
    /// The guests have left, unless there is a later reason.
    DELETE = "DELETE FROM guest_departures WHERE room = $1 AND position = $2";
    /// This server's users who are in a room or invited since a position at the latest.
    CONCERNED = "SELECT user_id, event FROM local_memberships
        WHERE room = $1 AND membership IN ('join', 'invite') AND position <= $2 AND user_id > $3
        ORDER BY user_id LIMIT $4";
}

/// A room that guests have to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestDeparture {
    /// The room.
    pub room: RoomNr,
    /// Those who came in later may stay.
    pub position: StreamPosition,
}

/// Notes that guests have to leave a room.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(tx: &mut Tx, departure: GuestDeparture) -> Result<(), StorageError> {
    tx.run(PUT, params![departure.room, departure.position])
        .await?;
    Ok(())
}

/// The next rooms that guests have to leave for a reason that can be read at `upto`, `limit` at most, in the
/// order of their numbers.
///
/// # Errors
/// Any [`StorageError`].
pub async fn open(
    tx: &mut Tx,
    after: RoomNr,
    upto: StreamPosition,
    limit: usize,
) -> Result<Vec<GuestDeparture>, StorageError> {
    let rows = tx.query(OPEN, params![after, upto, limit]).await?;
    let departure = |row: &Row| {
        Ok(GuestDeparture {
            room: RoomNr(row.int(0)?),
            position: StreamPosition(row.int(1)?),
        })
    };
    rows.iter().map(departure).collect()
}

/// The guests have left. A note with a later reason stays.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete(tx: &mut Tx, departure: GuestDeparture) -> Result<(), StorageError> {
    tx.run(DELETE, params![departure.room, departure.position])
        .await?;
    Ok(())
}

/// The next of this server's users who may have to leave, with their membership events: those who are in the room
/// or invited, `limit` at most, in the order of their IDs.
///
/// # Errors
/// Any [`StorageError`].
pub async fn concerned(
    tx: &mut Tx,
    departure: GuestDeparture,
    after: &str,
    limit: usize,
) -> Result<Vec<(OwnedUserId, EventNr)>, StorageError> {
    let values = params![departure.room, departure.position, after, limit];
    let rows = tx.query(CONCERNED, values).await?;
    let concerned = |row: &Row| Ok((row.parsed(0)?, EventNr(row.int(1)?)));
    rows.iter().map(concerned).collect()
}
