//! Sending our events to the other servers in a room.
//!
//! An event is one row in the outbox, whatever the number of its receivers. The dispatcher sees each
//! row once and wakes a sender for each receiver; a sender walks the outbox from its own cursor and
//! leaves when it has reached the end. Only a server that is behind, because requests to it fail, has
//! a row of its own with its cursor, so that it gets what it missed after a restart too.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use myelin_core::{event::Event, number::StreamPosition};
use myelin_federation::{FederationError, MOST_PDUS, Transaction};
use myelin_storage::{
    Priority, StorageError,
    outbox::{self, OutboxRow},
    rooms as room_table,
};
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};

use crate::Rooms;

/// How many rows of the outbox are read together.
const READ_TOGETHER: usize = 200;

/// How many transactions are on their way at the same time.
const PARALLEL_TRANSACTIONS: usize = 200;

/// The pause after a failure that the memory of failing servers doesn't know: the database's, for
/// instance.
const SHORT_PAUSE: Duration = Duration::from_secs(30);

/// The setting up to which everybody has everything, but for servers with a cursor.
const DELIVERED: &str = "outbox_delivered";

/// The senders that run.
pub(crate) struct Outgoing {
    news: Notify,
    senders: Mutex<HashMap<OwnedServerName, Sender>>,
    permits: Semaphore,
}

struct Sender {
    /// What the outbox has for this server up to here must be delivered.
    wanted: StreamPosition,
    cursor: StreamPosition,
    /// Whether the cursor is stored.
    behind: bool,
    /// The server is there again.
    alive: Arc<Notify>,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            news: Notify::new(),
            senders: Mutex::default(),
            permits: Semaphore::new(PARALLEL_TRANSACTIONS),
        }
    }
}

