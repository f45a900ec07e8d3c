//! Which events relate to which: what is written of that with each event, and what is found by it.

use myelin_core::{
    number::{EventNr, RoomNr, StreamPosition},
    pdu::Pdu,
    relation::{ANNOTATION, Relation},
};
use ruma::{OwnedEventId, OwnedUserId, UserId};

use crate::{
    Row, StorageError, Tx, event_id,
    events::{self, Direction},
    timelines::{HistoryEvent, HistoryPlace, HistoryRange},
};

statements! {
    /// What an event of a timeline relates to, unless it was redacted.
    PUT_RELATION = "INSERT INTO relations (event, room, parent, rel_type, event_type, sender, annotation,
            depth, position, origin_server_ts)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
        WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.event = $1 AND e.redacted_by IS NOT NULL)
        ON CONFLICT (event) DO UPDATE SET position = excluded.position";
    /// An event that was redacted relates to nothing.
    DELETE_RELATION = "DELETE FROM relations WHERE event = $1";
    /// What relates to an event, or to what relates to it, newest first.
    RELATED_BACKWARD = "WITH RECURSIVE related (event, depth, position, level) AS (
            SELECT r.event, r.depth, r.position, CAST(1 AS BIGINT) FROM relations r
            WHERE r.parent = $2 AND r.room = $1 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.event_type = $4)
            UNION ALL SELECT r.event, r.depth, r.position, x.level + 1 FROM related x
            JOIN events e ON e.event = x.event JOIN relations r ON r.parent = e.event_id AND r.room = $1
            WHERE x.level < $5 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.event_type = $4))
        SELECT x.event, x.depth, x.position FROM related x JOIN events e ON e.event = x.event
        WHERE e.verdict = 1 AND (x.depth, x.position) >= ($6, $7) AND (x.depth, x.position) < ($8, $9)
            AND x.position > $10 AND x.position <= $11
        ORDER BY x.depth DESC, x.position DESC LIMIT $12";
    /// The same, oldest first.
    RELATED_FORWARD = "WITH RECURSIVE related (event, depth, position, level) AS (
            SELECT r.event, r.depth, r.position, CAST(1 AS BIGINT) FROM relations r
            WHERE r.parent = $2 AND r.room = $1 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.event_type = $4)
            UNION ALL SELECT r.event, r.depth, r.position, x.level + 1 FROM related x
            JOIN events e ON e.event = x.event JOIN relations r ON r.parent = e.event_id AND r.room = $1
            WHERE x.level < $5 AND ($3 = '' OR r.rel_type = $3) AND ($4 = '' OR r.event_type = $4))
        SELECT x.event, x.depth, x.position FROM related x JOIN events e ON e.event = x.event
        WHERE e.verdict = 1 AND (x.depth, x.position) >= ($6, $7) AND (x.depth, x.position) < ($8, $9)
            AND x.position > $10 AND x.position <= $11
        ORDER BY x.depth, x.position LIMIT $12";
    /// Threads of a room before a place, by their last event that counts, the latest first.
    THREADS = "SELECT p.event, r.depth, r.position, EXISTS (SELECT 1 FROM relations o
                WHERE o.parent = r.parent AND o.room = r.room AND o.rel_type = 'm.thread' AND o.sender = $6)
        FROM relations r JOIN events e ON e.event = r.event
        JOIN events p ON p.event_id = r.parent AND p.room = r.room
        WHERE r.room = $1 AND r.rel_type = 'm.thread' AND (r.depth, r.position) < ($2, $3) AND r.position <= $4
            AND e.verdict = 1 AND p.verdict = 1 AND p.position IS NOT NULL
            AND r.sender NOT IN text_list($5)
            AND NOT EXISTS (SELECT 1 FROM relations o WHERE o.event = p.event)
            AND NOT EXISTS (SELECT 1 FROM relations n JOIN events f ON f.event = n.event
                WHERE n.parent = r.parent AND n.room = r.room AND n.rel_type = 'm.thread'
                    AND (n.depth, n.position) > (r.depth, r.position) AND n.position <= $4
                    AND f.verdict = 1 AND n.sender NOT IN text_list($5))
        ORDER BY r.depth DESC, r.position DESC LIMIT $7";
    /// A user's annotations of an event with the same type and key.
    SAME_ANNOTATIONS = "SELECT r.event FROM relations r JOIN events e ON e.event = r.event
        WHERE r.room = $1 AND r.parent = $2 AND r.sender = $3 AND r.rel_type = 'm.annotation'
            AND r.event_type = $4 AND r.annotation = $5 AND e.verdict = 1";
    /// To which of some events others relate, of any kind or some, by anybody or some.
    PARENTS = "SELECT DISTINCT r.parent FROM relations r JOIN events e ON e.event = r.event
        WHERE r.room = $1 AND r.parent IN blob_list($2) AND e.verdict = 1
            AND ($3 OR r.rel_type IN text_list($4)) AND ($5 OR r.sender IN text_list($6))";
    /// Timeline events that may relate to something, for a database that has no relations yet.
    HELD_BEFORE = "SELECT e.event, r.room, r.room_id, r.version, e.event_id, e.position, e.json
        FROM events e JOIN rooms r ON r.room = e.room
        WHERE e.event > $1 AND e.verdict > 0 AND e.position IS NOT NULL AND e.json IS NOT NULL
        ORDER BY e.event LIMIT 500";
}

