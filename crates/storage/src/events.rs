//! Events, and the edges between them.

use myelin_core::{
    completeness::{Completeness, StateRef},
    event::{Event, Place, Verdict},
    number::{EventNr, RoomNr, SnapshotNr, StreamPosition},
    pdu::Pdu,
    room_version::RoomVersion,
};
use ruma::{EventId, OwnedEventId, OwnedRoomId};
use std::sync::Arc;

use crate::{
    Param, Row, StorageError, Tx, event_id, param::message, relations, rooms, search_index,
};

/// The first byte of stored event JSON: canonical JSON as it is.
const FORMAT_PLAIN: u8 = 1;

statements! {
    /// Events by number.
    EVENTS_BY_NUMBER = "SELECT event, event_id, verdict, position, snapshot, partial, redacted_by, json
        FROM events WHERE event IN int_list($1) AND verdict > 0";
    /// Events by ID, those that are only referred to included.
    EVENTS_BY_ID = "SELECT event, event_id, verdict, position, snapshot, partial, redacted_by, json
        FROM events WHERE event_id IN blob_list($1) AND room = $2";
    /// Which of some IDs are held.
    HELD_EVENTS = "SELECT event_id, event FROM events WHERE event_id IN blob_list($1) AND room = $2 AND verdict > 0";
    /// The room and version that an event belongs to.
    ROOM_OF_EVENT = "SELECT e.event, r.room, r.room_id, r.version FROM events e JOIN rooms r ON r.room = e.room
        WHERE e.event_id = $1 AND e.verdict > 0";
    /// A new event, or one that was only referred to until now, or an outlier that gets a place, or
    /// a new verdict: the row becomes what is given. Who redacted it stays.
    PUT_EVENT = "INSERT INTO events (event, event_id, room, verdict, reason, depth, position, snapshot, partial, json,
            origin_server_ts)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (event) DO UPDATE SET verdict = excluded.verdict, reason = excluded.reason,
            depth = excluded.depth, position = excluded.position, snapshot = excluded.snapshot,
            partial = excluded.partial, json = excluded.json, origin_server_ts = excluded.origin_server_ts";
    /// An event that another one refers to.
    PUT_REFERENCE = "INSERT INTO events (event, event_id, room, verdict, depth, partial)
        VALUES ($1, $2, $3, 0, 0, FALSE) ON CONFLICT DO NOTHING";
    /// A new state, and perhaps verdict, of an event whose state was partial.
    REPLACE_STATE = "UPDATE events SET snapshot = $2, partial = FALSE, verdict = $3, reason = $4
        WHERE event = $1 AND partial";
    /// Notes a redaction.
    SET_REDACTED = "UPDATE events SET redacted_by = $2 WHERE event = $1";
    /// A parent.
    PUT_PREV_EDGE = "INSERT INTO prev_edges (prev, event) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    /// The auth events of an event.
    PUT_AUTH_EDGES = "INSERT INTO auth_edges (auth_event, event) SELECT value, $2 FROM int_list($1) WHERE TRUE
        ON CONFLICT DO NOTHING";
    /// The events that cite some events among their auth events.
    AUTH_CHILDREN = "SELECT auth_event, event FROM auth_edges WHERE auth_event IN int_list($1)";
    /// Everything that some events reach through their auth events.
    AUTH_CHAIN = "WITH RECURSIVE chain (event) AS (
            SELECT auth_event FROM auth_edges WHERE event IN int_list($1)
            UNION SELECT a.auth_event FROM auth_edges a JOIN chain c ON a.event = c.event)
        SELECT event FROM chain ORDER BY event";
    /// The IDs of some events.
    EVENT_IDS = "SELECT event_id FROM events WHERE event IN int_list($1) AND verdict > 0 ORDER BY event";
    /// The timeline events that name some events as parents.
    CHILDREN = "SELECT e.event, e.verdict FROM prev_edges p JOIN events e ON e.event = p.event
        WHERE p.prev IN int_list($1) AND e.position IS NOT NULL";
    /// A redaction of an event that isn't held.
    PUT_PENDING_REDACTION = "INSERT INTO pending_redactions (redacts, redaction) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    /// The redactions in a room that wait for an event. Anybody may redact any ID in a room of theirs.
    PENDING_REDACTIONS = "SELECT p.redaction FROM pending_redactions p JOIN events e ON e.event = p.redaction
        WHERE p.redacts = $1 AND e.room = $2 ORDER BY p.redaction";
    /// Partial events of a room by position, the resync's work list.
    PARTIAL_EVENTS = "SELECT event FROM events WHERE room = $1 AND partial ORDER BY position LIMIT $2";
    /// How many events of a room have partial state.
    COUNT_PARTIAL_EVENTS = "SELECT COUNT(*) FROM events WHERE room = $1 AND partial";
    /// Timeline events of a room, oldest first, between two positions.
    TIMELINE_FORWARD = "SELECT event FROM events WHERE room = $1 AND position > $2 AND position <= $3
        AND verdict = 1 ORDER BY position LIMIT $4";
    /// Timeline events of a room, newest first, between two positions.
    TIMELINE_BACKWARD = "SELECT event FROM events WHERE room = $1 AND position > $2 AND position <= $3
        AND verdict = 1 ORDER BY position DESC LIMIT $4";
    /// The highest numbers and positions that were given out.
    LAST_NUMBERS = "SELECT (SELECT COALESCE(MAX(event), 0) FROM events),
            (SELECT COALESCE(MAX(position), 0) FROM events WHERE position > 0),
            (SELECT COALESCE(MIN(position), 0) FROM events WHERE position < 0)";
}

