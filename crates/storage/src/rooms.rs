//! Rooms, their numbering of state keys, and what local users are to them.

use myelin_core::{
    completeness::{Completeness, StateRef},
    key_table::StateKey,
    number::{EventNr, KeyNr, RoomNr, SnapshotNr, StreamPosition},
    room_version::RoomVersion,
    state::Membership,
};
use std::borrow::Cow;

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{Row, StorageError, Tx, events::RoomKey};

statements! {
    /// A room by its ID.
    ROOM_BY_ID = "SELECT room, room_id, version, revision, snapshot, partial, min_depth FROM rooms WHERE room_id = $1";
    /// A room by its number.
    ROOM_BY_NUMBER = "SELECT room, room_id, version, revision, snapshot, partial, min_depth FROM rooms WHERE room = $1";
    /// A new room.
    PUT_ROOM = "INSERT INTO rooms (room, room_id, version, revision, partial, min_depth)
        VALUES ($1, $2, $3, 0, FALSE, 0) ON CONFLICT (room_id) DO NOTHING";
    /// A room without a timeline gets another number and version, as if nothing had been written of it.
    RENUMBER_ROOM = "UPDATE rooms SET room = $2, version = $3, revision = 0
        WHERE room = $1 AND snapshot IS NULL";
    /// What local users are to a room with another number.
    RENUMBER_MEMBERSHIPS = "UPDATE local_memberships SET room = $2 WHERE room = $1";
    /// What its users are to it from outside.
    RENUMBER_OUT_OF_BAND = "UPDATE out_of_band_memberships SET room = $2 WHERE room = $1";
    /// Events that wait for a room with another number.
    RENUMBER_STAGED = "UPDATE staged_pdus SET room = $2 WHERE room = $1";
    /// Of what its users are told there.
    RENUMBER_NOTIFICATIONS = "UPDATE notifications SET room = $2 WHERE room = $1";
    /// Who cites what, for all events of a room.
    FORGET_AUTH_EDGES = "DELETE FROM auth_edges WHERE event IN (SELECT event FROM events WHERE room = $1)";
    /// All events of a room.
    FORGET_EVENTS = "DELETE FROM events WHERE room = $1";
    /// A room's numbering.
    FORGET_STATE_KEYS = "DELETE FROM state_keys WHERE room = $1";
    /// The room's new current state.
    UPDATE_ROOM = "UPDATE rooms SET revision = $3, snapshot = $4, partial = $5, min_depth = $6
        WHERE room = $1 AND revision = $2";
    /// The highest room number.
    LAST_ROOM = "SELECT COALESCE(MAX(room), 0) FROM rooms";
    /// A room's numbering.
    STATE_KEYS = "SELECT key, event_type, state_key FROM state_keys WHERE room = $1 ORDER BY key";
    /// One more number.
    PUT_STATE_KEY = "INSERT INTO state_keys (room, key, event_type, state_key) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING";
    /// The current state from a position on.
    PUT_ROOM_STATE = "INSERT INTO room_states (room, position, snapshot, partial) VALUES ($1, $2, $3, $4)
        ON CONFLICT (room, position) DO UPDATE SET snapshot = excluded.snapshot, partial = excluded.partial";
    /// The current state as of a position.
    ROOM_STATE_AT = "SELECT snapshot, partial FROM room_states WHERE room = $1 AND position <= $2
        ORDER BY position DESC LIMIT 1";
    /// A room's current state as of two positions.
    ROOM_STATES_AT = "SELECT * FROM (SELECT TRUE AS later, snapshot, partial FROM room_states
            WHERE room = $1 AND position <= $3 ORDER BY position DESC LIMIT 1) AS upto
        UNION ALL SELECT * FROM (SELECT FALSE AS later, snapshot, partial FROM room_states
            WHERE room = $1 AND position <= $2 ORDER BY position DESC LIMIT 1) AS since";
    /// The highest position of a current state.
    LAST_STATE_POSITION = "SELECT COALESCE(MAX(position), 0) FROM room_states";
    /// What a local user is to a room from now on.
    PUT_LOCAL_MEMBERSHIP = "INSERT INTO local_memberships (user_id, room, membership, event, position, forgotten)
        VALUES ($1, $2, $3, $4, $5, FALSE)
        ON CONFLICT (user_id, room) DO UPDATE SET membership = excluded.membership,
            event = excluded.event, position = excluded.position, forgotten = FALSE";
    /// A local user's rooms.
    MEMBERSHIPS_OF_USER = "SELECT m.user_id, m.room, r.room_id, m.membership, m.event, m.position
        FROM local_memberships m JOIN rooms r ON r.room = m.room
        WHERE m.user_id = $1 AND NOT m.forgotten ORDER BY m.room";
    /// A room's local users.
    MEMBERSHIPS_OF_ROOM = "SELECT m.user_id, m.room, r.room_id, m.membership, m.event, m.position
        FROM local_memberships m JOIN rooms r ON r.room = m.room
        WHERE m.room = $1 ORDER BY m.user_id";
    /// A user who is not in the room any more doesn't want to hear of it.
    FORGET = "UPDATE local_memberships SET forgotten = TRUE
        WHERE user_id = $1 AND room = $2 AND membership IN ('leave', 'ban')";
    /// All rooms with a timeline here.
    ROOM_IDS = "SELECT room_id FROM rooms WHERE snapshot IS NOT NULL ORDER BY room_id";
    /// A secret or another single value.
    SETTING = "SELECT value FROM settings WHERE name = $1";
    /// Sets a single value that wasn't set.
    PUT_SETTING = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    /// Sets a single value.
    SET_SETTING = "INSERT INTO settings (name, value) VALUES ($1, $2)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
}

