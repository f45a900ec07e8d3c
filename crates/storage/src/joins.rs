//! Joins under way, rooms whose state is partial, and events that could not be pulled.

use myelin_core::number::{EventNr, RoomNr};
use ruma::{EventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};

use crate::{Row, StorageError, Tx, event_id, param::message};

statements! {
    /// A join begins.
    PUT_JOIN = "INSERT INTO join_records (room_id, user_id, candidates, content, started_ts)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT (room_id, user_id) DO UPDATE SET
        candidates = excluded.candidates, content = excluded.content, started_ts = excluded.started_ts";
    /// Joins that have neither succeeded nor failed.
    JOINS = "SELECT room_id, user_id, candidates, content, started_ts FROM join_records ORDER BY started_ts";
    /// A join is over.
    DELETE_JOIN = "DELETE FROM join_records WHERE room_id = $1 AND user_id = $2";
    /// A room becomes partial.
    PUT_PARTIAL_ROOM = "INSERT INTO partial_rooms (room, join_event, served_by, servers, attempts, next_try_ts)
        VALUES ($1, $2, $3, $4, 0, 0) ON CONFLICT (room) DO UPDATE SET
        served_by = excluded.served_by, servers = excluded.servers, next_try_ts = 0";
    /// Partial rooms.
    PARTIAL_ROOMS = "SELECT room, join_event, served_by, servers, attempts, next_try_ts, last_error
        FROM partial_rooms ORDER BY room";
    /// One partial room.
    PARTIAL_ROOM = "SELECT room, join_event, served_by, servers, attempts, next_try_ts, last_error
        FROM partial_rooms WHERE room = $1";
    /// A resync attempt failed.
    RESYNC_FAILED = "UPDATE partial_rooms SET attempts = $2, next_try_ts = $3, last_error = $4 WHERE room = $1";
    /// The room is full.
    DELETE_PARTIAL_ROOM = "DELETE FROM partial_rooms WHERE room = $1";
    /// Failed pulls of an event.
    PULL_FAILURE = "SELECT attempts, last_ts FROM pull_failures WHERE event_id = $1";
    /// One more failed pull.
    PUT_PULL_FAILURE = "INSERT INTO pull_failures (event_id, attempts, last_ts, error) VALUES ($1, 1, $2, $3)
        ON CONFLICT (event_id) DO UPDATE SET attempts = pull_failures.attempts + 1,
        last_ts = excluded.last_ts, error = excluded.error";
    /// The event came after all.
    DELETE_PULL_FAILURE = "DELETE FROM pull_failures WHERE event_id = $1";
}

/// A join that was begun.
#[derive(Clone, Debug)]
pub struct JoinRecord {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who joins.
    pub user_id: OwnedUserId,
    /// The servers to ask, in order.
    pub candidates: Vec<OwnedServerName>,
    /// The content of the join event.
    pub content: String,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_ms: u64,
}