/// The settings for the last numbers and positions of events that may be gone.
const KEPT: [&str; 3] = ["last_event", "last_position", "last_backfilled"];

/// What is known of an event ID.
#[derive(Clone, Debug)]
pub enum Known {
    /// The event is held.
    Held(Arc<Event>),
    /// Another event refers to it; it has a number, but is not held.
    Referenced(EventNr),
}

/// Everything that [`put`] writes of one event.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The event as it will be known.
    pub event: Event,
    /// Why it was rejected or soft-failed.
    pub reason: Option<String>,
    /// The numbers of its auth events.
    pub auth_events: Vec<EventNr>,
    /// The numbers of its parents.
    pub prev_events: Vec<EventNr>,
}

fn verdict_code(verdict: Verdict) -> i64 {
    match verdict {
        Verdict::Accepted => 1,
        Verdict::SoftFailed => 2,
        Verdict::Rejected => 3,
    }
}

fn verdict_from_code(code: i64) -> Option<Verdict> {
    match code {
        1 => Some(Verdict::Accepted),
        2 => Some(Verdict::SoftFailed),
        3 => Some(Verdict::Rejected),
        _ => None,
    }
}

/// The room that events are read from: its ID and version are needed to make sense of the bytes.
#[derive(Clone, Debug)]
pub struct RoomKey {
    /// Its number.
    pub room: RoomNr,
    /// Its ID.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersion,
}

/// The JSON in a stored event.
pub(crate) fn read_json(stored: &[u8]) -> Result<&str, StorageError> {
    match stored.split_first() {
        Some((&FORMAT_PLAIN, json)) => std::str::from_utf8(json)
            .map_err(|error| StorageError::Corrupt(format!("event JSON: {error}"))),
        _ => Err(StorageError::Corrupt(
            "event JSON of an unknown format".to_owned(),
        )),
    }
}

