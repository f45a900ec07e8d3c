//! Making acknowledged events durable before they are judged.

use std::sync::Arc;

use myelin_core::validate::ValidPdu;
use myelin_storage::{
    Priority, StorageError,
    staged::{self, Staged},
};
use tracing::Instrument as _;

use crate::{Rooms, Taking, room::Room, trace::Trace};

/// What a transaction brought, checked as far as it can be without the room.
pub(crate) struct Arrival {
    pub(crate) room: Arc<Room>,
    pub(crate) pdu: ValidPdu,
    /// The number under which it is staged.
    staged: i64,
    trace: Trace,
}

impl Arrival {
    /// An event that has passed the checks.
    pub(crate) fn new(rooms: &Rooms, room: &Arc<Room>, pdu: ValidPdu) -> Self {
        let trace = Trace::begin(&room.key.room_id);
        trace.identify(&pdu.event_id);
        Self {
            room: room.clone(),
            pdu,
            staged: rooms.numbers().staged(),
            trace,
        }
    }

    /// It is about to be staged, and counts among those that wait.
    pub(crate) fn wait(&mut self) {
        let trace = std::mem::replace(&mut self.trace, Trace::none());
        self.room.inbound.put_trace(self.staged, trace);
        self.room.inbound.add_to_backlog(1);
    }

    /// It was not staged after all.
    pub(crate) fn give_up(&self, rooms: &Rooms) {
        self.room.inbound.take_trace(self.staged);
        rooms.lessen_backlog(&self.room, 1);
    }
}

impl Rooms {
    /// Writes the events of a transaction and the answer to it. After this, the answer is true.
    pub(crate) async fn stage(
        &self,
        taking: &Taking<'_>,
        arrivals: &[Arrival],
        response: String,
    ) -> Result<(), StorageError> {
        let (origin, txn_id) = (taking.origin.clone(), taking.txn_id.clone());
        let rows: Vec<_> = arrivals
            .iter()
            .map(|arrival| {
                let staged = Staged {
                    staged: arrival.staged,
                    origin: origin.clone(),
                    event_id: arrival.pdu.event_id.clone(),
                    json: arrival.pdu.json.to_string(),
                };
                (arrival.room.key.room, staged)
            })
            .collect();
        let now_ms = self.env().clock.now_ms();
        let span = tracing::debug_span!("stage", events = arrivals.len());
        self.database()
            .write("stage PDUs", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    for (room, pdu) in &rows {
                        staged::put(tx, *room, pdu).await?;
                    }
                    let response = response.as_bytes();
                    staged::put_transaction(tx, &origin, &txn_id, response, now_ms).await
                })
            })
            .instrument(span)
            .await
    }
}
