//! Reads of timelines as clients see them: which rooms have news, pages of history in topological
//! order, gaps, and the transactions behind a device's own events.

use myelin_core::{
    number::{EventNr, RoomNr, StreamPosition},
    room_version::RoomVersion,
};
use ruma::{OwnedEventId, OwnedRoomId, UserId};

use crate::{
    Row, StorageError, Tx,
    client_transactions::ClientTransaction,
    events::{self, Direction, RoomKey},
};

/// What a user is to rooms, of those where that changed after `$2` or which have news and the user in them.
macro_rules! news {
    ($has_news:literal) => {
        concat!(
            "SELECT m.room, r.room_id, r.version, m.membership, m.event, m.position, m.forgotten
        FROM local_memberships m JOIN rooms r ON r.room = m.room WHERE m.user_id = $1 AND m.position > $2
        UNION ALL
        SELECT m.room, r.room_id, r.version, m.membership, m.event, m.position, m.forgotten
        FROM local_memberships m JOIN rooms r ON r.room = m.room
        WHERE m.user_id = $1 AND m.position <= $2 AND m.membership = 'join' AND ",
            $has_news,
            " ORDER BY 6"
        )
    };
}

statements! {
    /// What a user is to one room.
    MEMBERSHIP = "SELECT m.room, r.room_id, r.version, m.membership, m.event, m.position, m.forgotten
        FROM local_memberships m JOIN rooms r ON r.room = m.room
        WHERE m.user_id = $1 AND m.room = $2";
    /// What a user is to rooms.
    MEMBERSHIPS = "SELECT m.room, r.room_id, r.version, m.membership, m.event, m.position, m.forgotten
        FROM local_memberships m JOIN rooms r ON r.room = m.room
        WHERE m.user_id = $1 ORDER BY m.position";
    /// What a user is to rooms, of those where that changed after a position or which, with the user in them,
    /// have events or another state in a short span of the stream.
    NEWS_BY_STREAM = news!("m.room IN (
            SELECT room FROM events WHERE position > $2 AND position <= $3 AND position > 0
            UNION SELECT room FROM room_states WHERE position > $2 AND position <= $3)");
    /// The same for a long span: room by room.
    NEWS_BY_ROOM = news!("(EXISTS (SELECT 1 FROM events e WHERE e.room = m.room AND e.position IS NOT NULL
                AND e.position > $2 AND e.position <= $3)
            OR EXISTS (SELECT 1 FROM room_states s WHERE s.room = m.room
                AND s.position > $2 AND s.position <= $3))");
    /// Which of some rooms a user is in.
    JOINED_AMONG = "SELECT r.room_id FROM local_memberships m JOIN rooms r ON r.room = m.room
        WHERE m.user_id = $1 AND m.membership = 'join' AND r.room_id IN text_list($2)";
    /// A page of history, newest first.
    HISTORY_BACKWARD = "SELECT event, depth, position FROM events
        WHERE room = $1 AND verdict = 1 AND position IS NOT NULL
            AND (depth, position) >= ($2, $3) AND (depth, position) < ($4, $5)
            AND position > $6 AND position <= $7
        ORDER BY depth DESC, position DESC LIMIT $8";
    /// A page of history, oldest first.
    HISTORY_FORWARD = "SELECT event, depth, position FROM events
        WHERE room = $1 AND verdict = 1 AND position IS NOT NULL
            AND (depth, position) >= ($2, $3) AND (depth, position) < ($4, $5)
            AND position > $6 AND position <= $7
        ORDER BY depth, position LIMIT $8";
    /// Events from a time on, oldest first.
    NEAR_TIME_FORWARD = "SELECT event, origin_server_ts, position FROM events
        WHERE room = $1 AND verdict = 1 AND position IS NOT NULL AND origin_server_ts IS NOT NULL
            AND (origin_server_ts, position) > ($2, $3) AND position <= $4
        ORDER BY origin_server_ts, position LIMIT $5";
    /// Events up to a time, newest first.
    NEAR_TIME_BACKWARD = "SELECT event, origin_server_ts, position FROM events
        WHERE room = $1 AND verdict = 1 AND position IS NOT NULL AND origin_server_ts IS NOT NULL
            AND (origin_server_ts, position) < ($2, $3) AND position <= $4
        ORDER BY origin_server_ts DESC, position DESC LIMIT $5";
    /// The newest events of a room between two positions, newest first, and again those of them with parents
    /// that are not held.
    NEWEST = "WITH page AS (SELECT event, position FROM events
            WHERE room = $1 AND position > $2 AND position <= $3 AND verdict = 1
            ORDER BY position DESC LIMIT $4)
        SELECT event, position, FALSE FROM page
        UNION ALL SELECT page.event, page.position, TRUE FROM page WHERE EXISTS (
            SELECT 1 FROM backward_extremities b JOIN prev_edges p ON p.prev = b.event
            WHERE b.room = $1 AND p.event = page.event)
        ORDER BY 2 DESC";
    /// Which of some events have parents that are not held.
    AFTER_GAPS = "SELECT DISTINCT p.event FROM backward_extremities b JOIN prev_edges p ON p.prev = b.event
        WHERE b.room = $1 AND p.event IN int_list($2)";
    /// Which of some events came after a position.
    AFTER_POSITION = "SELECT event FROM events
        WHERE event IN int_list($1) AND position > $2";
    /// What the authors of some events wrote, and whether it was redacted.
    EVENT_JSONS = "SELECT redacted_by, json FROM events
        WHERE event IN int_list($1) AND json IS NOT NULL";
    /// The transactions with which a device made some events.
    TRANSACTIONS_OF_EVENTS = "SELECT event_id, path FROM client_transactions
        WHERE user_id = $1 AND device_id = $2 AND event_id IN text_list($3)";
}

