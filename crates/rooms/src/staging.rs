//! Making acknowledged events durable before they are judged.

use std::sync::Arc;

use myelin_core::validate::ValidPdu;
use myelin_storage::{
    Priority, StorageError,
    staged::{self, Staged},
};
use ruma::OwnedServerName;

use crate::{Rooms, room::Room};

/// What a transaction brought, checked as far as it can be without the room.
pub(crate) struct Arrival {
    pub(crate) room: Arc<Room>,
    pub(crate) pdu: ValidPdu,
}

impl Rooms {
    /// Writes the events of a transaction and the answer to it. After this, the answer is true.
    pub(crate) async fn stage(
        &self,
        origin: OwnedServerName,
        txn_id: String,
        arrivals: &[Arrival],
        response: String,
    ) -> Result<(), StorageError> {
        let rows: Vec<_> = arrivals
            .iter()
            .map(|arrival| {
                let staged = Staged {
                    staged: self.numbers().staged(),
                    origin: origin.clone(),
                    event_id: arrival.pdu.event_id.clone(),
                    json: arrival.pdu.json.to_string(),
                };
                (arrival.room.key.room, staged)
            })
            .collect();
        let now_ms = self.env().clock.now_ms();
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
            .await
    }
}
