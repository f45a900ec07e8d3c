//! Which servers fail, and until when they are left alone (R134).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use myelin_env::Env;
use myelin_storage::{
    Database, Priority, StorageError,
    destinations::{self, Destination, DestinationsWanted, Failing},
};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::Notify;

use crate::{error::FederationError, recent::Recent};

/// How long a busy server is left alone at first. After that it is as long as it has been busy.
const BUSY: Duration = Duration::from_secs(2);

/// How many servers are held in memory.
const CAPACITY: usize = 20_000;

/// Who waits for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A person: it is sent even to a server that failed before.
    Interactive,
    /// Nobody in particular: servers that fail are left alone for a while.
    Background,
}

/// How long a server is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// After the first failure.
    pub first: Duration,
    /// At most; each failure doubles the wait up to this.
    pub longest: Duration,
}

/// What a failed request says about the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server itself says how long it wants to be left alone.
    ComeBackIn(Duration),
    /// It has too much to do at the moment (429), for instance since it is still busy with what it got before.
    Busy,
    /// It is out of order.
    OutOfOrder,
}

impl Default for Waits {
    /// 10 minutes, up to 7 days (R134).
    fn default() -> Self {
        Self {
            first: Duration::from_secs(600),
            longest: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// The memory of failures. The database holds the truth; this process is the only one that writes it
/// for the servers it sends to, so what is in memory is true too. Clones share everything.
#[derive(Clone)]
pub(crate) struct Destinations {
    env: Env,
    database: Database,
    waits: Waits,
    known: Arc<Mutex<Recent<OwnedServerName, Option<Failing>>>>,
    /// What wakes those who wait for a server to be there again. They are few for each.
    waiting: Arc<Mutex<HashMap<OwnedServerName, Arc<Notify>>>>,
}

impl Destinations {
    pub(crate) fn new(env: Env, database: Database, waits: Waits) -> Self {
        Self {
            env,
            database,
            waits,
            known: Arc::new(Mutex::new(Recent::new(CAPACITY))),
            waiting: Arc::default(),
        }
    }

    /// Whether a request may be sent now.
    ///
    /// # Errors
    /// [`FederationError::Backoff`] if not.
    pub(crate) async fn check(
        &self,
        server: &ServerName,
        urgency: Urgency,
    ) -> Result<(), FederationError> {
        if urgency == Urgency::Interactive {
            return Ok(());
        }
        match self.failing(server).await? {
            Some(failing) if self.env.clock.now_ms() < failing.retry_at_ms => {
                Err(FederationError::Backoff {
                    until_ms: failing.retry_at_ms,
                })
            }
            _ => Ok(()),
        }
    }

    /// How requests to `server` fail, if they do.
    pub(crate) async fn failing(
        &self,
        server: &ServerName,
    ) -> Result<Option<Failing>, StorageError> {
        if let Some(known) = self.lock().get(server) {
            return Ok(*known);
        }
        let name = server.to_string();
        let stored = self
            .database
            .look_up("destination", move |tx| {
                Box::pin(async move { destinations::failing(tx, &name).await })
            })
            .await?;
        let mut known = self.lock();
        // Somebody else may have learnt better in the meantime.
        if let Some(newer) = known.get(server) {
            return Ok(*newer);
        }
        known.insert(server.to_owned(), stored);
        Ok(stored)
    }

    /// Notes a failure. Of several at about the same time only the first counts: they have one cause.
    pub(crate) async fn failed(
        &self,
        server: &ServerName,
        failure: Failure,
    ) -> Result<(), StorageError> {
        let before = self.failing(server).await?;
        let now_ms = self.env.clock.now_ms();
        let is_known = before.is_some_and(|before| now_ms < before.retry_at_ms);
        if is_known && !matches!(failure, Failure::ComeBackIn(_)) {
            return Ok(());
        }
        let failing = self.next(before, now_ms, failure);
        let pause_ms = failing.retry_at_ms.saturating_sub(now_ms);
        tracing::info!(%server, pause_ms, ?failure, "requests to a server fail");
        metrics::counter!("myelin_federation_backoffs_total").increment(1);
        self.lock().insert(server.to_owned(), Some(failing));
        let name = server.to_string();
        self.database
            .write("destination fails", Priority::Bulk, move |tx| {
                Box::pin(async move { destinations::put_failing(tx, &name, failing).await })
            })
            .await
    }

    /// Notes that a server is there: it has answered a request, or sent one.
    pub(crate) async fn succeeded(&self, server: &ServerName) -> Result<(), StorageError> {
        let before = self.failing(server).await?;
        if before.is_none() {
            return Ok(());
        }
        tracing::info!(%server, "a server that failed is there again");
        self.lock().insert(server.to_owned(), None);
        if let Some(waiting) = self.lock_waiting().get(server) {
            waiting.notify_waiters();
        }
        let name = server.to_string();
        self.database
            .write("destination works", Priority::Bulk, move |tx| {
                Box::pin(async move { destinations::clear_failing(tx, &name).await })
            })
            .await
    }

    /// Part of the list of servers to which requests have failed, and how many it has in all.
    pub(crate) async fn list(
        &self,
        wanted: DestinationsWanted,
    ) -> Result<(Vec<Destination>, u64), StorageError> {
        let list = self.database.read("destinations", move |tx| {
            Box::pin(async move { destinations::list(tx, &wanted).await })
        });
        list.await
    }

    /// One of them.
    pub(crate) async fn by_name(
        &self,
        server: &ServerName,
    ) -> Result<Option<Destination>, StorageError> {
        let name = server.to_string();
        let found = self.database.look_up("destination of a name", move |tx| {
            Box::pin(async move { destinations::by_name(tx, &name).await })
        });
        found.await
    }

    /// Waits until a server may be asked in the background: until its pause is over, or until it shows
    /// that it is there.
    pub(crate) async fn until_due(&self, server: &ServerName) -> Result<(), StorageError> {
        let there = self
            .lock_waiting()
            .entry(server.to_owned())
            .or_default()
            .clone();
        let outcome = loop {
            // Before looking, so that nothing is missed in between.
            let notified = there.notified();
            let now_ms = self.env.clock.now_ms();
            let retry_at_ms = match self.failing(server).await {
                Ok(Some(failing)) if now_ms < failing.retry_at_ms => failing.retry_at_ms,
                Ok(_) => break Ok(()),
                Err(error) => break Err(error),
            };
            let pause = Duration::from_millis(retry_at_ms - now_ms);
            let _ = self.env.clock.timeout(pause, notified).await;
        };
        let mut waiting = self.lock_waiting();
        // The table's and this one's: nobody else waits.
        if Arc::strong_count(&there) == 2 {
            waiting.remove(server);
        }
        outcome
    }

    /// What a failure at `now_ms` after `before` leads to.
    fn next(&self, before: Option<Failing>, now_ms: u64, failure: Failure) -> Failing {
        let longest = millis(self.waits.longest);
        let first = millis(self.waits.first);
        let since_ms = before.map_or(now_ms, |before| before.since_ms);
        // Nothing tells that it should be avoided longer and longer.
        let undoubled = before.map_or(first / 2, |before| before.wait_ms);
        let (wait_ms, pause_ms) = match failure {
            Failure::ComeBackIn(asked) => (undoubled, millis(asked).min(longest)),
            Failure::Busy => {
                let busy_ms = now_ms.saturating_sub(since_ms);
                (undoubled, busy_ms.max(millis(BUSY)).min(first))
            }
            // Up to a tenth less, so that what failed together isn't tried again together.
            Failure::OutOfOrder => {
                let doubled = before.map_or(first, |before| before.wait_ms.saturating_mul(2));
                let wait_ms = doubled.min(longest);
                (wait_ms, wait_ms - self.env.random.below(wait_ms / 10))
            }
        };
        Failing {
            since_ms,
            retry_at_ms: now_ms.saturating_add(pause_ms),
            wait_ms,
        }
    }

    fn lock_waiting(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Recent<OwnedServerName, Option<Failing>>> {
        // Whole at every point a panic could strike.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