/// Below this many positions, the stream is searched for a user's rooms, not the rooms for news.
const SHORT_SPAN: i64 = 500;

/// What a local user is to a room.
#[derive(Clone, Debug)]
pub struct UserRoom {
    /// The room.
    pub key: RoomKey,
    /// The value of `membership`.
    pub membership: String,
    /// The membership event.
    pub event: EventNr,
    /// When this became so.
    pub position: StreamPosition,
    /// Whether the user left the room and doesn't want to hear of it.
    pub forgotten: bool,
}

fn read_user_room(row: &Row) -> Result<UserRoom, StorageError> {
    let corrupt = |error: &dyn std::fmt::Display| StorageError::Corrupt(format!("room: {error}"));
    Ok(UserRoom {
        key: RoomKey {
            room: RoomNr(row.int(0)?),
            room_id: row.parsed(1)?,
            version: RoomVersion::parse(row.text(2)?).map_err(|error| corrupt(&error))?,
        },
        membership: row.text(3)?.to_owned(),
        event: EventNr(row.int(4)?),
        position: StreamPosition(row.int(5)?),
        forgotten: row.bool(6)?,
    })
}

/// Which of some rooms a user is in.
///
/// # Errors
/// Any [`StorageError`].
pub async fn joined_among(
    tx: &mut Tx,
    user: &UserId,
    rooms: &[OwnedRoomId],
) -> Result<Vec<OwnedRoomId>, StorageError> {
    if rooms.is_empty() {
        return Ok(Vec::new());
    }
    let rooms: Vec<&str> = rooms.iter().map(|room| room.as_str()).collect();
    let rows = tx
        .query(JOINED_AMONG, params![user.as_str(), rooms])
        .await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}

/// What a user is to a room; `None` if it never was anything.
///
/// # Errors
/// Any [`StorageError`].
pub async fn user_room(
    tx: &mut Tx,
    user: &UserId,
    room: RoomNr,
) -> Result<Option<UserRoom>, StorageError> {
    let row = tx
        .query_opt(MEMBERSHIP, params![user.as_str(), room])
        .await?;
    row.as_ref().map(read_user_room).transpose()
}

