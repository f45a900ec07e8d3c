//! Sending our events to the other servers in a room.
//!
//! An event is one row in the outbox, whatever the number of its receivers. The dispatcher sees each
//! row once and wakes a sender for each receiver; a sender walks the outbox from its own cursor and
//! leaves when it has reached the end. Only a server that is behind, because requests to it fail, has
//! a row of its own with its cursor, so that it gets what it missed after a restart too.
//!
//! EDUs go along. Those that must not be lost wait in a table of their own, a row for each server;
//! whoever writes them there says so ([`Rooms::send_waiting_edus`]). The others are for servers that
//! are there: one that fails and is owed nothing else costs nothing.

mod passing;
mod transaction;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use myelin_core::number::StreamPosition;
use myelin_env::Env;
use myelin_federation::FederationError;
use myelin_storage::{
    Database, Priority, StorageError, edu_outbox,
    outbox::{self, OutboxRow},
    rooms as room_table,
};
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use tokio::sync::{Notify, Semaphore};

use crate::{Rooms, containment::contained};

use passing::Passing;
pub(crate) use passing::PassingEdu;

/// How many rows of the outbox are read together.
const READ_TOGETHER: usize = 200;

/// How many transactions are on their way at the same time, but for those that wait for silent servers.
const PARALLEL_TRANSACTIONS: usize = 200;

/// How many transactions wait for silent servers at the same time.
const PARALLEL_SILENT: usize = 1_000;

/// The pause after a failure that the memory of failing servers doesn't know: the database's, for
/// instance.
const SHORT_PAUSE: Duration = Duration::from_secs(30);

/// The setting up to which everybody has everything, but for servers with a cursor.
const DELIVERED: &str = "outbox_delivered";

/// How long every event is kept for servers that are behind. Later the last of each room has to do:
/// who gets it asks for what is missing (R134, R135).
const KEPT_WHOLE_MS: u64 = 3_600_000;

/// The senders that run.
pub(crate) struct Outgoing {
    news: Notify,
    /// Some sender has come further, or fallen behind.
    moved: Notify,
    senders: Mutex<Senders>,
    permits: Semaphore,
    silent_permits: Semaphore,
}

struct Senders {
    by_server: HashMap<OwnedServerName, Sender>,
    /// Every row of the outbox up to here has woken its senders. Who has none has everything.
    dispatched: StreamPosition,
}

impl Senders {
    fn have_got(&self, position: StreamPosition) -> bool {
        let mut live = self.by_server.values().filter(|sender| !sender.behind);
        self.dispatched >= position
            && live.all(|sender| sender.cursor >= position.min(sender.wanted))
    }
}

struct Sender {
    /// What the outbox has for this server up to here must be delivered.
    wanted: StreamPosition,
    cursor: StreamPosition,
    /// Whether the cursor is stored.
    behind: bool,
    /// Whether EDUs may wait in storage.
    edus_wait: bool,
    passing: Passing,
}

impl Sender {
    /// Whether the server has all that it is to get.
    fn is_done(&self) -> bool {
        self.cursor >= self.wanted && !self.edus_wait && self.passing.is_empty()
    }
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            news: Notify::new(),
            moved: Notify::new(),
            senders: Mutex::new(Senders {
                by_server: HashMap::new(),
                dispatched: StreamPosition(0),
            }),
            permits: Semaphore::new(PARALLEL_TRANSACTIONS),
            silent_permits: Semaphore::new(PARALLEL_SILENT),
        }
    }
}

impl Outgoing {
    /// There is a new row.
    pub(crate) fn wake(&self) {
        self.news.notify_one();
    }

