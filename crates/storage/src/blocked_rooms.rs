//! Rooms that no user of this server shall come into.

use ruma::{OwnedUserId, RoomId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// Blocks a room; who did it first stays.
    BLOCK = "INSERT INTO blocked_rooms (room_id, blocked_by) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    /// A room is blocked no longer.
    UNBLOCK = "DELETE FROM blocked_rooms WHERE room_id = $1";
    /// Who blocked a room.
    BLOCKED_BY = "SELECT blocked_by FROM blocked_rooms WHERE room_id = $1";
}

/// Blocks a room, whether it is known here or not.
///
/// # Errors
/// Any [`StorageError`].
pub async fn block(tx: &mut Tx, room: &RoomId, by: &UserId) -> Result<(), StorageError> {
    tx.run(BLOCK, params![room.as_str(), by.as_str()]).await?;
    Ok(())
}

/// Blocks a room no longer.
///
/// # Errors
/// Any [`StorageError`].
pub async fn unblock(tx: &mut Tx, room: &RoomId) -> Result<(), StorageError> {
    tx.run(UNBLOCK, params![room.as_str()]).await?;
    Ok(())
}

/// Who blocked a room, if anybody did.
///
/// # Errors
/// Any [`StorageError`].
pub async fn blocked_by(tx: &mut Tx, room: &RoomId) -> Result<Option<OwnedUserId>, StorageError> {
    let row = tx.query_opt(BLOCKED_BY, params![room.as_str()]).await?;
    row.map(|row| row.parsed(0)).transpose()
}