/// What a user is to all rooms in which it ever was something, in the order in which it became so. Forgotten
/// rooms are among them.
///
/// # Errors
/// Any [`StorageError`].
pub async fn user_rooms(tx: &mut Tx, user: &UserId) -> Result<Vec<UserRoom>, StorageError> {
    let rows = tx.query(MEMBERSHIPS, params![user.as_str()]).await?;
    rows.iter().map(read_user_room).collect()
}

/// What a user is to the rooms in which that changed after a position, or in which it is joined and an event was
/// placed or the current state replaced at positions in `(after, upto]`. There may be some in which nothing is
/// to be shown.
///
/// # Errors
/// Any [`StorageError`].
pub async fn rooms_with_news(
    tx: &mut Tx,
    user: &UserId,
    after: StreamPosition,
    upto: StreamPosition,
) -> Result<Vec<UserRoom>, StorageError> {
    let short = upto.0.saturating_sub(after.0) < SHORT_SPAN;
    let sql = if short { NEWS_BY_STREAM } else { NEWS_BY_ROOM };
    let rows = tx.query(sql, params![user.as_str(), after, upto]).await?;
    rows.iter().map(read_user_room).collect()
}

/// A place in the topological order of a room's events: by depth, and among equals by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryPlace {
    /// The depth, by the author's word.
    pub depth: i64,
    /// The position.
    pub position: StreamPosition,
}

impl HistoryPlace {
    /// Before everything.
    pub const START: Self = Self {
        depth: i64::MIN,
        position: StreamPosition(i64::MIN),
    };
    /// After everything.
    pub const END: Self = Self {
        depth: i64::MAX,
        position: StreamPosition(i64::MAX),
    };
}

/// A part of a room's history: what lies between two places, and between two positions.
#[derive(Clone, Copy, Debug)]
pub struct HistoryRange {
    /// The first place.
    pub from: HistoryPlace,
    /// The first place after the range.
    pub to: HistoryPlace,
    /// The last position before the range.
    pub after: StreamPosition,
    /// The last position in the range.
    pub upto: StreamPosition,
}

/// An event and its place.
#[derive(Clone, Copy, Debug)]
pub struct HistoryEvent {
    /// The event.
    pub event: EventNr,
    /// Its place.
    pub place: HistoryPlace,
}

/// Accepted timeline events in topological order.
///
/// # Errors
/// Any [`StorageError`].
pub async fn history(
    tx: &mut Tx,
    room: RoomNr,
    direction: Direction,
    range: HistoryRange,
    limit: usize,
) -> Result<Vec<HistoryEvent>, StorageError> {
    let sql = match direction {
        Direction::Forward => HISTORY_FORWARD,
        Direction::Backward => HISTORY_BACKWARD,
    };
    let HistoryRange {
        from,
        to,
        after,
        upto,
    } = range;
    let rows = tx
        .query(
            sql,
            params![
                room,
                from.depth,
                from.position,
                to.depth,
                to.position,
                after,
                upto,
                limit
            ],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let place = HistoryPlace {
                depth: row.int(1)?,
                position: StreamPosition(row.int(2)?),
            };
            Ok(HistoryEvent {
                event: EventNr(row.int(0)?),
                place,
            })
        })
        .collect()
}

/// A place in the order of a room's events by the time that their authors state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimePlace {
    /// That time, in Unix milliseconds.
    pub at_ms: i64,
    /// The position.
    pub position: StreamPosition,
}

impl TimePlace {
    /// From where one reads to find the events at or beyond a time.
    pub fn at(at_ms: i64, direction: Direction) -> Self {
        let position = match direction {
            Direction::Forward => StreamPosition(i64::MIN),
            Direction::Backward => StreamPosition(i64::MAX),
        };
        Self { at_ms, position }
    }
}

