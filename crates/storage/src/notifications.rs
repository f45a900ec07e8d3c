//! Of which events users are told, and how many of these they have not read.
//!
//! An event of which everybody in a room is told is one row, however many they are. Only who is told
//! otherwise, or of something else, has rows of its own.

use std::collections::BTreeMap;

use myelin_core::{
    number::{EventNr, RoomNr, StreamPosition},
    push_rules::Notification,
    room_version::RoomVersion,
};
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use crate::{Row, StorageError, Tx, events::RoomKey};

/// The thread of what is in none.
pub const MAIN: &str = "main";

/// How many of the newest events are counted at once for each user, within threads and outside. Who had left
/// more than that unread when they were first counted is not told how many.
pub(crate) const MOST_COUNTED: usize = 5_000;

/// The newest `$5` rows of somebody in a room within `$3` and `$4`, beyond where the user `$2` has read some
/// threads.
macro_rules! newest {
    ($somebody:literal, $threads:literal, $read:literal) => {
        concat!(
            "SELECT * FROM (SELECT user_id, thread, position, highlight, actions FROM notifications
            WHERE room = $1 AND user_id = ",
            $somebody,
            " AND thread ",
            $threads,
            " AND position <= $4 AND position > (
                SELECT MAX(position) FROM (SELECT CAST($3 AS BIGINT) AS position
                    UNION ALL SELECT position FROM read_positions
                        WHERE user_id = $2 AND room = $1 AND thread IN (",
            $read,
            ")) AS known)
            ORDER BY position DESC LIMIT $5) AS newest"
        )
    };
}

/// Events of which a user was told, newest first: before `$4`, and from where the user came in on.
macro_rules! page {
    ($threads:literal) => {
        concat!(
            "SELECT n.thread, n.position, n.event, n.actions, n.highlight FROM notifications n
        LEFT JOIN notifications own ON own.room = $1 AND own.user_id = $2 AND $3 = ''
            AND own.thread = n.thread AND own.position = n.position
        WHERE n.room = $1 AND n.user_id = $3 AND n.position < $4 AND n.position >= $5
            AND n.actions IS NOT NULL AND own.position IS NULL AND (n.highlight OR NOT $6)
            AND (n.author IS NULL OR n.author <> $2) AND n.",
            $threads,
            " ORDER BY n.position DESC LIMIT $7"
        )
    };
}

statements! {
    /// Who is told of an event.
    PUT = "INSERT INTO notifications (room, user_id, thread, position, event, author, actions, highlight)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    /// Nobody is told of it any more.
    DELETE = "DELETE FROM notifications WHERE event = $1";
    /// A user has read on.
    READ_UP_TO = "INSERT INTO read_positions (user_id, room, thread, position, joined) VALUES ($1, $2, $3, $4, 0)
        ON CONFLICT (user_id, room, thread) DO UPDATE SET position = excluded.position
        WHERE read_positions.position < excluded.position";
    /// A user came in.
    JOINED = "INSERT INTO read_positions (user_id, room, thread, position, joined) VALUES ($1, $2, '', $3, $3)
        ON CONFLICT (user_id, room, thread) DO UPDATE SET position = excluded.position, joined = excluded.joined";
    /// Up to where a user has read.
    READ_POSITIONS = "SELECT thread, position, joined FROM read_positions WHERE user_id = $1 AND room = $2";
    /// What is unread by thread. What everybody is told counts only where the user has no row of its own.
    COUNT_UNREAD = concat!(
        "SELECT n.thread, COUNT(*), CAST(SUM(CASE WHEN n.highlight THEN 1 ELSE 0 END) AS BIGINT), MAX(n.position)
        FROM (",
        newest!("''", "= 'main'", "'', 'main'"),
        " UNION ALL ", newest!("$2", "= 'main'", "'', 'main'"),
        " UNION ALL ", newest!("''", "<> 'main'", "''"),
        " UNION ALL ", newest!("$2", "<> 'main'", "''"),
        ") AS n
        LEFT JOIN read_positions p ON p.user_id = $2 AND p.room = $1 AND p.thread = n.thread
        LEFT JOIN notifications own ON own.room = $1 AND own.user_id = $2 AND n.user_id = ''
            AND own.thread = n.thread AND own.position = n.position
        WHERE n.actions IS NOT NULL AND own.position IS NULL AND n.position > COALESCE(p.position, 0)
        GROUP BY n.thread"
    );
    /// Of what a user was told outside threads.
    PAGE_MAIN = page!("thread = 'main'");
    /// Of what a user was told in threads.
    PAGE_THREADS = page!("thread <> 'main'");
    /// The rooms in which a user is told of something.
    ROOMS = "SELECT r.room, r.room_id, r.version, m.membership, m.position FROM local_memberships m
        JOIN rooms r ON r.room = m.room WHERE m.user_id = $1 AND m.membership IN ('join', 'invite')";
}

/// Who is told of an event, or is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNotification {
    /// `None`: every local user in the room.
    pub user: Option<OwnedUserId>,
    /// The root of the event's thread, or [`MAIN`].
    pub thread: String,
    /// The event's position in the stream.
    pub position: StreamPosition,
    /// The event.
    pub event: EventNr,
    /// Who wrote it, if it is one of this server's users. It has read it by that, and is not told.
    pub author: Option<OwnedUserId>,
    /// `None`: unlike everybody, this user is not told.
    pub notification: Option<Notification>,
}

/// Stores who is told of an event.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(tx: &mut Tx, room: RoomNr, new: &NewNotification) -> Result<(), StorageError> {
    let user = new.user.as_deref().map_or("", UserId::as_str);
    let told = new.notification.as_ref();
    let values = params![
        room,
        user,
        &new.thread,
        new.position,
        new.event,
        new.author.as_deref().map(UserId::as_str),
        told.map(|told| &*told.actions),
        told.is_some_and(|told| told.highlight),
    ];
    tx.run(PUT, values).await
}