/// The settings for the highest number of a room, and position of a state, that may be gone.
const KEPT_NUMBER: &str = "last_room";
const KEPT_POSITION: &str = "last_state_position";

/// A room as it is stored.
#[derive(Clone, Debug)]
pub struct RoomRow {
    /// Number, ID and version.
    pub key: RoomKey,
    /// Counts the commits into the room.
    pub revision: i64,
    /// The current state; `None` as long as the room has no timeline.
    pub current: Option<StateRef>,
    /// Below this depth nothing is held.
    pub min_depth: i64,
}

pub(crate) fn read_key(row: &Row, first: usize) -> Result<RoomKey, StorageError> {
    let corrupt = |error: &dyn std::fmt::Display| StorageError::Corrupt(format!("room: {error}"));
    Ok(RoomKey {
        room: RoomNr(row.int(first)?),
        room_id: row.parsed(first + 1)?,
        version: RoomVersion::parse(row.text(first + 2)?).map_err(|error| corrupt(&error))?,
    })
}

fn read_room(row: Row) -> Result<RoomRow, StorageError> {
    let completeness = Completeness::from_stored(row.bool(5)?);
    Ok(RoomRow {
        key: read_key(&row, 0)?,
        revision: row.int(3)?,
        current: row
            .opt_int(4)?
            .map(|nr| StateRef::new(SnapshotNr(nr), completeness)),
        min_depth: row.int(6)?,
    })
}

/// A room by its ID.
pub async fn by_id(tx: &mut Tx, room_id: &RoomId) -> Result<Option<RoomRow>, StorageError> {
    tx.query_opt(ROOM_BY_ID, params![room_id.as_str()])
        .await?
        .map(read_room)
        .transpose()
}

/// A room by its number.
pub async fn by_number(tx: &mut Tx, room: RoomNr) -> Result<Option<RoomRow>, StorageError> {
    tx.query_opt(ROOM_BY_NUMBER, params![room.0])
        .await?
        .map(read_room)
        .transpose()
}

/// Stores a new room. False if there is one with this ID, which has a number of its own.
pub async fn put(tx: &mut Tx, key: &RoomKey) -> Result<bool, StorageError> {
    let new = params![key.room.0, key.room_id.as_str(), key.version.as_str()];
    Ok(tx.execute(PUT_ROOM, new).await? == 1)
}

/// Begins again with a room of which only outliers are held: they were read as if the room had
/// another version, and are forgotten. False if it has a timeline or another number by now.
pub async fn begin_again(tx: &mut Tx, old: RoomNr, key: &RoomKey) -> Result<bool, StorageError> {
    let renumbered = params![old.0, key.room.0, key.version.as_str()];
    if tx.execute(RENUMBER_ROOM, renumbered).await? == 0 {
        return Ok(false);
    }
    for statement in [
        RENUMBER_MEMBERSHIPS,
        RENUMBER_OUT_OF_BAND,
        RENUMBER_STAGED,
        RENUMBER_NOTIFICATIONS,
    ] {
        tx.run(statement, params![old.0, key.room.0]).await?;
    }
    for statement in [FORGET_AUTH_EDGES, FORGET_EVENTS, FORGET_STATE_KEYS] {
        tx.run(statement, params![old.0]).await?;
    }
    Ok(true)
}