fn read_event(room: &RoomKey, row: &Row) -> Result<Known, StorageError> {
    let nr = EventNr(row.int(0)?);
    let Some(verdict) = verdict_from_code(row.int(2)?) else {
        return Ok(Known::Referenced(nr));
    };
    let place = match (row.opt_int(3)?, row.opt_int(4)?) {
        (Some(position), Some(snapshot)) => Place::Timeline {
            before: StateRef::new(
                SnapshotNr(snapshot),
                Completeness::from_stored(row.bool(5)?),
            ),
            position: StreamPosition(position),
        },
        _ => Place::Outlier,
    };
    let json = read_json(row.blob(7)?)?;
    let id = event_id::from_stored(row.blob(1)?)?;
    let pdu = Pdu::from_stored(room.version, id, json)
        .map_err(|error| StorageError::Corrupt(format!("event {nr}: {error}")))?;
    Ok(Known::Held(Arc::new(Event {
        nr,
        pdu: Arc::new(pdu),
        verdict,
        place,
        redacted_by: row.opt_int(6)?.map(EventNr),
    })))
}

/// Events by number, in no order. Numbers of events that aren't held are passed over.
pub async fn by_number(
    tx: &mut Tx,
    room: &RoomKey,
    numbers: &[EventNr],
) -> Result<Vec<Arc<Event>>, StorageError> {
    let numbers: Param<'_> = numbers.iter().map(|nr| nr.0).collect();
    let rows = tx.query(EVENTS_BY_NUMBER, params![numbers]).await?;
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Known::Held(event) = read_event(room, row)? {
            events.push(event);
        }
    }
    Ok(events)
}

/// What is known of some event IDs, in no order; unknown ones are passed over.
pub async fn by_id(
    tx: &mut Tx,
    room: &RoomKey,
    ids: &[OwnedEventId],
) -> Result<Vec<(OwnedEventId, Known)>, StorageError> {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| event_id::to_stored(id)).collect();
    let rows = tx
        .query(
            EVENTS_BY_ID,
            params![
                Param::BlobList(ids.iter().map(|id| &id[..]).collect()),
                room.room.0
            ],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((event_id::from_stored(row.blob(1)?)?, read_event(room, row)?)))
        .collect()
}

/// The room of an event that is held.
pub async fn room_of(tx: &mut Tx, id: &EventId) -> Result<Option<RoomKey>, StorageError> {
    let id = event_id::to_stored(id);
    let row = tx.query_opt(ROOM_OF_EVENT, params![&id[..]]).await?;
    row.map(|row| rooms::read_key(&row, 1)).transpose()
}

/// Stores events in place of what was known of them, with their edges. Events that they refer to must have
/// numbers already ([`put_reference`]). One kind of row comes after another, which is faster.
pub async fn put(tx: &mut Tx, room: RoomNr, new: &[NewEvent]) -> Result<(), StorageError> {
    for new in new {
        put_row(tx, room, new).await?;
    }
    // A chain leads through state events only; a bot's messages would bury its membership.
    for new in new.iter().filter(|new| new.event.pdu.state_key.is_some()) {
        let auth_events = new.auth_events.iter().map(|nr| nr.0).collect();
        let values = params![Param::IntList(auth_events), new.event.nr];
        tx.run(PUT_AUTH_EDGES, values).await?;
    }
    for new in new.iter().filter(|new| new.event.in_timeline()) {
        for prev in &new.prev_events {
            tx.run(PUT_PREV_EDGE, params![*prev, new.event.nr]).await?;
        }
    }
    for NewEvent { event, .. } in new {
        let Some(position) = event.position() else {
            continue;
        };
        relations::put(tx, room, (event.nr, &event.pdu), position).await?;
        // Its place is not one that whoever follows the stream comes by.
        if position.0 < 0 {
            search_index::put_past(tx, position).await?;
        }
    }
    Ok(())
}

async fn put_row(tx: &mut Tx, room: RoomNr, new: &NewEvent) -> Result<(), StorageError> {
    let event = &new.event;
    let id = event_id::to_stored(event.id());
    let before = event.before();
    let mut json = Vec::with_capacity(event.pdu.json.len() + 1);
    json.push(FORMAT_PLAIN);
    json.extend_from_slice(event.pdu.json.as_bytes());
    let reason = new.reason.as_deref().map(message);
    let values = params![
        event.nr,
        &id[..],
        room,
        verdict_code(event.verdict),
        reason.as_deref(),
        event.pdu.depth,
        event.position(),
        before.map(StateRef::snapshot),
        before.is_some_and(|before| before.completeness().to_stored()),
        &json[..],
        i64::from(event.pdu.origin_server_ts.get())
    ];
    tx.run(PUT_EVENT, values).await
}

