//! Deleting the beginning of a room's history: the events, and on record that it goes on.
//!
//! State events stay without their place, as if they had come with a join: states that are kept consist of them.
//! What kept events name as their parents becomes an end of the known history, from which more may be fetched.

use myelin_core::{
    event::Event,
    number::{EventNr, RoomNr},
};
use ruma::{OwnedRoomId, OwnedServerName, RoomId};

use crate::{
    Param, Row, StorageError, Tx, event_id,
    events::{self, RoomKey},
    param::message,
    room_deletions::Status,
    search_index,
};

statements! {
    /// A purge begins.
    PUT = "INSERT INTO history_purges (purge, room_id, depth, local_too, status, begun_ms)
        VALUES ($1, $2, $3, $4, 'active', $5)";
    /// One of them.
    BY_ID = "SELECT purge, room_id, depth, local_too, status, error FROM history_purges WHERE purge = $1";
    /// Those that go on.
    ACTIVE = "SELECT purge, room_id, depth, local_too, status, error FROM history_purges
        WHERE status = 'active' ORDER BY begun_ms, purge";
    /// Whether one goes on in a room.
    ACTIVE_IN = "SELECT COUNT(*) FROM history_purges WHERE status = 'active' AND room_id = $1";
    /// Its end.
    FINISH = "UPDATE history_purges SET status = $2, error = $3, finished_ms = $4 WHERE purge = $1";
    /// Nobody asks for these any more.
    DELETE_OLD = "DELETE FROM history_purges WHERE finished_ms < $1";
    /// The depth of the last event made up to a time.
    DEPTH_AT = "SELECT depth FROM events WHERE room = $1 AND verdict = 1 AND position IS NOT NULL
            AND origin_server_ts IS NOT NULL AND origin_server_ts <= $2
        ORDER BY origin_server_ts DESC, position DESC LIMIT 1";
    /// How deep the ends of the graph are.
    DEEPEST_END = "SELECT MAX(e.depth) FROM forward_extremities f JOIN events e ON e.event = f.event WHERE f.room = $1";
    /// The least deep events of a timeline above a depth.
    SHOWN = "SELECT event, position FROM events WHERE room = $1 AND position IS NOT NULL AND verdict = 1 AND depth < $2
            AND event NOT IN (SELECT event FROM forward_extremities WHERE room = $1)
        ORDER BY depth, position LIMIT $3";
    /// The same of those that are not shown.
    NOT_SHOWN = "SELECT event, position FROM events WHERE room = $1 AND position IS NOT NULL AND verdict <> 1 AND depth < $2
            AND event NOT IN (SELECT event FROM forward_extremities WHERE room = $1)
        ORDER BY depth, position LIMIT $3";
    /// The numbers of some IDs.
    NUMBERS = "SELECT event FROM events WHERE event_id IN blob_list($1) AND room = $2";
    /// They have no parents any more.
    DELETE_EDGES = "DELETE FROM prev_edges WHERE prev IN int_list($1) AND event IN int_list($2)";
    /// Ends of the known history that nothing leads to any more.
    DELETE_ENDS = "DELETE FROM backward_extremities WHERE room = $1 AND event IN int_list($2) AND NOT EXISTS (
        SELECT 1 FROM prev_edges p JOIN events e ON e.event = p.event
        WHERE p.prev = backward_extremities.event AND e.position IS NOT NULL)";
    /// And what was only referred to by those.
    DELETE_REFERENCES = "DELETE FROM events WHERE event IN int_list($1) AND verdict = 0
        AND NOT EXISTS (SELECT 1 FROM prev_edges p WHERE p.prev = events.event)
        AND NOT EXISTS (SELECT 1 FROM auth_edges a WHERE a.auth_event = events.event)";
    /// What the rest of the timeline leads to is the end of it now.
    PUT_ENDS = "INSERT INTO backward_extremities (room, event, depth)
        SELECT e.room, p.prev, MIN(e.depth) FROM prev_edges p JOIN events e ON e.event = p.event
        WHERE p.prev IN int_list($1) AND e.position IS NOT NULL AND e.event NOT IN int_list($1)
        GROUP BY e.room, p.prev ON CONFLICT DO NOTHING";
    /// These stay without a place.
    DISPLACE = "UPDATE events SET position = NULL, snapshot = NULL, partial = FALSE WHERE event IN int_list($1)";
    /// If they come again they are redacted again.
    REMEMBER_REDACTIONS = "INSERT INTO pending_redactions (redacts, redaction)
        SELECT event_id, redacted_by FROM events WHERE event IN int_list($1) AND redacted_by IS NOT NULL
        ON CONFLICT DO NOTHING";
    /// These are only referred to from now on.
    FORGET = "UPDATE events SET verdict = 0, reason = NULL, depth = 0, position = NULL, snapshot = NULL, partial = FALSE,
            json = NULL, origin_server_ts = NULL
        WHERE event IN int_list($1) AND event IN (SELECT event FROM backward_extremities WHERE room = $2)";
    /// And these are gone.
    DELETE_EVENTS = "DELETE FROM events WHERE event IN int_list($1) AND verdict > 0";
    /// Redactions that wait for their event.
    DELETE_REDACTIONS = "DELETE FROM pending_redactions WHERE redaction IN int_list($1)";
    /// What relates to others.
    DELETE_RELATIONS = "DELETE FROM relations WHERE event IN int_list($1)";
    /// Of which users are told.
    DELETE_NOTIFICATIONS = "DELETE FROM notifications WHERE event IN int_list($1)";
    /// Below this nothing is held.
    SET_MIN_DEPTH = "UPDATE rooms SET min_depth = $2 WHERE room = $1 AND min_depth < $2";
}

