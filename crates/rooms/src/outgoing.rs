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

mod dispatch;
mod passing;
mod sender;
mod transaction;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use myelin_core::number::StreamPosition;
use myelin_storage::{StorageError, outbox::OutboxRow};
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use tokio::sync::{Notify, Semaphore};

use crate::Rooms;

pub use dispatch::thin_outbox;
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
}

/// Whether something made at one time is no longer worth sending as it is at another, in Unix
/// milliseconds.
fn is_old(made_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(made_ms) >= KEPT_WHOLE_MS
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