/// Moves a room on by one revision. False if it isn't at `revision` any more: decide again.
pub async fn update(
    tx: &mut Tx,
    room: RoomNr,
    revision: i64,
    current: Option<StateRef>,
    min_depth: i64,
) -> Result<bool, StorageError> {
    let snapshot = current.map(|current| current.snapshot().0);
    let partial = current.is_some_and(|current| current.completeness().to_stored());
    let changed = tx
        .execute(
            UPDATE_ROOM,
            params![room.0, revision, revision + 1, snapshot, partial, min_depth],
        )
        .await?;
    Ok(changed == 1)
}

/// The highest room number that was given out.
pub async fn last_number(tx: &mut Tx) -> Result<i64, StorageError> {
    let row = tx.query_opt(LAST_ROOM, params![]).await?;
    let last = row.map(|row| row.int(0)).transpose()?.unwrap_or(0);
    Ok(last.max(kept(tx, KEPT_NUMBER).await?))
}

/// Keeps in mind how far numbers and positions have come, before rows that have some are deleted.
pub(crate) async fn keep_numbers(tx: &mut Tx) -> Result<(), StorageError> {
    let (number, position) = (last_number(tx).await?, last_state_position(tx).await?);
    keep(tx, KEPT_NUMBER, number).await?;
    keep(tx, KEPT_POSITION, position).await
}

/// Text of an event as a column that can't hold U+0000.
fn escaped(text: &str) -> Cow<'_, str> {
    if text.contains(['\0', '\u{1}']) {
        text.replace('\u{1}', "\u{1}1")
            .replace('\0', "\u{1}0")
            .into()
    } else {
        text.into()
    }
}

fn unescaped(stored: &str) -> String {
    stored.replace("\u{1}0", "\0").replace("\u{1}1", "\u{1}")
}

/// A room's numbering of state keys, ascending.
pub async fn state_keys(tx: &mut Tx, room: RoomNr) -> Result<Vec<(KeyNr, StateKey)>, StorageError> {
    let rows = tx.query(STATE_KEYS, params![room.0]).await?;
    rows.iter()
        .map(|row| {
            Ok((
                KeyNr(row.int(0)? as u32),
                StateKey::new(unescaped(row.text(1)?), unescaped(row.text(2)?)),
            ))
        })
        .collect()
}

/// Stores one more number.
pub async fn put_state_key(
    tx: &mut Tx,
    room: RoomNr,
    key: KeyNr,
    name: &StateKey,
) -> Result<(), StorageError> {
    let (event_type, state_key) = (escaped(&name.event_type), escaped(&name.state_key));
    tx.run(
        PUT_STATE_KEY,
        params![room.0, i64::from(key.0), &event_type[..], &state_key[..]],
    )
    .await?;
    Ok(())
}

/// Notes the current state from a position on.
pub async fn put_state_at(
    tx: &mut Tx,
    room: RoomNr,
    position: StreamPosition,
    current: StateRef,
) -> Result<(), StorageError> {
    let partial = current.completeness().to_stored();
    tx.run(
        PUT_ROOM_STATE,
        params![room.0, position.0, current.snapshot().0, partial],
    )
    .await?;
    Ok(())
}

/// The current state as it was at a position; `None` before the room's first one here.
pub async fn state_at(
    tx: &mut Tx,
    room: RoomNr,
    position: StreamPosition,
) -> Result<Option<StateRef>, StorageError> {
    let row = tx
        .query_opt(ROOM_STATE_AT, params![room.0, position.0])
        .await?;
    row.map(|row| read_state_ref(&row, 0)).transpose()
}

/// A room's current state as of two positions, the earlier first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn states_at(
    tx: &mut Tx,
    room: RoomNr,
    (since, upto): (StreamPosition, StreamPosition),
) -> Result<(Option<StateRef>, Option<StateRef>), StorageError> {
    let mut found = (None, None);
    for row in tx.query(ROOM_STATES_AT, params![room, since, upto]).await? {
        let state = Some(read_state_ref(&row, 1)?);
        match row.bool(0)? {
            true => found.1 = state,
            false => found.0 = state,
        }
    }
    Ok(found)
}

/// A snapshot's number and whether it is partial, from two columns.
fn read_state_ref(row: &Row, column: usize) -> Result<StateRef, StorageError> {
    let completeness = Completeness::from_stored(row.bool(column + 1)?);
    Ok(StateRef::new(SnapshotNr(row.int(column)?), completeness))
}

/// What a local user is to a room.
#[derive(Clone, Debug)]
pub struct LocalMembership {
    /// The user.
    pub user_id: OwnedUserId,
    /// The room.
    pub room: RoomNr,
    /// Its ID.
    pub room_id: OwnedRoomId,
    /// The value of `membership`.
    pub membership: String,
    /// The membership event.
    pub event: EventNr,
    /// When this became so.
    pub position: StreamPosition,
}