/// Accepted timeline events beyond a place in time, nearest first, as far as they have positions up
/// to `upto`.
///
/// # Errors
/// Any [`StorageError`].
pub async fn near_time(
    tx: &mut Tx,
    room: RoomNr,
    direction: Direction,
    (beyond, upto): (TimePlace, StreamPosition),
    limit: usize,
) -> Result<Vec<(EventNr, TimePlace)>, StorageError> {
    let sql = match direction {
        Direction::Forward => NEAR_TIME_FORWARD,
        Direction::Backward => NEAR_TIME_BACKWARD,
    };
    let rows = tx
        .query(
            sql,
            params![room, beyond.at_ms, beyond.position, upto, limit],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let place = TimePlace {
                at_ms: row.int(1)?,
                position: StreamPosition(row.int(2)?),
            };
            Ok((EventNr(row.int(0)?), place))
        })
        .collect()
}

fn list(events: &[EventNr]) -> Vec<i64> {
    events.iter().map(|nr| nr.0).collect()
}

/// Some of a room's newest events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// Newest first.
    pub events: Vec<EventNr>,
    /// Those of them with a parent that is not held in the timeline.
    pub after_gaps: Vec<EventNr>,
}

/// The newest accepted timeline events with positions in `(after, upto]`.
///
/// # Errors
/// Any [`StorageError`].
pub async fn newest(
    tx: &mut Tx,
    room: RoomNr,
    (after, upto): (StreamPosition, StreamPosition),
    limit: usize,
) -> Result<Newest, StorageError> {
    let mut newest = Newest::default();
    for row in tx.query(NEWEST, params![room, after, upto, limit]).await? {
        let event = EventNr(row.int(0)?);
        match row.bool(2)? {
            true => newest.after_gaps.push(event),
            false => newest.events.push(event),
        }
    }
    Ok(newest)
}

/// Which of some events of a room have a parent that is not held in the timeline.
///
/// # Errors
/// Any [`StorageError`].
pub async fn after_gaps(
    tx: &mut Tx,
    room: RoomNr,
    events: &[EventNr],
) -> Result<Vec<EventNr>, StorageError> {
    let rows = tx.query(AFTER_GAPS, params![room, list(events)]).await?;
    rows.iter().map(|row| Ok(EventNr(row.int(0)?))).collect()
}

/// Which of some events were placed in the timeline after a position.
///
/// # Errors
/// Any [`StorageError`].
pub async fn placed_after(
    tx: &mut Tx,
    events: &[EventNr],
    after: StreamPosition,
) -> Result<Vec<EventNr>, StorageError> {
    let rows = tx
        .query(AFTER_POSITION, params![list(events), after])
        .await?;
    rows.iter().map(|row| Ok(EventNr(row.int(0)?))).collect()
}

/// What the author of an event wrote.
#[derive(Clone, Debug)]
pub struct EventText {
    /// Canonical JSON.
    pub json: String,
    /// Whether clients get less than that.
    pub is_redacted: bool,
}

/// Some events as text, in no order: for who needs little of many.
///
/// # Errors
/// Any [`StorageError`].
pub async fn event_jsons(tx: &mut Tx, events: &[EventNr]) -> Result<Vec<EventText>, StorageError> {
    let rows = tx.query(EVENT_JSONS, params![list(events)]).await?;
    rows.iter()
        .map(|row| {
            let json = events::read_json(row.blob(1)?)?.to_owned();
            let is_redacted = row.opt_int(0)?.is_some();
            Ok(EventText { json, is_redacted })
        })
        .collect()
}

/// The transaction IDs with which a device made some events, of those that it did make.
///
/// # Errors
/// Any [`StorageError`].
pub async fn transaction_ids(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    events: &[OwnedEventId],
) -> Result<Vec<(OwnedEventId, String)>, StorageError> {
    let ids: Vec<&str> = events.iter().map(|id| id.as_str()).collect();
    let rows = tx
        .query(
            TRANSACTIONS_OF_EVENTS,
            params![user.as_str(), device_id, ids],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let id = row.parsed(0)?;
            Ok((id, ClientTransaction::id(row.text(1)?).to_owned()))
        })
        .collect()
}
