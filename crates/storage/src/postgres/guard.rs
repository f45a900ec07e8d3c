//! One process at a time: whoever uses a database holds an advisory lock in it, on a connection of its
//! own. PostgreSQL gives the lock up when that connection ends, however it ends.

use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::sync::{Mutex, watch};
use tokio_postgres::{Config, error::SqlState};

use super::connection_error;
use crate::StorageError;

/// The lock's number, `process` in ASCII. It counts within one database.
const LOCK: i64 = 0x70_726f_6365_7373;

/// How long to wait for the lock: another process may be about to end.
const SET_TIMEOUT: &str = "SET lock_timeout = '3s'";

const TAKE: &str = "SELECT pg_advisory_lock($1)";
const GIVE_UP: &str = "SELECT pg_advisory_unlock_all()";

/// Who has the lock. The two halves of its number are columns of their own.
const HOLDER: &str = "
    SELECT format('backend %s, %s from %s, since %s', activity.pid, activity.application_name,
        COALESCE(host(activity.client_addr), 'this machine'), activity.backend_start)
    FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1
        AND locks.classid::BIGINT = $1::BIGINT >> 32
        AND locks.objid::BIGINT = $1::BIGINT & 4294967295
        AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// How soon a connection on which nothing is said is known to be dead: it is asked after so long, and
/// then so often.
const SILENCE: Duration = Duration::from_secs(10);
const REPEAT: Duration = Duration::from_secs(5);
const REPEATS: u32 = 3;

/// The connection that holds the lock, by which others see who has it.
pub(super) fn config(mut config: Config) -> Config {
    config
        .application_name(format!("myelin, process {}", std::process::id()))
        .keepalives(true)
        .keepalives_idle(SILENCE)
        .keepalives_interval(REPEAT)
        .keepalives_retries(REPEATS);
    config
}

/// Who has the lock after it was asked for.
enum Holder {
    /// This process, by this connection.
    We(Object),
    /// Another one, as PostgreSQL describes it.
    Other(StorageError),
}

/// Holds a database for this process.
#[derive(Debug)]
pub(super) struct Guard {
    /// Of one connection.
    pool: Pool,
    /// The connection that has the lock.
    holding: Mutex<Option<Object>>,
    /// Why this process may never use the database again.
    lost: watch::Sender<Option<StorageError>>,
}

impl Guard {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`StorageError::Refused`], which names who has it, if that is another process. Any other if the
    /// server can't be reached.
    pub(super) async fn take(pool: Pool) -> Result<Self, StorageError> {
        match lock(&pool).await? {
            Holder::We(held) => Ok(Self {
                pool,
                holding: Mutex::new(Some(held)),
                lost: watch::Sender::new(None),
            }),
            Holder::Other(error) => Err(error),
        }
    }

    /// Makes sure that the lock is held. If its connection has ended, as it does when PostgreSQL is
    /// started again, the lock is taken anew.
    ///
    /// # Errors
    /// [`StorageError::Refused`] for good if another process has taken it meanwhile.
    pub(super) async fn hold(&self) -> Result<(), StorageError> {
        let mut holding = self.holding.lock().await;
        if let Some(error) = &*self.lost.borrow() {
            return Err(error.clone());
        }
        if holding.as_ref().is_some_and(|held| !held.is_closed()) {
            return Ok(());
        }
        *holding = None;
        match lock(&self.pool).await? {
            Holder::We(held) => {
                tracing::info!("the database is held again");
                *holding = Some(held);
                Ok(())
            }
            Holder::Other(error) => {
                self.lost.send_replace(Some(error.clone()));
                Err(error)
            }
        }
    }

    /// Until another process has taken the database; then why.
    pub(super) async fn lost(&self) -> StorageError {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            _ => StorageError::Closed,
        }
    }

    /// Gives the lock up, so that the next process need not wait.
    pub(super) async fn give_up(&self) {
        if let Some(held) = self.holding.lock().await.take() {
            // Where this fails the connection has ended, and the lock with it.
            held.batch_execute(GIVE_UP).await.ok();
        }
        self.pool.close();
    }
}

async fn lock(pool: &Pool) -> Result<Holder, StorageError> {
    let connection = pool.get().await.map_err(connection_error)?;
    connection.batch_execute(SET_TIMEOUT).await?;
    let Err(error) = connection.execute(TAKE, &[&LOCK]).await else {
        return Ok(Holder::We(connection));
    };
    if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
        return Err(error.into());
    }
    let holder = connection.query_opt(HOLDER, &[&LOCK]).await?;
    let holder = holder.map_or_else(|| "that is gone by now".to_owned(), |row| row.get(0));
    Ok(Holder::Other(StorageError::Refused(format!(
        "it is in use by another Myelin process: {holder}"
    ))))
}