fn join_names(servers: &[OwnedServerName]) -> String {
    servers
        .iter()
        .map(|server| server.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

fn split_names(names: &str) -> Vec<OwnedServerName> {
    names
        .split_whitespace()
        .filter_map(|name| OwnedServerName::try_from(name).ok())
        .collect()
}

/// Writes down a join before the first request that changes anything elsewhere.
pub async fn put_join(tx: &mut Tx, join: &JoinRecord) -> Result<(), StorageError> {
    let candidates = join_names(&join.candidates);
    tx.run(
        PUT_JOIN,
        params![
            join.room_id.as_str(),
            join.user_id.as_str(),
            &candidates[..],
            join.content.as_bytes(),
            join.started_ms as i64
        ],
    )
    .await?;
    Ok(())
}

/// The joins that were begun and are not over.
pub async fn joins(tx: &mut Tx) -> Result<Vec<JoinRecord>, StorageError> {
    let corrupt = |error: &dyn std::fmt::Display| StorageError::Corrupt(error.to_string());
    let rows = tx.query(JOINS, params![]).await?;
    rows.iter()
        .map(|row| {
            Ok(JoinRecord {
                room_id: row.parsed(0)?,
                user_id: row.parsed(1)?,
                candidates: split_names(row.text(2)?),
                content: String::from_utf8(row.blob(3)?.to_vec())
                    .map_err(|error| corrupt(&error))?,
                started_ms: row.int(4)? as u64,
            })
        })
        .collect()
}

/// Forgets a join that is over.
pub async fn delete_join(
    tx: &mut Tx,
    room_id: &RoomId,
    user_id: &UserId,
) -> Result<(), StorageError> {
    tx.run(DELETE_JOIN, params![room_id.as_str(), user_id.as_str()])
        .await?;
    Ok(())
}

/// A room whose state is partial.
#[derive(Clone, Debug)]
pub struct PartialRoom {
    /// The room.
    pub room: RoomNr,
    /// Our user's join.
    pub join_event: EventNr,
    /// The server that answered `send_join`.
    pub served_by: OwnedServerName,
    /// The servers in the room at the join.
    pub servers: Vec<OwnedServerName>,
    /// How often the resync has failed.
    pub attempts: u32,
    /// When it is tried again, in milliseconds since the Unix epoch.
    pub next_try_ms: u64,
    /// Why it failed last.
    pub last_error: Option<String>,
}

fn read_partial(row: &Row) -> Result<PartialRoom, StorageError> {
    let served_by = row.parsed(2)?;
    Ok(PartialRoom {
        room: RoomNr(row.int(0)?),
        join_event: EventNr(row.int(1)?),
        served_by,
        servers: split_names(row.text(3)?),
        attempts: u32::try_from(row.int(4)?).unwrap_or(u32::MAX),
        next_try_ms: row.int(5)? as u64,
        last_error: row.opt_text(6)?.map(str::to_owned),
    })
}

/// Marks a room as partial, or refreshes the servers of one that already is (W19).
pub async fn put_partial(tx: &mut Tx, partial: &PartialRoom) -> Result<(), StorageError> {
    let servers = join_names(&partial.servers);
    tx.run(
        PUT_PARTIAL_ROOM,
        params![
            partial.room.0,
            partial.join_event.0,
            partial.served_by.as_str(),
            &servers[..]
        ],
    )
    .await?;
    Ok(())
}

/// All partial rooms.
pub async fn partial_rooms(tx: &mut Tx) -> Result<Vec<PartialRoom>, StorageError> {
    tx.query(PARTIAL_ROOMS, params![])
        .await?
        .iter()
        .map(read_partial)
        .collect()
}

/// A room's partial record, if it is partial.
pub async fn partial_room(tx: &mut Tx, room: RoomNr) -> Result<Option<PartialRoom>, StorageError> {
    tx.query_opt(PARTIAL_ROOM, params![room.0])
        .await?
        .as_ref()
        .map(read_partial)
        .transpose()
}

/// Notes that a resync failed and when it is tried again.
pub async fn resync_failed(
    tx: &mut Tx,
    room: RoomNr,
    attempts: u32,
    next_try_ms: u64,
    error: &str,
) -> Result<(), StorageError> {
    let error = message(error);
    tx.run(
        RESYNC_FAILED,
        params![room.0, i64::from(attempts), next_try_ms as i64, &error[..]],
    )
    .await?;
    Ok(())
}

/// Marks a room as full.
pub async fn delete_partial(tx: &mut Tx, room: RoomNr) -> Result<(), StorageError> {
    tx.run(DELETE_PARTIAL_ROOM, params![room.0]).await?;
    Ok(())
}

/// How often an event could not be pulled, and when last in milliseconds since the Unix epoch.
pub async fn pull_failure(tx: &mut Tx, id: &EventId) -> Result<Option<(u32, u64)>, StorageError> {
    let id = event_id::to_stored(id);
    let row = tx.query_opt(PULL_FAILURE, params![&id[..]]).await?;
    row.map(|row| {
        Ok((
            u32::try_from(row.int(0)?).unwrap_or(u32::MAX),
            row.int(1)? as u64,
        ))
    })
    .transpose()
}

/// Counts one more failed pull.
pub async fn put_pull_failure(
    tx: &mut Tx,
    id: &EventId,
    now_ms: u64,
    error: &str,
) -> Result<(), StorageError> {
    let id = event_id::to_stored(id);
    let error = message(error);
    tx.run(
        PUT_PULL_FAILURE,
        params![&id[..], now_ms as i64, &error[..]],
    )
    .await?;
    Ok(())
}

/// Forgets the failed pulls of an event that is stored now.
pub async fn delete_pull_failure(tx: &mut Tx, id: &EventId) -> Result<(), StorageError> {
    let id = event_id::to_stored(id);
    tx.run(DELETE_PULL_FAILURE, params![&id[..]]).await?;
    Ok(())
}