/// Takes it back that users are told of an event.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete(tx: &mut Tx, event: EventNr) -> Result<(), StorageError> {
    tx.run(DELETE, params![event]).await
}

/// Notes that a user has read a thread (its root, or [`MAIN`]; none: the room as a whole) up to an event. What
/// was read stays read.
///
/// # Errors
/// Any [`StorageError`].
pub async fn read_up_to(
    tx: &mut Tx,
    room: RoomNr,
    user: &UserId,
    thread: Option<&str>,
    position: StreamPosition,
) -> Result<(), StorageError> {
    let values = params![user.as_str(), room, thread.unwrap_or_default(), position];
    tx.run(READ_UP_TO, values).await
}

/// Notes that a user came into a room: what was before is nothing to it.
///
/// # Errors
/// Any [`StorageError`].
pub async fn joined(
    tx: &mut Tx,
    room: RoomNr,
    user: &UserId,
    position: StreamPosition,
) -> Result<(), StorageError> {
    let values = params![user.as_str(), room, position];
    tx.run(JOINED, values).await
}

/// How many events a user was told of and has not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread {
    /// All of them.
    pub notifications: u64,
    /// Those that are to stand out.
    pub highlights: u64,
    /// The newest.
    pub newest: StreamPosition,
}

impl Unread {
    /// Nothing.
    pub const NONE: Self = Self {
        notifications: 0,
        highlights: 0,
        newest: StreamPosition(0),
    };

    /// Counts both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            notifications: self.notifications + other.notifications,
            highlights: self.highlights + other.highlights,
            newest: self.newest.max(other.newest),
        }
    }
}

