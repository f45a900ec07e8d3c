//! This server's aliases of rooms.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// The room behind an alias.
    ALIAS = "SELECT room_id, creator FROM room_aliases WHERE alias = $1";
    /// A new alias.
    PUT_ALIAS = "INSERT INTO room_aliases (alias, room_id, creator) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    /// An alias that ends.
    DELETE_ALIAS = "DELETE FROM room_aliases WHERE alias = $1";
    /// Makes a room's aliases another's.
    MOVE_ALIASES = "UPDATE room_aliases SET room_id = $2 WHERE room_id = $1";
    /// The aliases of a room.
    ALIASES_OF_ROOM = "SELECT alias FROM room_aliases WHERE room_id = $1 ORDER BY alias";
}

/// What an alias stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who made the alias.
    pub creator: OwnedUserId,
}

/// What one of this server's aliases stands for.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_name(tx: &mut Tx, alias: &str) -> Result<Option<Alias>, StorageError> {
    let row = tx.query_opt(ALIAS, params![alias]).await?;
    row.map(|row| {
        Ok(Alias {
            room_id: row.parsed(0)?,
            creator: row.parsed(1)?,
        })
    })
    .transpose()
}

/// Gives a room an alias. False if the alias is taken.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    alias: &str,
    room_id: &RoomId,
    creator: &UserId,
) -> Result<bool, StorageError> {
    let row = params![alias, room_id.as_str(), creator.as_str()];
    Ok(tx.execute(PUT_ALIAS, row).await? == 1)
}

/// Ends an alias. False if there was none.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete(tx: &mut Tx, alias: &str) -> Result<bool, StorageError> {
    Ok(tx.execute(DELETE_ALIAS, params![alias]).await? == 1)
}

/// This server's aliases of a room, sorted.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_room(tx: &mut Tx, room_id: &RoomId) -> Result<Vec<String>, StorageError> {
    let rows = tx.query(ALIASES_OF_ROOM, params![room_id.as_str()]).await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
}

/// Makes all of a room's aliases lead to another room.
///
/// # Errors
/// Any [`StorageError`].
pub async fn move_all(tx: &mut Tx, from: &RoomId, to: &RoomId) -> Result<(), StorageError> {
    tx.run(MOVE_ALIASES, params![from.as_str(), to.as_str()])
        .await?;
    Ok(())
}
