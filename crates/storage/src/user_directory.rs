//! Users who are found by their names (client-server API, "User Directory"): an index that a task fills from the
//! states of rooms, and who is found in it.

use myelin_core::{
    number::{RoomNr, SnapshotNr, StreamPosition},
    search::{Terms, words},
};
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use crate::{StorageError, Tx, rooms, search_index::terms_query};

statements! {
    /// Rooms whose state changed after a position.
    CHANGED_ROOMS = "SELECT room, position FROM room_states
        WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3";
    /// By which state a room was looked at.
    ROOM = "SELECT snapshot FROM directory_rooms WHERE room = $1";
    /// A room was looked at.
    PUT_ROOM = "INSERT INTO directory_rooms (room, snapshot, public) VALUES ($1, $2, $3)
        ON CONFLICT (room) DO UPDATE SET snapshot = excluded.snapshot, public = excluded.public";
    /// A user as it is found.
    USER = "SELECT number, display_name FROM directory_users WHERE user_id = $1";
    /// How many users there are: none is ever taken out.
    LAST_NUMBER = "SELECT COALESCE(MAX(number), 0) FROM directory_users";
    /// A user, perhaps with another name than before.
    PUT_USER = "INSERT INTO directory_users (number, user_id, display_name) VALUES ($1, $2, $3)
        ON CONFLICT (user_id) DO UPDATE SET display_name = excluded.display_name";
    /// The words of a name that is not the user's any more.
    DELETE_WORDS = "DELETE FROM directory_words WHERE rowid = $1";
    /// The words of a user's names.
    PUT_WORDS = "INSERT INTO directory_words (rowid, words) VALUES ($1, $2)";
    /// Users with such names who may share a room with a user, or may be in a public one.
    FIND = "SELECT u.user_id FROM (SELECT rowid AS number FROM directory_words
                WHERE words_match(directory_words, $1) ORDER BY rowid DESC LIMIT $5) AS w
            CROSS JOIN directory_users u
        WHERE u.number = w.number AND u.user_id NOT IN text_list($3) AND EXISTS (SELECT 1 FROM state_keys k
            WHERE k.event_type = 'm.room.member' AND k.state_key = u.user_id AND (
                EXISTS (SELECT 1 FROM local_memberships m
                    WHERE m.user_id = $2 AND m.room = k.room AND m.membership = 'join')
                OR (EXISTS (SELECT 1 FROM directory_rooms d WHERE d.room = k.room AND d.public)
                    AND EXISTS (SELECT 1 FROM local_memberships m
                        WHERE m.room = k.room AND m.membership = 'join'))))
        ORDER BY u.number DESC LIMIT $4";
    /// The rooms in which a user may be seen by another one, those that they share first.
    SEEN_IN = "SELECT r.room_id FROM state_keys k JOIN rooms r ON r.room = k.room
            LEFT JOIN local_memberships o ON o.user_id = $2 AND o.room = k.room AND o.membership = 'join'
        WHERE k.event_type = 'm.room.member' AND k.state_key = $1 AND (o.room IS NOT NULL OR (
            EXISTS (SELECT 1 FROM directory_rooms d WHERE d.room = k.room AND d.public)
            AND EXISTS (SELECT 1 FROM local_memberships m WHERE m.room = k.room AND m.membership = 'join')))
        ORDER BY (o.room IS NULL), k.room LIMIT $3";
}

/// The setting that says up to where the states of rooms were looked at.
const CURSOR: &str = "directory_cursor";

/// How many users with such names are looked at in one search.
const MAX_MATCHES: usize = 2_000;

/// What users of this server have among their words, and no name.
const LOCAL: &str = "!l";

/// Rooms whose states changed.
#[derive(Clone, Debug)]
pub struct ChangedRooms {
    /// The rooms, each once.
    pub rooms: Vec<RoomNr>,
    /// All that changed up to here are known when these are looked at.
    pub upto: StreamPosition,
}

