//! Who may share a room with whom. A room's numbering of state keys says who was ever anything in it:
//! who is in it now, the room's state has to say.

use ruma::{OwnedRoomId, OwnedUserId, UserId};

use crate::{Row, StorageError, Tx};

statements! {
    /// The rooms in which some users may share one with a user of this server.
    SHARED_WITH = "SELECT k.state_key, r.room_id FROM state_keys k
        JOIN rooms r ON r.room = k.room
        WHERE k.event_type = 'm.room.member' AND k.state_key IN text_list($2) AND EXISTS (
            SELECT 1 FROM local_memberships m
            WHERE m.user_id = $1 AND m.room = k.room AND m.membership = 'join')";
    /// The rooms in which some users may share one with anybody of this server.
    SHARED_WITH_ANY = "SELECT k.state_key, r.room_id FROM state_keys k
        JOIN rooms r ON r.room = k.room
        WHERE k.event_type = 'm.room.member' AND k.state_key IN text_list($1) AND EXISTS (
            SELECT 1 FROM local_memberships m WHERE m.room = k.room AND m.membership = 'join')";
    /// The users of this server who may share a room with some users.
    LOCAL_USERS_NEAR = "SELECT DISTINCT user_id FROM local_memberships
        WHERE membership = 'join' AND room IN (SELECT k.room FROM state_keys k
            WHERE k.event_type = 'm.room.member' AND k.state_key IN text_list($1))";
}

/// A user, and a room that it may share with another.
pub type MaybeShared = (OwnedUserId, OwnedRoomId);

/// The rooms of a user of this server in which some others may be.
///
/// # Errors
/// Any [`StorageError`].
pub async fn with_user(
    tx: &mut Tx,
    viewer: &UserId,
    others: &[OwnedUserId],
) -> Result<Vec<MaybeShared>, StorageError> {
    let rows = tx
        .query(SHARED_WITH, params![viewer.as_str(), names(others)])
        .await?;
    rows.iter().map(read).collect()
}

/// The rooms with users of this server in which some others may be.
///
/// # Errors
/// Any [`StorageError`].
pub async fn with_anybody(
    tx: &mut Tx,
    others: &[OwnedUserId],
) -> Result<Vec<MaybeShared>, StorageError> {
    let rows = tx.query(SHARED_WITH_ANY, params![names(others)]).await?;
    rows.iter().map(read).collect()
}

/// The users of this server in whose rooms some users may be.
///
/// # Errors
/// Any [`StorageError`].
pub async fn local_users_near(
    tx: &mut Tx,
    users: &[OwnedUserId],
) -> Result<Vec<OwnedUserId>, StorageError> {
    let rows = tx.query(LOCAL_USERS_NEAR, params![names(users)]).await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}

fn names(users: &[OwnedUserId]) -> Vec<&str> {
    users.iter().map(|user| user.as_str()).collect()
}

fn read(row: &Row) -> Result<MaybeShared, StorageError> {
    Ok((row.parsed(0)?, row.parsed(1)?))
}
