//! The dispatcher: it sees each row of the outbox once, and wakes whoever has to deliver it.

use std::collections::BTreeSet;

use myelin_core::number::StreamPosition;
use myelin_env::Env;
use myelin_storage::{
    Database, Priority, StorageError, edu_outbox,
    outbox::{self, OutboxRow},
    rooms as room_table,
};
use ruma::{OwnedServerName, ServerName};

use super::{KEPT_WHOLE_MS, READ_TOGETHER, SHORT_PAUSE, Wanted, unless_lasting};
use crate::{Rooms, containment::contained};

/// The setting up to which everybody has everything, but for servers with a cursor.
const DELIVERED: &str = "outbox_delivered";

impl Rooms {
    /// Goes on with the deliveries that a stop interrupted, and begins to dispatch.
    pub(crate) async fn start_outgoing(&self) -> Result<(), StorageError> {
        let (delivered, behind, with_edus) = self
            .database()
            .read("outbox cursors", |tx| {
                Box::pin(async move {
                    let delivered = room_table::setting(tx, DELIVERED).await?;
                    let behind = outbox::cursors(tx).await?;
                    Ok((delivered, behind, edu_outbox::servers(tx).await?))
                })
            })
            .await?;
        let delivered = read_delivered(delivered);
        self.outgoing().lock().dispatched = delivered;
        for (server, cursor) in behind {
            if let Ok(server) = ServerName::parse(&server) {
                self.wake_sender(&server, Wanted::Behind(cursor));
            }
        }
        for server in with_edus {
            if let Ok(server) = ServerName::parse(&server) {
                self.wake_sender(&server, Wanted::Edus);
            }
        }
        let rooms = self.clone();
        drop(self.env().tasks.spawn("dispatch events", async move {
            let stopping = rooms.env().tasks.stopping();
            stopping
                .run_until_cancelled(rooms.dispatch(delivered))
                .await;
        }));
        Ok(())
    }

    async fn dispatch(&self, mut position: StreamPosition) {
        loop {
            match contained("dispatch", self.dispatch_after(position)).await {
                Ok(Some(last)) => position = last,
                Ok(None) => self.outgoing().news.notified().await,
                Err(error) => {
                    tracing::error!(%error, "the outbox can't be read");
                    self.env().clock.sleep(SHORT_PAUSE).await;
                }
            }
            if let Err(error) = self.note_delivered(position).await {
                tracing::error!(%error, "what was delivered can't be noted");
            }
        }
    }

    /// Wakes the senders for the next rows; the last one's position, if there were any.
    async fn dispatch_after(
        &self,
        position: StreamPosition,
    ) -> Result<Option<StreamPosition>, StorageError> {
        let rows = self.outbox_after(position).await?;
        for row in &rows {
            let receivers = contained("receivers of an event", self.receivers(row)).await;
            for server in unless_lasting(row, receivers)?.unwrap_or_default() {
                self.wake_sender(&server, Wanted::Row(row.position));
            }
            self.outgoing().lock().dispatched = row.position;
            self.outgoing().moved.notify_waiters();
        }
        Ok(rows.last().map(|row| row.position))
    }

    pub(super) async fn outbox_after(
        &self,
        position: StreamPosition,
    ) -> Result<Vec<OutboxRow>, StorageError> {
        // What another transaction has not finished yet must not be passed over.
        let readable = self.events_stream().readable();
        let rows = self
            .database()
            .look_up("outbox", move |tx| {
                Box::pin(async move { outbox::after(tx, position, READ_TOGETHER).await })
            })
            .await?;
        Ok(rows
            .into_iter()
            .take_while(|row| row.position <= readable)
            .collect())
    }

    async fn receivers(&self, row: &OutboxRow) -> Result<BTreeSet<OwnedServerName>, StorageError> {
        let mut receivers: BTreeSet<OwnedServerName> = row
            .further
            .iter()
            .filter_map(|name| ServerName::parse(name).ok())
            .collect();
        if let Some(room) = self.room_by_nr(row.room).await? {
            let state = room.state(self, row.snapshot).await?;
            receivers.extend(
                state
                    .servers()
                    .filter_map(|(name, _)| ServerName::parse(&**name).ok()),
            );
        }
        receivers.remove(self.server_name());
        Ok(receivers)
    }

    /// Writes down up to where everybody has everything, and forgets what nobody needs any more.
    async fn note_delivered(&self, dispatched: StreamPosition) -> Result<(), StorageError> {
        let (delivered, needed) = {
            let senders = &self.outgoing().lock().by_server;
            let live = senders.values().filter(|sender| !sender.behind);
            let delivered = live.map(|sender| sender.cursor).min().unwrap_or(dispatched);
            let slowest = senders.values().map(|sender| sender.cursor).min();
            (
                delivered.min(dispatched),
                slowest.unwrap_or(dispatched).min(dispatched),
            )
        };
        self.database()
            .write("note deliveries", Priority::Bulk, move |tx| {
                Box::pin(async move {
                    room_table::set_setting(tx, DELIVERED, &delivered.0.to_be_bytes()).await?;
                    outbox::delete_upto(tx, needed).await
                })
            })
            .await
    }
}

/// Forgets events that servers have been behind with for long, but for the last of each room. To be
/// called now and then.
///
/// # Errors
/// Any storage error.
pub async fn thin_outbox(env: Env, database: Database) -> Result<(), StorageError> {
    let before_ms = env.clock.now_ms().saturating_sub(KEPT_WHOLE_MS);
    database
        .write("thin the outbox", Priority::Bulk, move |tx| {
            Box::pin(async move {
                let delivered = room_table::setting(tx, DELIVERED).await?;
                outbox::thin(tx, read_delivered(delivered), before_ms).await
            })
        })
        .await?;
    Ok(())
}

/// The position up to which everybody has everything, but for servers with a cursor.
fn read_delivered(setting: Option<Vec<u8>>) -> StreamPosition {
    let bytes = setting.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
    StreamPosition(bytes.map_or(0, i64::from_be_bytes))
}