/// So many events go with one transaction.
const AT_ONCE: usize = 100;

/// The deletion of the beginning of a room's history.
#[derive(Clone, Debug)]
pub struct HistoryPurge {
    /// Its ID.
    pub id: String,
    /// The room.
    pub room_id: OwnedRoomId,
    /// What is less deep goes.
    pub depth: i64,
    /// Whether what this server's users wrote goes, too.
    pub local_too: bool,
    /// How far it is.
    pub status: Status,
    /// Why it failed.
    pub error: Option<String>,
}

fn read(row: &Row) -> Result<HistoryPurge, StorageError> {
    Ok(HistoryPurge {
        id: row.text(0)?.to_owned(),
        room_id: row.parsed(1)?,
        depth: row.int(2)?,
        local_too: row.bool(3)?,
        status: Status::from_name(row.text(4)?)?,
        error: row.opt_text(5)?.map(str::to_owned),
    })
}

/// Begins a purge at a time in Unix milliseconds.
pub async fn put(tx: &mut Tx, new: &HistoryPurge, now_ms: u64) -> Result<(), StorageError> {
    let (id, room_id) = (&new.id[..], new.room_id.as_str());
    let values = params![id, room_id, new.depth, new.local_too, now_ms];
    tx.execute(PUT, values).await.map(drop)
}

/// A purge by its ID.
pub async fn by_id(tx: &mut Tx, id: &str) -> Result<Option<HistoryPurge>, StorageError> {
    let row = tx.query_opt(BY_ID, params![id]).await?;
    row.as_ref().map(read).transpose()
}

/// All purges that go on.
pub async fn active(tx: &mut Tx) -> Result<Vec<HistoryPurge>, StorageError> {
    let rows = tx.query(ACTIVE, params![]).await?;
    rows.iter().map(read).collect()
}

/// Whether a room's history is being purged.
pub async fn is_active_in(tx: &mut Tx, room_id: &RoomId) -> Result<bool, StorageError> {
    let row = tx.query_opt(ACTIVE_IN, params![room_id.as_str()]).await?;
    Ok(row.map(|row| row.int(0)).transpose()?.unwrap_or(0) > 0)
}

/// Ends a purge as it is, at a time in Unix milliseconds.
pub async fn finish(tx: &mut Tx, ended: &HistoryPurge, now_ms: u64) -> Result<(), StorageError> {
    let error = ended.error.as_deref().map(message);
    let values = params![&ended.id[..], ended.status.name(), error.as_deref(), now_ms];
    tx.execute(FINISH, values).await.map(drop)
}

/// Forgets purges that ended before a time in Unix milliseconds.
pub async fn delete_before(tx: &mut Tx, before_ms: u64) -> Result<u64, StorageError> {
    tx.execute(DELETE_OLD, params![before_ms]).await
}

