//! What clients keep for their users: account data, about rooms and otherwise.

use std::collections::HashMap;

use myelin_core::number::StreamPosition;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// New data takes the place of what there was.
    PUT_DATA = "INSERT INTO account_data (user_id, room_id, data_type, content, position)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (user_id, room_id, data_type) DO UPDATE SET
            content = excluded.content, position = excluded.position";
    /// Nobody else changes the data until the end of the transaction.
    LOCK_DATA = "INSERT INTO account_data (user_id, room_id, data_type, content, position)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (user_id, room_id, data_type) DO UPDATE SET position = excluded.position
        RETURNING content";
    /// Data of one type.
    DATA = "SELECT content FROM account_data WHERE user_id = $1 AND room_id = $2 AND data_type = $3";
    /// Data of one type about no room, of several users.
    DATA_OF_USERS = "SELECT user_id, content FROM account_data
        WHERE user_id IN text_list($1) AND room_id = '' AND data_type = $2";
    /// Data about one room, or about none, that was put in a span of the stream.
    DATA_AFTER = "SELECT data_type, content FROM account_data
        WHERE user_id = $1 AND room_id = $2 AND position > $3 AND position <= $4 ORDER BY position";
    /// The joined rooms of a user about which data was put in a span of the stream.
    ROOMS_WITH_DATA = "SELECT DISTINCT r.room_id FROM account_data d
        JOIN rooms r ON r.room_id = d.room_id
        JOIN local_memberships m ON m.room = r.room AND m.user_id = d.user_id AND m.membership = 'join'
        WHERE d.user_id = $1 AND d.position > $2 AND d.position <= $3";
}

/// Data of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountData {
    /// The type.
    pub data_type: String,
    /// A JSON object.
    pub content: Vec<u8>,
}

/// Stores data about a room, or about none.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    user: &UserId,
    room_id: Option<&RoomId>,
    data: &AccountData,
    position: StreamPosition,
) -> Result<(), StorageError> {
    let AccountData { data_type, content } = data;
    let values = params![
        user.as_str(),
        name(room_id),
        &data_type[..],
        &content[..],
        position
    ];
    tx.run(PUT_DATA, values).await
}

/// The content of the data of one type, an empty object if there was none, for it to be changed in the same
/// transaction.
///
/// # Errors
/// Any [`StorageError`].
pub async fn content_to_change(
    tx: &mut Tx,
    user: &UserId,
    room_id: Option<&RoomId>,
    data_type: &str,
    position: StreamPosition,
) -> Result<Vec<u8>, StorageError> {
    let empty: &[u8] = b"{}";
    let values = params![user.as_str(), name(room_id), data_type, empty, position];
    let row = tx.query_opt(LOCK_DATA, values).await?;
    row.map_or_else(|| Ok(empty.to_vec()), |row| Ok(row.blob(0)?.to_vec()))
}

/// The content of the data of one type.
///
/// # Errors
/// Any [`StorageError`].
pub async fn content(
    tx: &mut Tx,
    user: &UserId,
    room_id: Option<&RoomId>,
    data_type: &str,
) -> Result<Option<Vec<u8>>, StorageError> {
    let row = tx
        .query_opt(DATA, params![user.as_str(), name(room_id), data_type])
        .await?;
    row.map(|row| Ok(row.blob(0)?.to_vec())).transpose()
}

/// The content of the data of one type about no room, of those of some users who have such data.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_users(
    tx: &mut Tx,
    users: &[OwnedUserId],
    data_type: &str,
) -> Result<HashMap<OwnedUserId, Vec<u8>>, StorageError> {
    let users: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
    let rows = tx.query(DATA_OF_USERS, params![users, data_type]).await?;
    rows.iter()
        .map(|row| Ok((row.parsed(0)?, row.blob(1)?.to_vec())))
        .collect()
}

/// The data about a room, or about none, that was put after a position and up to another, in order.
///
/// # Errors
/// Any [`StorageError`].
pub async fn within(
    tx: &mut Tx,
    user: &UserId,
    room_id: Option<&RoomId>,
    (after, upto): (StreamPosition, StreamPosition),
) -> Result<Vec<AccountData>, StorageError> {
    let rows = tx
        .query(
            DATA_AFTER,
            params![user.as_str(), name(room_id), after, upto],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(AccountData {
                data_type: row.text(0)?.to_owned(),
                content: row.blob(1)?.to_vec(),
            })
        })
        .collect()
}

/// The rooms where the user is and about which data was put after a position and up to another.
///
/// # Errors
/// Any [`StorageError`].
pub async fn rooms_with_news(
    tx: &mut Tx,
    user: &UserId,
    (after, upto): (StreamPosition, StreamPosition),
) -> Result<Vec<OwnedRoomId>, StorageError> {
    let rows = tx
        .query(ROOMS_WITH_DATA, params![user.as_str(), after, upto])
        .await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}

fn name(room_id: Option<&RoomId>) -> &str {
    room_id.map_or("", RoomId::as_str)
}