fn read_memberships(rows: &[Row]) -> Result<Vec<LocalMembership>, StorageError> {
    rows.iter()
        .map(|row| {
            Ok(LocalMembership {
                user_id: row.parsed(0)?,
                room: RoomNr(row.int(1)?),
                room_id: row.parsed(2)?,
                membership: row.text(3)?.to_owned(),
                event: EventNr(row.int(4)?),
                position: StreamPosition(row.int(5)?),
            })
        })
        .collect()
}

/// Notes what a local user is to a room from `position` on.
pub async fn put_local_membership(
    tx: &mut Tx,
    room: RoomNr,
    user: &UserId,
    membership: Membership,
    event: EventNr,
    position: StreamPosition,
) -> Result<(), StorageError> {
    tx.run(
        PUT_LOCAL_MEMBERSHIP,
        params![
            user.as_str(),
            room.0,
            membership.name(),
            event.0,
            position.0
        ],
    )
    .await?;
    Ok(())
}

/// Notes that a user doesn't want to hear of a room any more. False if the user is not out of it.
pub async fn forget(tx: &mut Tx, user: &UserId, room: RoomNr) -> Result<bool, StorageError> {
    let changed = tx.execute(FORGET, params![user.as_str(), room.0]).await?;
    Ok(changed == 1)
}

/// The rooms of a local user that it hasn't forgotten.
pub async fn memberships_of_user(
    tx: &mut Tx,
    user: &UserId,
) -> Result<Vec<LocalMembership>, StorageError> {
    read_memberships(
        &tx.query(MEMBERSHIPS_OF_USER, params![user.as_str()])
            .await?,
    )
}

/// The local users of a room, those who left included.
pub async fn memberships_of_room(
    tx: &mut Tx,
    room: RoomNr,
) -> Result<Vec<LocalMembership>, StorageError> {
    read_memberships(&tx.query(MEMBERSHIPS_OF_ROOM, params![room.0]).await?)
}

/// All rooms with a timeline here, in order of their IDs.
pub async fn all_ids(tx: &mut Tx) -> Result<Vec<OwnedRoomId>, StorageError> {
    let rows = tx.query(ROOM_IDS, params![]).await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}

/// A single value.
pub async fn setting(tx: &mut Tx, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
    let row = tx.query_opt(SETTING, params![name]).await?;
    row.map(|row| Ok(row.blob(0)?.to_vec())).transpose()
}

/// Sets a single value unless it has one, and returns the one that holds.
pub async fn setting_or(tx: &mut Tx, name: &str, value: &[u8]) -> Result<Vec<u8>, StorageError> {
    tx.run(PUT_SETTING, params![name, value]).await?;
    Ok(setting(tx, name).await?.unwrap_or_else(|| value.to_vec()))
}

/// Sets a single value.
pub async fn set_setting(tx: &mut Tx, name: &str, value: &[u8]) -> Result<(), StorageError> {
    tx.run(SET_SETTING, params![name, value]).await?;
    Ok(())
}

/// How far somebody has followed a stream, by the name of its setting; 0 at the beginning.
pub(crate) async fn cursor(tx: &mut Tx, name: &str) -> Result<StreamPosition, StorageError> {
    let Some(stored) = setting(tx, name).await? else {
        return Ok(StreamPosition(0));
    };
    let bytes = <[u8; 8]>::try_from(&stored[..])
        .map_err(|_| StorageError::Corrupt(format!("the setting {name}")))?;
    Ok(StreamPosition(i64::from_be_bytes(bytes)))
}

/// Sets how far somebody has followed a stream.
pub(crate) async fn set_cursor(
    tx: &mut Tx,
    name: &str,
    position: StreamPosition,
) -> Result<(), StorageError> {
    set_setting(tx, name, &position.0.to_be_bytes()).await
}

/// A number that was kept in mind, by the name of its setting; 0 if none was.
pub(crate) async fn kept(tx: &mut Tx, name: &str) -> Result<i64, StorageError> {
    Ok(cursor(tx, name).await?.0)
}

/// Keeps a number in mind.
pub(crate) async fn keep(tx: &mut Tx, name: &str, number: i64) -> Result<(), StorageError> {
    set_cursor(tx, name, StreamPosition(number)).await
}

/// The highest position at which a room's current state changed.
pub async fn last_state_position(tx: &mut Tx) -> Result<i64, StorageError> {
    let row = tx.query_opt(LAST_STATE_POSITION, params![]).await?;
    let last = row.map(|row| row.int(0)).transpose()?.unwrap_or(0);
    Ok(last.max(kept(tx, KEPT_POSITION).await?))
}