/// The depth of the last event of a room that was made up to a time in Unix milliseconds.
pub async fn depth_at(tx: &mut Tx, room: RoomNr, at_ms: i64) -> Result<Option<i64>, StorageError> {
    let row = tx.query_opt(DEPTH_AT, params![room, at_ms]).await?;
    row.map(|row| row.int(0)).transpose()
}

/// How deep the deepest end of a room's graph is.
pub async fn deepest_end(tx: &mut Tx, room: RoomNr) -> Result<Option<i64>, StorageError> {
    let row = tx.query_opt(DEEPEST_END, params![room]).await?;
    Ok(row.map(|row| row.opt_int(0)).transpose()?.flatten())
}

/// Which events go.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Those that are less deep.
    pub depth: i64,
    /// What users of this server wrote stays, without its place.
    pub except_of: Option<OwnedServerName>,
}

/// Takes the next events out of a room's timeline, the least deep first, and answers how many. To be done in the
/// room's turn; who holds it has to read the room again.
///
/// # Errors
/// Any [`StorageError`].
pub async fn purge_some(
    tx: &mut Tx,
    key: &RoomKey,
    bounds: &Bounds,
) -> Result<usize, StorageError> {
    let room = key.room;
    let mut rows = tx
        .query(SHOWN, params![room, bounds.depth, AT_ONCE])
        .await?;
    if rows.is_empty() {
        rows = tx
            .query(NOT_SHOWN, params![room, bounds.depth, AT_ONCE])
            .await?;
    }
    if rows.is_empty() {
        tx.execute(SET_MIN_DEPTH, params![room, bounds.depth])
            .await?;
        return Ok(0);
    }
    events::keep_numbers(tx).await?;
    let column = |at| {
        rows.iter()
            .map(|row| row.int(at))
            .collect::<Result<Vec<i64>, _>>()
    };
    let (numbers, positions) = (column(0)?, column(1)?);
    let held: Vec<EventNr> = numbers.iter().copied().map(EventNr).collect();
    let held = events::by_number(tx, key, &held).await?;
    cut_off(tx, room, &numbers, held.iter().map(|event| &**event)).await?;
    search_index::delete_at(tx, &positions).await?;
    for statement in [DELETE_REDACTIONS, DELETE_RELATIONS, DELETE_NOTIFICATIONS] {
        tx.execute(statement, params![&numbers]).await?;
    }
    let stays = |event: &Event| {
        let sender = event.pdu.sender.server_name();
        event.pdu.state_key.is_some() || bounds.except_of.as_deref() == Some(sender)
    };
    let (stay, go): (Vec<_>, Vec<_>) = held.iter().partition(|event| stays(event));
    let stay: Vec<i64> = stay.iter().map(|event| event.nr.0).collect();
    let go: Vec<i64> = go.iter().map(|event| event.nr.0).collect();
    tx.execute(DISPLACE, params![&stay]).await?;
    tx.execute(REMEMBER_REDACTIONS, params![&go]).await?;
    tx.execute(FORGET, params![&go, room]).await?;
    tx.execute(DELETE_EVENTS, params![&go]).await?;
    Ok(numbers.len())
}

/// Takes events out of the graph.
async fn cut_off(
    tx: &mut Tx,
    room: RoomNr,
    numbers: &Vec<i64>,
    held: impl Iterator<Item = &Event>,
) -> Result<(), StorageError> {
    let parents = held.flat_map(|event| &event.pdu.prev_events);
    let ids: Vec<Vec<u8>> = parents.map(|id| event_id::to_stored(id)).collect();
    let ids = Param::BlobList(ids.iter().map(|id| &id[..]).collect());
    let rows = tx.query(NUMBERS, params![ids, room]).await?;
    let parents = rows
        .iter()
        .map(|row| row.int(0))
        .collect::<Result<Vec<i64>, _>>()?;
    tx.execute(DELETE_EDGES, params![&parents, numbers]).await?;
    tx.execute(DELETE_ENDS, params![room, &parents]).await?;
    tx.execute(DELETE_REFERENCES, params![&parents]).await?;
    tx.execute(PUT_ENDS, params![numbers]).await.map(drop)
}
