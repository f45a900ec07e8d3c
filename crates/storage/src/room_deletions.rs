//! Rooms that administrators delete: what they want, how far it is, and what came of it.

use myelin_core::number::RoomNr;
use ruma::{OwnedRoomId, RoomId};

use crate::{Row, StorageError, Tx, param::message};

statements! {
    /// A deletion begins, unless the room is being deleted.
    PUT = "INSERT INTO room_deletions (deletion, room_id, status, wish, outcome, begun_ms)
        VALUES ($1, $2, 'active', $3, $4, $5) ON CONFLICT DO NOTHING";
    /// One of them.
    BY_ID = "SELECT deletion, room_id, status, wish, outcome, error, remains FROM room_deletions
        WHERE deletion = $1";
    /// Those of a room, oldest first.
    OF_ROOM = "SELECT deletion, room_id, status, wish, outcome, error, remains FROM room_deletions
        WHERE room_id = $1 ORDER BY begun_ms, deletion";
    /// Those that are not at their end.
    UNFINISHED = "SELECT deletion, room_id, status, wish, outcome, error, remains FROM room_deletions
        WHERE status = 'active' OR remains IS NOT NULL ORDER BY begun_ms, deletion";
    /// What was done so far.
    SET_OUTCOME = "UPDATE room_deletions SET outcome = $2 WHERE deletion = $1";
    /// Rows with this number are left.
    SET_REMAINS = "UPDATE room_deletions SET remains = $2 WHERE deletion = $1";
    /// None are.
    CLEAR_REMAINS = "UPDATE room_deletions SET remains = NULL WHERE deletion = $1";
    /// Its end.
    FINISH = "UPDATE room_deletions SET status = $2, outcome = $3, error = $4, finished_ms = $5
        WHERE deletion = $1";
    /// Nobody asks for these any more.
    DELETE_OLD = "DELETE FROM room_deletions WHERE finished_ms < $1 AND remains IS NULL";
}

/// How far a deletion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Under way.
    Active,
    /// Done.
    Complete,
    /// Given up.
    Failed,
}

impl Status {
    /// As it is stored, and called in Synapse's admin API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Complete => "complete",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn from_name(name: &str) -> Result<Self, StorageError> {
        [Self::Active, Self::Complete, Self::Failed]
            .into_iter()
            .find(|status| status.name() == name)
            .ok_or_else(|| StorageError::Corrupt(format!("a deletion is {name}")))
    }
}

/// The deletion of a room.
#[derive(Clone, Debug)]
pub struct RoomDeletion {
    /// Its ID.
    pub id: String,
    /// The room.
    pub room_id: OwnedRoomId,
    /// How far it is.
    pub status: Status,
    /// What is wanted, as JSON.
    pub wish: Vec<u8>,
    /// What was done so far, as JSON.
    pub outcome: Vec<u8>,
    /// Why it failed.
    pub error: Option<String>,
    /// The number that the room had, as long as rows with it may be left.
    pub remains: Option<RoomNr>,
}

fn read(row: &Row) -> Result<RoomDeletion, StorageError> {
    Ok(RoomDeletion {
        id: row.text(0)?.to_owned(),
        room_id: row.parsed(1)?,
        status: Status::from_name(row.text(2)?)?,
        wish: row.blob(3)?.to_vec(),
        outcome: row.blob(4)?.to_vec(),
        error: row.opt_text(5)?.map(str::to_owned),
        remains: row.opt_int(6)?.map(RoomNr),
    })
}

/// Begins a deletion at a time in Unix milliseconds. False if the room is being deleted already.
pub async fn put(tx: &mut Tx, new: &RoomDeletion, now_ms: u64) -> Result<bool, StorageError> {
    let values = params![
        &new.id[..],
        new.room_id.as_str(),
        &new.wish[..],
        &new.outcome[..],
        now_ms
    ];
    Ok(tx.execute(PUT, values).await? == 1)
}

/// A deletion by its ID.
pub async fn by_id(tx: &mut Tx, id: &str) -> Result<Option<RoomDeletion>, StorageError> {
    let row = tx.query_opt(BY_ID, params![id]).await?;
    row.as_ref().map(read).transpose()
}

/// All deletions of a room that are on record, oldest first.
pub async fn of_room(tx: &mut Tx, room_id: &RoomId) -> Result<Vec<RoomDeletion>, StorageError> {
    let rows = tx.query(OF_ROOM, params![room_id.as_str()]).await?;
    rows.iter().map(read).collect()
}

/// Deletions that are under way, or have left rows.
pub async fn unfinished(tx: &mut Tx) -> Result<Vec<RoomDeletion>, StorageError> {
    let rows = tx.query(UNFINISHED, params![]).await?;
    rows.iter().map(read).collect()
}

/// Notes what was done so far.
pub async fn set_outcome(tx: &mut Tx, id: &str, outcome: &[u8]) -> Result<(), StorageError> {
    tx.execute(SET_OUTCOME, params![id, outcome])
        .await
        .map(drop)
}

/// Notes that rows with the room's number may be left, or that none are.
pub async fn set_remains(
    tx: &mut Tx,
    id: &str,
    remains: Option<RoomNr>,
) -> Result<(), StorageError> {
    let done = match remains {
        Some(room) => tx.execute(SET_REMAINS, params![id, room]).await,
        None => tx.execute(CLEAR_REMAINS, params![id]).await,
    };
    done.map(drop)
}

/// Ends a deletion as it is, at a time in Unix milliseconds.
pub async fn finish(tx: &mut Tx, ended: &RoomDeletion, now_ms: u64) -> Result<(), StorageError> {
    let error = ended.error.as_deref().map(message);
    let values = params![
        &ended.id[..],
        ended.status.name(),
        &ended.outcome[..],
        error.as_deref(),
        now_ms
    ];
    tx.execute(FINISH, values).await.map(drop)
}

/// Forgets deletions that ended before a time in Unix milliseconds.
pub async fn delete_before(tx: &mut Tx, before_ms: u64) -> Result<u64, StorageError> {
    tx.execute(DELETE_OLD, params![before_ms]).await
}
