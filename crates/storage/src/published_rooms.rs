//! The rooms that this server lists in its public directory.

use myelin_core::number::RoomNr;
use ruma::OwnedRoomId;

use crate::{StorageError, Tx};

statements! {
    /// Lists a room.
    PUBLISH = "INSERT INTO published_rooms (room) VALUES ($1) ON CONFLICT DO NOTHING";
    /// Lists a room no longer.
    UNPUBLISH = "DELETE FROM published_rooms WHERE room = $1";
    /// Whether a room is listed.
    IS_PUBLISHED = "SELECT room FROM published_rooms WHERE room = $1";
    /// All rooms that are listed.
    PUBLISHED = "SELECT r.room_id FROM published_rooms p JOIN rooms r ON r.room = p.room ORDER BY p.room";
}

/// Lists a room, or lists it no longer.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set(tx: &mut Tx, room: RoomNr, published: bool) -> Result<(), StorageError> {
    let statement = if published { PUBLISH } else { UNPUBLISH };
    tx.run(statement, params![room.0]).await?;
    Ok(())
}

/// Whether a room is listed.
///
/// # Errors
/// Any [`StorageError`].
pub async fn contains(tx: &mut Tx, room: RoomNr) -> Result<bool, StorageError> {
    let row = tx.query_opt(IS_PUBLISHED, params![room.0]).await?;
    Ok(row.is_some())
}

/// All rooms that are listed, in no particular order.
///
/// # Errors
/// Any [`StorageError`].
pub async fn all(tx: &mut Tx) -> Result<Vec<OwnedRoomId>, StorageError> {
    let rows = tx.query(PUBLISHED, params![]).await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}
