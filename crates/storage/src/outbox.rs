//! Our events that other servers must get: one row an event, however many servers.

use myelin_core::number::{EventNr, RoomNr, SnapshotNr, StreamPosition};

use crate::{StorageError, Tx};

statements! {
    /// One more event to be sent.
    PUT_OUTBOX = "INSERT INTO outbox (position, event, room, snapshot, further, made_ts)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    /// Events to be sent after a position.
    OUTBOX_AFTER = "SELECT position, event, room, snapshot, further, made_ts FROM outbox WHERE position > $1
        ORDER BY position LIMIT $2";
    /// The last event of a room that is to be sent.
    LAST_IN_OUTBOX = "SELECT MAX(position) FROM outbox WHERE room = $1";
    /// Everybody has these.
    DELETE_OUTBOX = "DELETE FROM outbox WHERE position <= $1";
    /// Who is told of the last event of a room asks for those before it. An event with receivers of its
    /// own may be the last that these hear of the room.
    THIN_OUTBOX = "DELETE FROM outbox WHERE position <= $1 AND made_ts < $2 AND further = '' AND EXISTS (
        SELECT 1 FROM outbox later WHERE later.room = outbox.room
            AND later.position > outbox.position AND later.position <= $1)";
    /// Servers that are behind.
    CURSORS = "SELECT server, position FROM delivery_cursors ORDER BY server";
    /// How far a server that is behind has come.
    PUT_CURSOR = "INSERT INTO delivery_cursors (server, position) VALUES ($1, $2)
        ON CONFLICT (server) DO UPDATE SET position = excluded.position";
    /// A server has caught up.
    DELETE_CURSOR = "DELETE FROM delivery_cursors WHERE server = $1";
}

/// An event to be sent.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// Its stream position.
    pub position: StreamPosition,
    /// The event.
    pub event: EventNr,
    /// Its room.
    pub room: RoomNr,
    /// The state whose servers get it.
    pub snapshot: SnapshotNr,
    /// Servers that get it beside these.
    pub further: Vec<String>,
    /// When it was queued, in Unix milliseconds.
    pub made_ms: u64,
}

/// Queues an event.
pub async fn put(tx: &mut Tx, row: &OutboxRow) -> Result<(), StorageError> {
    let further = row.further.join(" ");
    tx.run(
        PUT_OUTBOX,
        params![
            row.position.0,
            row.event.0,
            row.room.0,
            row.snapshot.0,
            &further[..],
            row.made_ms
        ],
    )
    .await?;
    Ok(())
}

/// The events to be sent after a position, in order.
pub async fn after(
    tx: &mut Tx,
    position: StreamPosition,
    limit: usize,
) -> Result<Vec<OutboxRow>, StorageError> {
    let rows = tx
        .query(OUTBOX_AFTER, params![position.0, limit as i64])
        .await?;
    rows.iter()
        .map(|row| {
            Ok(OutboxRow {
                position: StreamPosition(row.int(0)?),
                event: EventNr(row.int(1)?),
                room: RoomNr(row.int(2)?),
                snapshot: SnapshotNr(row.int(3)?),
                further: row.text(4)?.split_whitespace().map(str::to_owned).collect(),
                made_ms: row.int(5)?.max(0).unsigned_abs(),
            })
        })
        .collect()
}

/// The position of the last event of a room that is kept to be sent.
pub async fn last_of_room(
    tx: &mut Tx,
    room: RoomNr,
) -> Result<Option<StreamPosition>, StorageError> {
    let row = tx.query_opt(LAST_IN_OUTBOX, params![room.0]).await?;
    let last = row.map(|row| row.opt_int(0)).transpose()?.flatten();
    Ok(last.map(StreamPosition))
}

/// Forgets the events up to a position.
pub async fn delete_upto(tx: &mut Tx, position: StreamPosition) -> Result<(), StorageError> {
    tx.run(DELETE_OUTBOX, params![position.0]).await?;
    Ok(())
}

/// Forgets, of the events up to a position that were queued before a time (Unix milliseconds), all but
/// the last of each room.
pub async fn thin(tx: &mut Tx, upto: StreamPosition, before_ms: u64) -> Result<u64, StorageError> {
    tx.execute(THIN_OUTBOX, params![upto.0, before_ms]).await
}

/// The servers that are behind, and the position up to which each has everything.
pub async fn cursors(tx: &mut Tx) -> Result<Vec<(String, StreamPosition)>, StorageError> {
    let rows = tx.query(CURSORS, params![]).await?;
    rows.iter()
        .map(|row| Ok((row.text(0)?.to_owned(), StreamPosition(row.int(1)?))))
        .collect()
}

/// Notes that a server is behind, and has everything up to a position.
pub async fn put_cursor(
    tx: &mut Tx,
    server: &str,
    position: StreamPosition,
) -> Result<(), StorageError> {
    tx.run(PUT_CURSOR, params![server, position.0]).await?;
    Ok(())
}

/// Notes that a server has caught up.
pub async fn delete_cursor(tx: &mut Tx, server: &str) -> Result<(), StorageError> {
    tx.run(DELETE_CURSOR, params![server]).await?;
    Ok(())
}