/// What a joined user has not read of a room, by thread: after one position, up to another one.
///
/// # Errors
/// Any [`StorageError`].
pub async fn unread(
    tx: &mut Tx,
    room: RoomNr,
    user: &UserId,
    after: StreamPosition,
    upto: StreamPosition,
) -> Result<BTreeMap<String, Unread>, StorageError> {
    let values = params![room, user.as_str(), after, upto, MOST_COUNTED];
    let rows = tx.query(COUNT_UNREAD, values).await?;
    rows.iter()
        .map(|row| {
            let unread = Unread {
                notifications: row.int(1)?.unsigned_abs(),
                highlights: row.int(2)?.unsigned_abs(),
                newest: StreamPosition(row.int(3)?),
            };
            Ok((row.text(0)?.to_owned(), unread))
        })
        .collect()
}

/// An event of which a user was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its position in the stream.
    pub position: StreamPosition,
    /// The event.
    pub event: EventNr,
    /// What was done about it, and whether it stands out.
    pub notification: Notification,
    /// Whether the user has read it.
    pub is_read: bool,
}

/// Which of the events of which a user was told are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Those before this position.
    pub before: StreamPosition,
    /// Only those that stand out.
    pub only_highlights: bool,
    /// So many of the newest.
    pub limit: usize,
}

/// A room in which a user is told of something.
#[derive(Clone, Debug)]
pub struct ToldRoom {
    /// The room.
    pub key: RoomKey,
    /// Whether the user is in it; otherwise it is invited.
    pub is_joined: bool,
    /// Where its membership stands in the stream.
    pub position: StreamPosition,
}

/// The rooms in which a user is told of something.
///
/// # Errors
/// Any [`StorageError`].
pub async fn rooms(tx: &mut Tx, user: &UserId) -> Result<Vec<ToldRoom>, StorageError> {
    let rows = tx.query(ROOMS, params![user.as_str()]).await?;
    rows.iter()
        .map(|row| {
            let room_id: OwnedRoomId = row.parsed(1)?;
            Ok(ToldRoom {
                key: RoomKey {
                    room: RoomNr(row.int(0)?),
                    room_id,
                    version: RoomVersion::parse(row.text(2)?)
                        .map_err(|error| StorageError::Corrupt(format!("room: {error}")))?,
                },
                is_joined: row.text(3)? == "join",
                position: StreamPosition(row.int(4)?),
            })
        })
        .collect()
}

/// The newest events of a room of which a user was told, newest first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_room(
    tx: &mut Tx,
    of: &ToldRoom,
    user: &UserId,
    wanted: Wanted,
) -> Result<Vec<Told>, StorageError> {
    let room = of.key.room;
    let (mut read, mut joined) = (BTreeMap::new(), of.position);
    if of.is_joined {
        joined = StreamPosition(0);
        for row in tx
            .query(READ_POSITIONS, params![user.as_str(), room])
            .await?
        {
            let thread = row.text(0)?.to_owned();
            if thread.is_empty() {
                joined = StreamPosition(row.int(2)?);
            }
            read.insert(thread, StreamPosition(row.int(1)?));
        }
    }
    let mut told = Vec::new();
    for sql in [PAGE_MAIN, PAGE_THREADS] {
        for whom in ["", user.as_str()] {
            // An invited user is told of the invite.
            if whom.is_empty() && !of.is_joined {
                continue;
            }
            let Wanted {
                before,
                only_highlights,
                limit,
            } = wanted;
            let values = params![
                room,
                user.as_str(),
                whom,
                before,
                joined,
                only_highlights,
                limit
            ];
            for row in tx.query(sql, values).await? {
                told.push(read_told(&row, &read)?);
            }
        }
    }
    told.sort_by_key(|told| std::cmp::Reverse(told.position));
    told.truncate(wanted.limit);
    Ok(told)
}

fn read_told(row: &Row, read: &BTreeMap<String, StreamPosition>) -> Result<Told, StorageError> {
    let position = StreamPosition(row.int(1)?);
    let upto = |thread: &str| read.get(thread).copied().unwrap_or(StreamPosition(0));
    Ok(Told {
        position,
        event: EventNr(row.int(2)?),
        notification: Notification {
            actions: row.text(3)?.to_owned(),
            highlight: row.bool(4)?,
        },
        is_read: position <= upto("").max(upto(row.text(0)?)),
    })
}