/// Notes what an event of a timeline relates to, if it does.
///
/// # Errors
/// Any [`StorageError`].
pub(crate) async fn put(
    tx: &mut Tx,
    room: RoomNr,
    (event, pdu): (EventNr, &Pdu),
    position: StreamPosition,
) -> Result<(), StorageError> {
    let Some(relation) = Relation::of(pdu) else {
        return Ok(());
    };
    let event_type = pdu.event_type.to_string();
    let texts = [
        Some(&relation.rel_type),
        relation.key.as_ref(),
        Some(&event_type),
    ];
    // PostgreSQL has no such texts, and nobody means anything by them.
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        return Ok(());
    }
    let parent = event_id::to_stored(&relation.event_id);
    tx.run(
        PUT_RELATION,
        params![
            event,
            room,
            &parent[..],
            &relation.rel_type,
            &event_type,
            pdu.sender.as_str(),
            relation.key.as_deref(),
            pdu.depth,
            position,
            i64::from(pdu.origin_server_ts.get())
        ],
    )
    .await?;
    Ok(())
}

/// Forgets what an event related to.
///
/// # Errors
/// Any [`StorageError`].
pub(crate) async fn delete(tx: &mut Tx, event: EventNr) -> Result<(), StorageError> {
    tx.run(DELETE_RELATION, params![event]).await
}

/// Notes what events relate to that were stored before relations were. A part of the step of the schema
/// that brought them.
pub(crate) async fn fill(tx: &mut Tx) -> Result<(), StorageError> {
    let mut last = 0;
    loop {
        let rows = tx.query(HELD_BEFORE, params![last]).await?;
        let Some(row) = rows.last() else {
            return Ok(());
        };
        last = row.int(0)?;
        for row in &rows {
            let key = crate::rooms::read_key(row, 1)?;
            let id = event_id::from_stored(row.blob(4)?)?;
            let pdu = Pdu::from_stored(key.version, id, events::read_json(row.blob(6)?)?)
                .map_err(|error| StorageError::Corrupt(error.to_string()))?;
            let position = StreamPosition(row.int(5)?);
            put(tx, key.room, (EventNr(row.int(0)?), &pdu), position).await?;
        }
    }
}

/// Which relations are looked for.
#[derive(Clone, Debug)]
pub struct Related {
    /// To which event.
    pub parent: OwnedEventId,
    /// Of which kind; of any if absent.
    pub rel_type: Option<String>,
    /// By events of which type; of any if absent.
    pub event_type: Option<String>,
    /// Over how many relations: with 1, only what relates to the event itself.
    pub levels: u32,
}

/// The events of a part of a room's history that relate to an event, in topological order. The cost follows
/// the number of all that relate to it.
///
/// # Errors
/// Any [`StorageError`].
pub async fn related(
    tx: &mut Tx,
    room: RoomNr,
    of: &Related,
    direction: Direction,
    range: HistoryRange,
    limit: usize,
) -> Result<Vec<HistoryEvent>, StorageError> {
    let sql = match direction {
        Direction::Forward => RELATED_FORWARD,
        Direction::Backward => RELATED_BACKWARD,
    };
    let parent = event_id::to_stored(&of.parent);
    let rows = tx
        .query(
            sql,
            params![
                room,
                &parent[..],
                of.rel_type.as_deref().unwrap_or_default(),
                of.event_type.as_deref().unwrap_or_default(),
                of.levels,
                range.from.depth,
                range.from.position,
                range.to.depth,
                range.to.position,
                range.after,
                range.upto,
                limit
            ],
        )
        .await?;
    rows.iter().map(read_place).collect()
}

fn read_place(row: &Row) -> Result<HistoryEvent, StorageError> {
    let place = HistoryPlace {
        depth: row.int(1)?,
        position: StreamPosition(row.int(2)?),
    };
    Ok(HistoryEvent {
        event: EventNr(row.int(0)?),
        place,
    })
}

/// A thread of a room.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// The event that it began with, and the place of its last event that counts.
    pub root: HistoryEvent,
    /// Whether the reader wrote in it. Whether it began it, too, the caller sees.
    pub participated: bool,
}

