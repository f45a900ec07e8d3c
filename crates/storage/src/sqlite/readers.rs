//! Connections that only read.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use myelin_env::Clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Place, Session};
use crate::{
    StorageError, Tx,
    tx::{Engine, Reading},
};

/// How many reads may go on at a time.
const CONNECTIONS: usize = 8;

/// How long a read waits for its turn before it is refused.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// A pool of connections, opened when they are first needed.
#[derive(Debug)]
pub(super) struct Readers {
    place: Place,
    clock: Clock,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Tx>>,
}

/// A reading transaction. Dropping it ends it, wherever its closure stood.
#[derive(Debug)]
pub(super) struct Lease {
    /// Only `drop` takes it away.
    tx: Option<Tx>,
    readers: Arc<Readers>,
    _turn: OwnedSemaphorePermit,
}

impl Readers {
    pub(super) fn new(place: Place, clock: Clock) -> Self {
        Self {
            place,
            clock,
            turns: Arc::new(Semaphore::new(CONNECTIONS)),
            idle: Mutex::default(),
        }
    }

    /// A connection, with a transaction begun on it if one is needed.
    pub(super) async fn lease(
        self: &Arc<Self>,
        name: &'static str,
        reading: Reading,
    ) -> Result<Lease, StorageError> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        let turn = self
            .clock
            .timeout(TURN_TIMEOUT, turn)
            .await
            .map_err(|_| StorageError::Unavailable(format!("too many reads wait before {name}")))?
            .map_err(|_| StorageError::Closed)?;
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut lease = Lease {
            tx: Some(match idle {
                Some(tx) => tx,
                None => Tx::new(Engine::Sqlite(Session::new(self.place.reader()?))),
            }),
            readers: Arc::clone(self),
            _turn: turn,
        };
        lease.tx().reading(reading);
        if reading == Reading::OneState {
            lease.session().control("BEGIN")?;
        }
        Ok(lease)
    }

    /// Waits for the reads under way, and closes the connections. Later reads are refused.
    pub(super) async fn close(&self) {
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        // An error means that it is closed already.
        let _turns = self.turns.acquire_many(all).await.ok();
        self.turns.close();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Lease {
    pub(super) fn tx(&mut self) -> &mut Tx {
        self.tx
            .as_mut()
            .expect("only drop takes the transaction away")
    }

    fn session(&mut self) -> &mut Session {
        self.tx().sqlite()
    }

    /// Fails if a statement failed and the closure overlooked it.
    pub(super) fn finish(mut self, succeeded: bool) -> Result<(), StorageError> {
        let failure = self.tx().take_failure().filter(|_| succeeded);
        failure.map_or(Ok(()), Err)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let session = self.session();
        if session.in_transaction()
            && let Err(error) = session.control("ROLLBACK")
        {
            // Without its connection the transaction ends anyway.
            tracing::warn!(%error, "a read could not be ended; its connection is closed");
            return;
        }
        if let Some(mut tx) = self.tx.take() {
            tx.take_failure();
            let mut idle = self
                .readers
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            idle.push(tx);
        }
    }
}