/// The rooms whose states changed after those that were looked at, up to a position; `None` if none did.
///
/// # Errors
/// Any [`StorageError`].
pub async fn changed_rooms(
    tx: &mut Tx,
    upto: StreamPosition,
    limit: usize,
) -> Result<Option<ChangedRooms>, StorageError> {
    let cursor = rooms::cursor(tx, CURSOR).await?;
    if cursor >= upto {
        return Ok(None);
    }
    let rows = tx
        .query(CHANGED_ROOMS, params![cursor, upto, limit])
        .await?;
    let mut changed: Vec<RoomNr> = rows
        .iter()
        .map(|row| Ok(RoomNr(row.int(0)?)))
        .collect::<Result<_, StorageError>>()?;
    changed.sort_unstable();
    changed.dedup();
    let last = rows.last().filter(|_| rows.len() == limit);
    let upto = last.map_or(Ok(upto), |row| row.int(1).map(StreamPosition))?;
    Ok(Some(ChangedRooms {
        rooms: changed,
        upto,
    }))
}

/// Notes that all states up to a position were looked at.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set_cursor(tx: &mut Tx, upto: StreamPosition) -> Result<(), StorageError> {
    rooms::set_cursor(tx, CURSOR, upto).await
}

/// By which state a room was looked at; `None` if it never was.
///
/// # Errors
/// Any [`StorageError`].
pub async fn looked_at(tx: &mut Tx, room: RoomNr) -> Result<Option<SnapshotNr>, StorageError> {
    let row = tx.query_opt(ROOM, params![room]).await?;
    row.map(|row| Ok(SnapshotNr(row.int(0)?))).transpose()
}

/// Notes that a room was looked at, and whether it is public.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put_room(
    tx: &mut Tx,
    room: RoomNr,
    by: SnapshotNr,
    is_public: bool,
) -> Result<(), StorageError> {
    tx.run(PUT_ROOM, params![room, by.0, is_public]).await
}

/// A user with the name by which it is found.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The user.
    pub user: OwnedUserId,
    /// What it calls itself; empty: nothing.
    pub display_name: String,
    /// Whether it is one of this server's.
    pub is_local: bool,
}

/// Notes what users call themselves. There is one caller at a time.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put_users(tx: &mut Tx, users: &[Listed]) -> Result<(), StorageError> {
    let last = tx.query(LAST_NUMBER, params![]).await?;
    let mut last = last.first().map_or(Ok(0), |row| row.int(0))?;
    for listed in users {
        // PostgreSQL has no such texts.
        let name = listed.display_name.replace('\0', "");
        let user = listed.user.as_str();
        let known = tx.query_opt(USER, params![user]).await?;
        let number = match &known {
            Some(row) if row.text(1)? == name => continue,
            Some(row) => row.int(0)?,
            None => {
                last += 1;
                last
            }
        };
        if known.is_some() {
            tx.run(DELETE_WORDS, params![number]).await?;
        }
        tx.run(PUT_USER, params![number, user, &name]).await?;
        let mut found_by = words(listed.user.localpart());
        found_by.extend(words(&name));
        if listed.is_local {
            found_by.push(LOCAL.to_owned());
        }
        if !found_by.is_empty() {
            tx.run(PUT_WORDS, params![number, &found_by.join(" ")])
                .await?;
        }
    }
    Ok(())
}

/// Which users are looked for, and by whom.
#[derive(Clone, Debug)]
pub struct UserSearch {
    /// By whom.
    pub viewer: OwnedUserId,
    /// By which words; there is at least one.
    pub terms: Terms,
    /// Only those of this server.
    pub local_only: bool,
    /// Those that were found before.
    pub without: Vec<OwnedUserId>,
}

/// Users with all the words in their names who may share a room with the viewer, or may be in a public one.
///
/// # Errors
/// Any [`StorageError`].
pub async fn find(
    tx: &mut Tx,
    search: &UserSearch,
    limit: usize,
) -> Result<Vec<OwnedUserId>, StorageError> {
    if search.terms.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = terms_query(&search.terms);
    if search.local_only {
        query = format!("{query} & '{LOCAL}'");
    }
    let without: Vec<&str> = search.without.iter().map(|user| user.as_str()).collect();
    let viewer = search.viewer.as_str();
    let rows = tx
        .query(FIND, params![&query, viewer, without, limit, MAX_MATCHES])
        .await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}

/// The rooms in which a user may be seen by another one, those that the two may share first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn seen_in(
    tx: &mut Tx,
    user: &UserId,
    viewer: &UserId,
    limit: usize,
) -> Result<Vec<OwnedRoomId>, StorageError> {
    let rows = tx
        .query(SEEN_IN, params![user.as_str(), viewer.as_str(), limit])
        .await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}