/// The threads of a room whose last event is before a place and has a position up to `upto`, the latest
/// first. Events of those who are `ignored` don't count.
///
/// # Errors
/// Any [`StorageError`].
pub async fn threads(
    tx: &mut Tx,
    room: RoomNr,
    (before, upto): (HistoryPlace, StreamPosition),
    (reader, ignored): (&UserId, &[OwnedUserId]),
    limit: usize,
) -> Result<Vec<Thread>, StorageError> {
    let rows = tx
        .query(
            THREADS,
            params![
                room,
                before.depth,
                before.position,
                upto,
                names(ignored),
                reader.as_str(),
                limit
            ],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Thread {
                root: read_place(row)?,
                participated: row.bool(3)?,
            })
        })
        .collect()
}

pub(crate) fn names(users: &[OwnedUserId]) -> Vec<&str> {
    users.iter().map(|user| user.as_str()).collect()
}

/// The accepted annotations by a user that say the same about the same event.
///
/// # Errors
/// Any [`StorageError`].
pub async fn same_annotations(
    tx: &mut Tx,
    room: RoomNr,
    user: &UserId,
    event_type: &str,
    relation: &Relation,
) -> Result<Vec<EventNr>, StorageError> {
    let is_annotation = relation.rel_type == ANNOTATION;
    let Some(key) = relation.key.as_deref().filter(|_| is_annotation) else {
        return Ok(Vec::new());
    };
    // Such ones are not stored.
    if key.contains('\0') || event_type.contains('\0') {
        return Ok(Vec::new());
    }
    let parent = event_id::to_stored(&relation.event_id);
    let values = params![room, &parent[..], user.as_str(), event_type, key];
    let rows = tx.query(SAME_ANNOTATIONS, values).await?;
    rows.iter().map(|row| Ok(EventNr(row.int(0)?))).collect()
}

/// Of some events of a room, those to which others relate: by one of some kinds, and by one of some users,
/// where these are given.
///
/// # Errors
/// Any [`StorageError`].
pub async fn parents(
    tx: &mut Tx,
    room: RoomNr,
    events: &[OwnedEventId],
    rel_types: Option<&[String]>,
    senders: Option<&[OwnedUserId]>,
) -> Result<Vec<OwnedEventId>, StorageError> {
    let ids: Vec<Vec<u8>> = events.iter().map(|id| event_id::to_stored(id)).collect();
    let values = params![
        room,
        &ids,
        rel_types.is_none(),
        rel_types.unwrap_or_default(),
        senders.is_none(),
        names(senders.unwrap_or_default())
    ];
    let rows = tx.query(PARENTS, values).await?;
    rows.iter()
        .map(|row| event_id::from_stored(row.blob(0)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use myelin_core::{number::RoomNr, room_version::RoomVersion};
    use ruma::{event_id, room_id};

    use super::{Related, fill, related};
    use crate::{
        Priority, StorageError, event_id,
        events::{Direction, RoomKey},
        rooms,
        testing::on_each_engine,
        timelines::{HistoryPlace, HistoryRange},
    };
    use myelin_core::number::StreamPosition;

    const OLD_EVENT: &str =
        "INSERT INTO events (event, event_id, room, verdict, depth, position, partial,
        redacted_by, json) VALUES ($1, $2, 1, 1, 1, $1, FALSE, $3, $4)";

    #[tokio::test]
    async fn events_that_were_stored_before_relations_were_are_gone_through() {
        on_each_engine(|fresh| async move {
            let write = fresh.database.write("old events", Priority::Bulk, |tx| {
                Box::pin(async move {
                    let key = RoomKey {
                        room: RoomNr(1),
                        room_id: room_id!("!r:x.example").to_owned(),
                        version: RoomVersion::V11,
                    };
                    rooms::put(tx, &key).await?;
                    // More than are read at once; the last was redacted.
                    for number in 1..=601_i64 {
                        let json = format!(
                            r#"{}{{"auth_events":[],"content":{{"m.relates_to":{{"event_id":"$parent","rel_type":"x"}}}},"depth":1,"origin_server_ts":1,"prev_events":[],"room_id":"!r:x.example","sender":"@a:x.example","type":"t"}}"#,
                            '\u{1}'
                        );
                        let id = event_id::to_stored(&ruma::OwnedEventId::try_from(format!("${number}")).unwrap());
                        let by = (number == 601).then_some(1_i64);
                        tx.run(OLD_EVENT, params![number, &id[..], by, json.as_bytes()]).await?;
                    }
                    fill(tx).await?;
                    let of = Related {
                        parent: event_id!("$parent").to_owned(),
                        rel_type: None,
                        event_type: None,
                        levels: 1,
                    };
                    let range = HistoryRange {
                        from: HistoryPlace::START,
                        to: HistoryPlace::END,
                        after: StreamPosition(i64::MIN),
                        upto: StreamPosition(i64::MAX),
                    };
                    related(tx, RoomNr(1), &of, Direction::Forward, range, 1000).await
                })
            });
            let found: Result<Vec<_>, StorageError> = write.await;
            let found: Vec<i64> = found.unwrap().iter().map(|found| found.event.0).collect();
            assert_eq!(found, (1..=600).collect::<Vec<_>>());
        })
        .await;
    }
}