    /// Waits until all servers have got what the outbox has for them up to a position, but for those that are
    /// behind. To be bounded.
    pub(crate) async fn have_got(&self, position: StreamPosition) {
        loop {
            let moved = self.moved.notified();
            if self.lock().have_got(position) {
                return;
            }
            moved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Senders> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a sender is woken for.
enum Wanted {
    /// The row of the outbox at this position.
    Row(StreamPosition),
    /// All rows after a stored cursor.
    Behind(StreamPosition),
    /// EDUs that are stored.
    Edus,
    /// One that isn't.
    Passing(Arc<PassingEdu>),
    /// How some users are.
    Presence(BTreeSet<OwnedUserId>),
}

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

    /// Delivers the EDUs that were stored for servers.
    pub fn send_waiting_edus(&self, servers: &[OwnedServerName]) {
        for server in servers {
            self.wake_sender(server, Wanted::Edus);
        }
    }

    /// Delivers an EDU that may be lost to servers.
    pub(crate) fn pass_on(
        &self,
        servers: impl IntoIterator<Item = OwnedServerName>,
        edu: &Arc<PassingEdu>,
    ) {
        for server in servers {
            self.wake_sender(&server, Wanted::Passing(edu.clone()));
        }
    }

    /// Tells a server how some of our users are.
    pub(crate) fn tell_presence(&self, server: &ServerName, users: BTreeSet<OwnedUserId>) {
        self.wake_sender(server, Wanted::Presence(users));
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

    async fn outbox_after(&self, position: StreamPosition) -> Result<Vec<OutboxRow>, StorageError> {
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

    /// Makes sure that a sender will deliver what a server is to get.
    fn wake_sender(&self, server: &ServerName, wanted: Wanted) {
        let mut senders = self.outgoing().lock();
        let (cursor, upto) = match wanted {
            Wanted::Row(position) => (StreamPosition(position.0 - 1), position),
            Wanted::Behind(cursor) => (cursor, StreamPosition(i64::MAX)),
            Wanted::Edus | Wanted::Passing(_) | Wanted::Presence(_) => {
                (senders.dispatched, senders.dispatched)
            }
        };
        let mut is_new = false;
        let sender = senders
            .by_server
            .entry(server.to_owned())
            .or_insert_with(|| {
                is_new = true;
                Sender {
                    wanted: upto,
                    cursor,
                    behind: matches!(wanted, Wanted::Behind(_)),
                    edus_wait: false,
                    passing: Passing::default(),
                }
            });
        sender.wanted = sender.wanted.max(upto);
        match wanted {
            Wanted::Row(_) | Wanted::Behind(_) => {}
            Wanted::Edus => sender.edus_wait = true,
            Wanted::Passing(edu) => sender.passing.add(edu),
            // A server that is behind has more important things to get when it is back.
            Wanted::Presence(_) if sender.behind => {}
            Wanted::Presence(users) => sender.passing.add_presence(users),
        }
        if !is_new {
            return;
        }
        drop(senders);
        let (rooms, server) = (self.clone(), server.to_owned());
        drop(self.env().tasks.spawn("send to a server", async move {
            let stopping = rooms.env().tasks.stopping();
            stopping
                .run_until_cancelled(rooms.deliver_all(&server, cursor))
                .await;
        }));
    }

    /// Delivers until the end of what is wanted. Failures are waited out.
    async fn deliver_all(&self, server: &ServerName, mut cursor: StreamPosition) {
        loop {
            let step = contained("deliver", self.deliver_some(server, cursor)).await;
            match step {
                Ok(upto) => cursor = upto,
                Err(error) => {
                    tracing::error!(%server, %error, "deliveries are interrupted");
                    self.send_waiting_edus(&[server.to_owned()]);
                    self.env().clock.sleep(SHORT_PAUSE).await;
                    continue;
                }
            }
            let behind = {
                let mut senders = self.outgoing().lock();
                let Some(sender) = senders.by_server.get_mut(server) else {
                    return;
                };
                sender.cursor = cursor;
                self.outgoing().moved.notify_waiters();
                if sender.wanted == StreamPosition(i64::MAX) {
                    sender.wanted = self.events_stream().readable();
                }
                if !sender.is_done() {
                    continue;
                }
                // From here on what it lacks counts as not delivered, cursor or no cursor.
                std::mem::replace(&mut sender.behind, false)
            };
            if behind && let Err(error) = self.caught_up(server).await {
                tracing::error!(%server, %error, "a cursor can't be removed");
            }
            let mut senders = self.outgoing().lock();
            if senders.by_server.get(server).is_some_and(Sender::is_done) {
                senders.by_server.remove(server);
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
    ) -> Result<StreamPosition, StorageError> {
        // Nothing is put together for a server that is left alone anyway: after a restart there may be
        // thousands.
        if self.federation().backoff(server).await?.is_some() {
            if self.give_up_passing(server, cursor) {
                return Ok(cursor);
            }
            self.fall_behind(server, cursor).await?;
            self.wait_for(server).await?;
        }
        let prepared = self.prepare(server, cursor).await?;
        if prepared.is_empty() {
            return Ok(prepared.upto);
        }
        while let Err(error) = self.transmit(server, &prepared).await {
            if matches!(error, FederationError::Refused(_)) {
                tracing::error!(%server, %error, "a transaction can't be sent");
                break;
            }
            tracing::info!(%server, %error, "a transaction was not delivered");
            if prepared.may_be_lost() && self.give_up_passing(server, prepared.upto) {
                return Ok(prepared.upto);
            }
            self.fall_behind(server, cursor).await?;
            if self.will_be_old(server, prepared.made_ms).await? {
                // What is of use by then is put together then, and takes no memory until then.
                self.send_waiting_edus(&[server.to_owned()]);
                return Ok(cursor);
            }
            self.wait_for(server).await?;
        }
        self.edus_delivered(server, &prepared).await?;
        let behind = self
            .outgoing()
            .lock()
            .by_server
            .get(server)
            .is_some_and(|sender| sender.behind);
        if behind {
            self.put_cursor(server, prepared.upto).await?;
        }
        Ok(prepared.upto)
    }

    /// Forgets what a failing server need not get, if after the cursor there is nothing else for it.
    fn give_up_passing(&self, server: &ServerName, cursor: StreamPosition) -> bool {
        let mut senders = self.outgoing().lock();
        let Some(sender) = senders.by_server.get_mut(server) else {
            return true;
        };
        let is_owed = sender.behind || sender.edus_wait || cursor < sender.wanted;
        if !is_owed {
            sender.passing.clear();
        }
        !is_owed
    }

    /// Writes down how far a server that fails has come.
    async fn fall_behind(
        &self,
        server: &ServerName,
        cursor: StreamPosition,
    ) -> Result<(), StorageError> {
        let is_noted = {
            let senders = self.outgoing().lock();
            let sender = senders.by_server.get(server);
            sender.is_some_and(|sender| sender.behind)
        };
        if is_noted {
            return Ok(());
        }
        self.put_cursor(server, cursor).await?;
        if let Some(sender) = self.outgoing().lock().by_server.get_mut(server) {
            sender.behind = true;
        }
        self.outgoing().moved.notify_waiters();
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

    /// Whether a transaction will be an old one when a failing server is tried again (R134).
    async fn will_be_old(&self, server: &ServerName, made_ms: u64) -> Result<bool, StorageError> {
        let retry_at_ms = self.federation().backoff(server).await?;
        Ok(retry_at_ms.is_some_and(|retry_at_ms| is_old(made_ms, retry_at_ms)))
    }

    /// Waits until a failing server may be tried again, or shows that it is there.
    async fn wait_for(&self, server: &ServerName) -> Result<(), StorageError> {
        let federation = self.federation();
        if federation.backoff(server).await?.is_some() {
            return federation.until_due(server).await;
        }
        self.env().clock.sleep(SHORT_PAUSE).await;
        Ok(())
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

/// Whether something made at one time is no longer worth sending as it is at another, in Unix
/// milliseconds.
fn is_old(made_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(made_ms) >= KEPT_WHOLE_MS
}

/// The position up to which everybody has everything, but for servers with a cursor.
fn read_delivered(setting: Option<Vec<u8>>) -> StreamPosition {
    let bytes = setting.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
    StreamPosition(bytes.map_or(0, i64::from_be_bytes))
}

/// A row of the outbox that can't be read, now or ever, is passed over: those after it are not held up.
fn unless_lasting<T>(
    row: &OutboxRow,
    result: Result<T, StorageError>,
) -> Result<Option<T>, StorageError> {
    match result {
        Err(error) if error.is_lasting() => {
            tracing::error!(position = row.position.0, %error, "an event can't be sent");
            Ok(None)
        }
        result => result.map(Some),
    }
}
