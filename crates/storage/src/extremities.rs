//! The extremities of a room's graph: forward, the events that no other follows; backward, those that are named
//! as parents and are not in the timeline.

use myelin_core::number::{EventNr, RoomNr};
use ruma::OwnedEventId;

use crate::{Param, StorageError, Tx, event_id};

statements! {
    /// A room's forward extremities.
    FORWARD_EXTREMITIES = "SELECT event FROM forward_extremities WHERE room = $1 ORDER BY event";
    /// Adds a forward extremity.
    PUT_FORWARD_EXTREMITY = "INSERT INTO forward_extremities (room, event) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    /// Removes a forward extremity.
    DELETE_FORWARD_EXTREMITY = "DELETE FROM forward_extremities WHERE room = $1 AND event = $2";
    /// A room's backward extremities, nearest to a depth first.
    BACKWARD_EXTREMITIES = "SELECT b.event, e.event_id, b.depth FROM backward_extremities b
        JOIN events e ON e.event = b.event WHERE b.room = $1 AND b.depth <= $2
        ORDER BY b.depth DESC LIMIT $3";
    /// Adds a backward extremity.
    PUT_BACKWARD_EXTREMITY = "INSERT INTO backward_extremities (room, event, depth) VALUES ($1, $2, $3)
        ON CONFLICT (room, event) DO UPDATE SET depth = excluded.depth WHERE excluded.depth < backward_extremities.depth";
    /// Removes backward extremities.
    DELETE_BACKWARD_EXTREMITIES = "DELETE FROM backward_extremities WHERE room = $1 AND event IN int_list($2)";
}

/// A room's forward extremities.
pub async fn forward(tx: &mut Tx, room: RoomNr) -> Result<Vec<EventNr>, StorageError> {
    let rows = tx.query(FORWARD_EXTREMITIES, params![room.0]).await?;
    rows.iter().map(|row| Ok(EventNr(row.int(0)?))).collect()
}

/// Adds or removes a forward extremity.
pub async fn set_forward(
    tx: &mut Tx,
    room: RoomNr,
    event: EventNr,
    present: bool,
) -> Result<(), StorageError> {
    let sql = if present {
        PUT_FORWARD_EXTREMITY
    } else {
        DELETE_FORWARD_EXTREMITY
    };
    tx.run(sql, params![room.0, event.0]).await?;
    Ok(())
}

/// An event that is a parent of a timeline event, and not in the timeline.
#[derive(Clone, Debug)]
pub struct BackwardExtremity {
    /// The event's number.
    pub event: EventNr,
    /// Its ID.
    pub event_id: OwnedEventId,
    /// The depth of the event that refers to it.
    pub depth: i64,
}

/// A room's backward extremities of at most a depth, deepest first.
pub async fn backward(
    tx: &mut Tx,
    room: RoomNr,
    max_depth: i64,
    limit: usize,
) -> Result<Vec<BackwardExtremity>, StorageError> {
    let rows = tx
        .query(
            BACKWARD_EXTREMITIES,
            params![room.0, max_depth, limit as i64],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(BackwardExtremity {
                event: EventNr(row.int(0)?),
                event_id: event_id::from_stored(row.blob(1)?)?,
                depth: row.int(2)?,
            })
        })
        .collect()
}

/// Adds a backward extremity that an event of `depth` refers to.
pub async fn put_backward(
    tx: &mut Tx,
    room: RoomNr,
    event: EventNr,
    depth: i64,
) -> Result<(), StorageError> {
    tx.run(PUT_BACKWARD_EXTREMITY, params![room.0, event.0, depth])
        .await?;
    Ok(())
}

/// Removes backward extremities: these events are in the timeline now.
pub async fn delete_backward(
    tx: &mut Tx,
    room: RoomNr,
    events: &[EventNr],
) -> Result<(), StorageError> {
    let events: Param<'_> = events.iter().map(|nr| nr.0).collect();
    tx.run(DELETE_BACKWARD_EXTREMITIES, params![room.0, events])
        .await
}