impl Outgoing {
    /// There is a new row.
    pub(crate) fn wake(&self) {
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Sender>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was put together for a server. A retry sends the same again (R133).
struct Prepared {
    txn_id: String,
    made_ms: u64,
    pdus: Vec<Box<RawValue>>,
    upto: StreamPosition,
}

impl Rooms {
    /// Goes on with the deliveries that a stop interrupted, and begins to dispatch.
    pub(crate) async fn start_outgoing(&self) -> Result<(), StorageError> {
        let (delivered, behind) = self
            .database()
            .read("outbox cursors", |tx| {
                Box::pin(async move {
                    let delivered = room_table::setting(tx, DELIVERED).await?;
                    Ok((delivered, outbox::cursors(tx).await?))
                })
            })
            .await?;
        let delivered = delivered
            .and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok())
            .map_or(0, i64::from_be_bytes);
        for (server, cursor) in behind {
            if let Ok(server) = ServerName::parse(&server) {
                self.wake_sender(&server, cursor, StreamPosition(i64::MAX), true);
            }
        }
        let rooms = self.clone();
        drop(self.env().tasks.spawn("dispatch events", async move {
            let stopping = rooms.env().tasks.stopping();
            stopping
                .run_until_cancelled(rooms.dispatch(StreamPosition(delivered)))
                .await;
        }));
        Ok(())
    }

    /// A server has sent a request, so what is kept for it can be sent.
    pub fn server_is_alive(&self, server: &ServerName) {
        if let Some(sender) = self.outgoing().lock().get(server) {
            sender.alive.notify_one();
        }
    }

    async fn dispatch(&self, mut position: StreamPosition) {
        loop {
            match self.dispatch_after(position).await {
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
            for server in self.receivers(row).await? {
                let before = StreamPosition(row.position.0 - 1);
                self.wake_sender(&server, before, row.position, false);
            }
        }
        Ok(rows.last().map(|row| row.position))
    }

    async fn outbox_after(&self, position: StreamPosition) -> Result<Vec<OutboxRow>, StorageError> {
        // What another transaction has not finished yet must not be passed over.
        let readable = self.events_stream().readable();
        let rows = self
            .database()
            .read("outbox", move |tx| {
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

    async fn is_receiver(
        &self,
        row: &OutboxRow,
        server: &ServerName,
    ) -> Result<bool, StorageError> {
        if row.further.iter().any(|name| name == server.as_str()) {
            return Ok(true);
        }
        let Some(room) = self.room_by_nr(row.room).await? else {
            return Ok(false);
        };
        Ok(room
            .state(self, row.snapshot)
            .await?
            .has_server(server.as_str()))
    }

    /// Writes down up to where everybody has everything, and forgets what nobody needs any more.
    async fn note_delivered(&self, dispatched: StreamPosition) -> Result<(), StorageError> {
        let (delivered, needed) = {
            let senders = self.outgoing().lock();
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

    /// Makes sure that a sender will deliver what the outbox has for a server up to `wanted`.
    fn wake_sender(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
        wanted: StreamPosition,
        behind: bool,
    ) {
        let mut senders = self.outgoing().lock();
        if let Some(sender) = senders.get_mut(server) {
            sender.wanted = sender.wanted.max(wanted);
            return;
        }
        let alive = Arc::new(Notify::new());
        senders.insert(
            server.to_owned(),
            Sender {
                wanted,
                cursor,
                behind,
                alive: alive.clone(),
            },
        );
        drop(senders);
        let (rooms, server) = (self.clone(), server.to_owned());
        drop(self.env().tasks.spawn("send to a server", async move {
            let stopping = rooms.env().tasks.stopping();
            stopping
                .run_until_cancelled(rooms.deliver_all(&server, cursor, &alive))
                .await;
        }));
    }

    /// Delivers until the end of what is wanted. Failures are waited out.
    async fn deliver_all(&self, server: &ServerName, mut cursor: StreamPosition, alive: &Notify) {
        loop {
            let step = self.deliver_some(server, cursor, alive).await;
            match step {
                Ok(upto) => cursor = upto,
                Err(error) => {
                    tracing::error!(%server, %error, "deliveries are interrupted");
                    self.env().clock.sleep(SHORT_PAUSE).await;
                    continue;
                }
            }
            let behind = {
                let mut senders = self.outgoing().lock();
                let Some(sender) = senders.get_mut(server) else {
                    return;
                };
                sender.cursor = cursor;
                if sender.wanted == StreamPosition(i64::MAX) {
                    sender.wanted = self.events_stream().readable();
                }
                if cursor < sender.wanted {
                    continue;
                }
                // From here on what it lacks counts as not delivered, cursor or no cursor.
                std::mem::replace(&mut sender.behind, false)
            };
            if behind && let Err(error) = self.caught_up(server).await {
                tracing::error!(%server, %error, "a cursor can't be removed");
            }
            let mut senders = self.outgoing().lock();
            if senders
                .get(server)
                .is_some_and(|sender| cursor >= sender.wanted)
            {
                senders.remove(server);
                drop(senders);
                self.outgoing().wake();
                return;
            }
        }
    }

    /// Delivers the next transaction; the position up to which the server has everything then.
    async fn deliver_some(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
        alive: &Notify,
    ) -> Result<StreamPosition, StorageError> {
        let prepared = self.prepare(server, cursor).await?;
        if prepared.pdus.is_empty() {
            return Ok(prepared.upto);
        }
        while let Err(error) = self.transmit(server, &prepared).await {
            if matches!(error, FederationError::Refused(_)) {
                tracing::error!(%server, %error, "a transaction can't be sent");
                break;
            }
            tracing::info!(%server, %error, "a transaction was not delivered");
            self.fall_behind(server, cursor).await?;
            self.wait_for(server, alive).await?;
        }
        let behind = self
            .outgoing()
            .lock()
            .get(server)
            .is_some_and(|sender| sender.behind);
        if behind {
            self.put_cursor(server, prepared.upto).await?;
        }
        Ok(prepared.upto)
    }

    /// Puts together the next transaction for a server.
    async fn prepare(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
    ) -> Result<Prepared, StorageError> {
        let mut pdus = Vec::new();
        let mut upto = cursor;
        // Before the rows are read: what is wanted from now on may not be among them.
        let wanted = self
            .outgoing()
            .lock()
            .get(server)
            .map_or(cursor, |sender| sender.wanted)
            .min(self.events_stream().readable());
        let rows = self.outbox_after(cursor).await?;
        let at_end = rows.len() < READ_TOGETHER;
        for row in rows {
            if pdus.len() == MOST_PDUS {
                return Ok(self.prepared(pdus, upto));
            }
            if self.is_receiver(&row, server).await?
                && let Some(room) = self.room_by_nr(row.room).await?
            {
                let held = room.events(self, [row.event]).await?;
                // Of what its own user sent it has the original.
                let passed_on = |event: &&Arc<Event>| event.pdu.sender.server_name() != server;
                let event = held.get(&row.event).filter(passed_on);
                let json = event.map(|event| event.pdu.json.to_string());
                pdus.extend(json.and_then(|json| RawValue::from_string(json).ok()));
            }
            upto = row.position;
        }
        if at_end {
            // Nothing lies between here and there.
            upto = upto.max(wanted);
        }
        Ok(self.prepared(pdus, upto))
    }

    fn prepared(&self, pdus: Vec<Box<RawValue>>, upto: StreamPosition) -> Prepared {
        let txn_id = self.env().random.alphanumeric(16);
        Prepared {
            txn_id,
            made_ms: self.env().clock.now_ms(),
            pdus,
            upto,
        }
    }

    async fn transmit(
        &self,
        server: &ServerName,
        prepared: &Prepared,
    ) -> Result<(), FederationError> {
        // Never closed.
        let _permit = self.outgoing().permits.acquire().await.ok();
        let transaction = Transaction {
            origin_server_ts: prepared.made_ms,
            pdus: &prepared.pdus,
            edus: &[],
        };
        let answer = self
            .federation()
            .send_transaction(server, &prepared.txn_id, &transaction)
            .await?;
        for (event, error) in answer {
            if let Some(error) = error {
                tracing::warn!(%server, %event, %error, "an event of ours was refused");
            }
        }
        Ok(())
    }

    /// Writes down how far a server that fails has come.
    async fn fall_behind(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
    ) -> Result<(), StorageError> {
        self.put_cursor(server, cursor).await?;
        if let Some(sender) = self.outgoing().lock().get_mut(server) {
            sender.behind = true;
        }
        // Others are not held up by this one.
        self.outgoing().wake();
        Ok(())
    }

    async fn put_cursor(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
    ) -> Result<(), StorageError> {
        let server = server.to_string();
        self.database()
            .write("note a cursor", Priority::Bulk, move |tx| {
                Box::pin(async move { outbox::put_cursor(tx, &server, cursor).await })
            })
            .await
    }

    async fn caught_up(&self, server: &ServerName) -> Result<(), StorageError> {
        let name = server.to_string();
        self.database()
            .write("remove a cursor", Priority::Bulk, move |tx| {
                Box::pin(async move { outbox::delete_cursor(tx, &name).await })
            })
            .await
    }

    /// Waits until a failing server may be tried again, or shows that it is there.
    async fn wait_for(&self, server: &ServerName, alive: &Notify) -> Result<(), StorageError> {
        let pause = match self.federation().backoff(server).await? {
            Some(until_ms) => {
                Duration::from_millis(until_ms.saturating_sub(self.env().clock.now_ms()))
            }
            None => SHORT_PAUSE,
        };
        let _ = self.env().clock.timeout(pause, alive.notified()).await;
        Ok(())
    }
}