/// Gives a number to an event that another one refers to.
pub async fn put_reference(
    tx: &mut Tx,
    room: RoomNr,
    nr: EventNr,
    id: &EventId,
) -> Result<(), StorageError> {
    let id = event_id::to_stored(id);
    tx.run(PUT_REFERENCE, params![nr.0, &id[..], room.0])
        .await?;
    Ok(())
}

/// Replaces the partial state of an event by a full one. False if it wasn't partial any more.
pub async fn replace_state(
    tx: &mut Tx,
    event: EventNr,
    snapshot: SnapshotNr,
    verdict: Verdict,
    reason: Option<&str>,
) -> Result<bool, StorageError> {
    let reason = reason.map(message);
    let changed = tx
        .execute(
            REPLACE_STATE,
            params![
                event.0,
                snapshot.0,
                verdict_code(verdict),
                reason.as_deref()
            ],
        )
        .await?;
    Ok(changed > 0)
}

/// Notes that an event was redacted. It relates to nothing any more.
pub async fn set_redacted(tx: &mut Tx, event: EventNr, by: EventNr) -> Result<(), StorageError> {
    tx.run(SET_REDACTED, params![event.0, by.0]).await?;
    relations::delete(tx, event).await
}

/// Keeps a redaction for an event that isn't held.
pub async fn put_pending_redaction(
    tx: &mut Tx,
    redacts: &EventId,
    by: EventNr,
) -> Result<(), StorageError> {
    let redacts = event_id::to_stored(redacts);
    tx.run(PUT_PENDING_REDACTION, params![&redacts[..], by.0])
        .await?;
    Ok(())
}

/// The redactions in a room that came before their event.
pub async fn pending_redactions(
    tx: &mut Tx,
    room: RoomNr,
    id: &EventId,
) -> Result<Vec<EventNr>, StorageError> {
    let id = event_id::to_stored(id);
    numbers(
        tx.query(PENDING_REDACTIONS, params![&id[..], room.0])
            .await?,
    )
}

/// For each of some events, those that cite it among their auth events.
pub async fn auth_children(
    tx: &mut Tx,
    events: &[EventNr],
) -> Result<Vec<(EventNr, EventNr)>, StorageError> {
    let events: Param<'_> = events.iter().map(|nr| nr.0).collect();
    let rows = tx.query(AUTH_CHILDREN, params![events]).await?;
    rows.iter()
        .map(|row| Ok((EventNr(row.int(0)?), EventNr(row.int(1)?))))
        .collect()
}

/// The timeline events that name some events as their parents, with what is thought of them.
pub async fn children(
    tx: &mut Tx,
    events: &[EventNr],
) -> Result<Vec<(EventNr, Verdict)>, StorageError> {
    let events: Param<'_> = events.iter().map(|nr| nr.0).collect();
    let rows = tx.query(CHILDREN, params![events]).await?;
    let mut children = Vec::with_capacity(rows.len());
    for row in &rows {
        let verdict = verdict_from_code(row.int(1)?);
        if let Some(verdict) = verdict {
            children.push((EventNr(row.int(0)?), verdict));
        }
    }
    Ok(children)
}

fn numbers(rows: Vec<Row>) -> Result<Vec<EventNr>, StorageError> {
    rows.iter().map(|row| Ok(EventNr(row.int(0)?))).collect()
}

/// The first events of a room, by position, whose state is partial.
pub async fn partial_events(
    tx: &mut Tx,
    room: RoomNr,
    limit: usize,
) -> Result<Vec<EventNr>, StorageError> {
    numbers(
        tx.query(PARTIAL_EVENTS, params![room.0, limit as i64])
            .await?,
    )
}

/// How many events of a room have partial state.
pub async fn count_partial(tx: &mut Tx, room: RoomNr) -> Result<u64, StorageError> {
    let rows = tx.query(COUNT_PARTIAL_EVENTS, params![room.0]).await?;
    Ok(rows.first().map(|row| row.int(0)).transpose()?.unwrap_or(0) as u64)
}

/// Which way a timeline is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Forward,
    /// Newest first.
    Backward,
}

/// Accepted timeline events with positions in `(after, upto]`.
pub async fn timeline(
    tx: &mut Tx,
    room: RoomNr,
    direction: Direction,
    (after, upto): (StreamPosition, StreamPosition),
    limit: usize,
) -> Result<Vec<EventNr>, StorageError> {
    let sql = match direction {
        Direction::Forward => TIMELINE_FORWARD,
        Direction::Backward => TIMELINE_BACKWARD,
    };
    numbers(
        tx.query(sql, params![room.0, after.0, upto.0, limit as i64])
            .await?,
    )
}

/// The last numbers that were given out.
#[derive(Clone, Copy, Debug)]
pub struct LastNumbers {
    /// The highest event number.
    pub event: i64,
    /// The highest stream position.
    pub position: i64,
    /// The lowest stream position, zero or less.
    pub backfilled: i64,
}

/// Where the numbering of events and positions goes on.
pub async fn last_numbers(tx: &mut Tx) -> Result<LastNumbers, StorageError> {
    let rows = tx.query(LAST_NUMBERS, params![]).await?;
    let row = rows
        .first()
        .ok_or_else(|| StorageError::Corrupt("no last numbers".into()))?;
    let (event, position, backfilled) = (row.int(0)?, row.int(1)?, row.int(2)?);
    let [kept_event, kept_position, kept_backfilled] = KEPT;
    Ok(LastNumbers {
        event: event.max(rooms::kept(tx, kept_event).await?),
        position: position.max(rooms::kept(tx, kept_position).await?),
        backfilled: backfilled.min(rooms::kept(tx, kept_backfilled).await?),
    })
}

/// Keeps in mind how far numbers and positions have come, before events that have some are deleted.
pub(crate) async fn keep_numbers(tx: &mut Tx) -> Result<(), StorageError> {
    let last = last_numbers(tx).await?;
    for (name, number) in KEPT
        .into_iter()
        .zip([last.event, last.position, last.backfilled])
    {
        rooms::keep(tx, name, number).await?;
    }
    Ok(())
}

/// Those of some event IDs that are held in a room, with their numbers; nothing else of them is
/// read.
pub async fn held(
    tx: &mut Tx,
    room: RoomNr,
    ids: &[OwnedEventId],
) -> Result<Vec<(OwnedEventId, EventNr)>, StorageError> {
    let ids: Vec<Vec<u8>> = ids.iter().map(|id| event_id::to_stored(id)).collect();
    let ids = Param::BlobList(ids.iter().map(|id| &id[..]).collect());
    let rows = tx.query(HELD_EVENTS, params![ids, room.0]).await?;
    rows.iter()
        .map(|row| Ok((event_id::from_stored(row.blob(0)?)?, EventNr(row.int(1)?))))
        .collect()
}

/// Everything that some state events reach through their auth events.
pub async fn auth_chain(tx: &mut Tx, of: &[EventNr]) -> Result<Vec<EventNr>, StorageError> {
    let of: Param<'_> = of.iter().map(|nr| nr.0).collect();
    numbers(tx.query(AUTH_CHAIN, params![of]).await?)
}

/// The IDs of some events that are held.
pub async fn ids(tx: &mut Tx, of: &[EventNr]) -> Result<Vec<OwnedEventId>, StorageError> {
    let of: Param<'_> = of.iter().map(|nr| nr.0).collect();
    let rows = tx.query(EVENT_IDS, params![of]).await?;
    rows.iter()
        .map(|row| event_id::from_stored(row.blob(0)?))
        .collect()
}
