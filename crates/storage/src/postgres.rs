//! The PostgreSQL engine: each transaction has a connection of its own out of a pool.

mod guard;
mod rows;
mod session;
pub(crate) mod tls;

use std::{str::FromStr, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use myelin_env::{Clock, Env};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{Config, error::SqlState};

pub(crate) use self::session::Session;
use self::{
    guard::Guard,
    tls::{Connector, Security},
};
use crate::{
    Priority, StorageError, Tx,
    database::Work,
    tx::{Engine, Reading},
};

/// How many transactions may go on at a time.
const CONNECTIONS: usize = 16;

/// How many of them may write. Who reads does so in many small steps, and must not wait before each of them
/// behind all who write.
const WRITING_CONNECTIONS: usize = 8;

/// How many of these may be bulk writes, so that the others find a connection at once.
const BULK_CONNECTIONS: usize = 4;

/// How long a transaction waits for its turn, and then for a connection, before it is refused.
const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long [`Postgres::close`] waits for transactions that are under way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How statements are planned, unless the URL's `options` say otherwise: by index, as they are written and as SQLite
/// takes them. What PostgreSQL guesses of a table that has grown since it was last counted would have it read all of
/// that for a few rows.
const PLANNING: &str =
    "-c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off";

/// A database of a PostgreSQL server.
#[derive(Debug)]
pub(crate) struct Postgres {
    pool: Pool,
    guard: Guard,
    turns: Arc<Semaphore>,
    write_turns: Arc<Semaphore>,
    bulk_turns: Arc<Semaphore>,
    env: Env,
}

impl Postgres {
    pub(crate) async fn open(url: &str, env: &Env) -> Result<Self, StorageError> {
        let (url, security) = Security::take(url)?;
        let mut config = Config::from_str(&url).map_err(|error| {
            StorageError::Refused(format!("the database URL is wrong: {error}"))
        })?;
        config.ssl_mode(security.mode());
        plan_by_index(&mut config);
        let connector = security.connector()?;
        let pool = pool(config.clone(), connector.clone(), CONNECTIONS)?;
        let guarding = Guard::take(self::pool(guard::config(config), connector, 1)?);
        let guard = env.clock.timeout(TURN_TIMEOUT, guarding).await;
        let late = |_| StorageError::Unavailable("PostgreSQL did not answer in time".to_owned());
        Ok(Self {
            pool,
            guard: guard.map_err(late)??,
            turns: Arc::new(Semaphore::new(CONNECTIONS)),
            write_turns: Arc::new(Semaphore::new(WRITING_CONNECTIONS)),
            bulk_turns: Arc::new(Semaphore::new(BULK_CONNECTIONS)),
            env: env.clone(),
        })
    }

    pub(crate) async fn read(
        &self,
        name: &'static str,
        reading: Reading,
        work: Work,
    ) -> Result<(), StorageError> {
        let mut session = self.session(name).await?;
        let in_transaction = reading == Reading::OneState;
        if in_transaction {
            // This level sees one state throughout.
            session.begin_soon("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        }
        let mut tx = Tx::new(Engine::Postgres(session));
        tx.reading(reading);
        let succeeded = work(&mut tx).await;
        let failure = tx.take_failure().filter(|_| succeeded);
        if in_transaction {
            into_session(tx)?.end_soon("ROLLBACK")?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// As a task, so that a dropped caller leaves the same behind as on SQLite: all or nothing,
    /// depending on whether the closure had begun.
    pub(crate) async fn write(
        &self,
        name: &'static str,
        priority: Priority,
        work: Work,
    ) -> Result<(), StorageError> {
        let bulk_turn = match priority {
            Priority::Interactive => None,
            Priority::Bulk => {
                let turn = Arc::clone(&self.bulk_turns).acquire_owned().await;
                Some(turn.map_err(|_| StorageError::Closed)?)
            }
        };
        let write_turn = self.turn(&self.write_turns, name).await?;
        let mut session = self.session(name).await?;
        let clock = self.env.clock.clone();
        let write = self.env.tasks.spawn(name, async move {
            let _turns = (bulk_turn, write_turn);
            session.begin("BEGIN").await?;
            let mut tx = Tx::new(Engine::Postgres(session));
            let succeeded = work(&mut tx).await;
            commit(tx, succeeded, &clock).await
        });
        write
            .await
            .unwrap_or_else(|failed| Err(StorageError::from(failed)))
    }

    /// Waits for the transactions under way, and closes the connections.
    pub(crate) async fn close(&self) {
        self.bulk_turns.close();
        // Behind all that waits: first the writes, which wait for a connection when they have their turn.
        let under_way = async {
            let _writes = self
                .write_turns
                .acquire_many(permits(WRITING_CONNECTIONS))
                .await;
            self.turns
                .acquire_many(permits(CONNECTIONS))
                .await
                .map(drop)
        };
        if self
            .env
            .clock
            .timeout(CLOSE_TIMEOUT, under_way)
            .await
            .is_err()
        {
            tracing::warn!("transactions were still going on when the database was closed");
        }
        self.write_turns.close();
        self.turns.close();
        self.pool.close();
        if self
            .env
            .clock
            .timeout(CLOSE_TIMEOUT, self.guard.give_up())
            .await
            .is_err()
        {
            tracing::warn!("PostgreSQL did not answer when the database was closed");
        }
    }

    /// Until another process has taken the database; then why.
    pub(crate) async fn lost(&self) -> StorageError {
        self.guard.lost().await
    }

    async fn session(&self, name: &'static str) -> Result<Session, StorageError> {
        let clock = &self.env.clock;
        let started = clock.instant();
        let turn = self.turn(&self.turns, name).await?;
        let client = clock
            .timeout(TURN_TIMEOUT, self.connection())
            .await
            .map_err(|_| no_connection(name))??;
        metrics::histogram!("myelin_storage_connection_wait_seconds")
            .record(started.elapsed(clock).as_secs_f64());
        Ok(Session::new(client, turn, self.env.tasks.clone()))
    }

    /// A transaction's turn, for which it waits a bounded time.
    async fn turn(
        &self,
        turns: &Arc<Semaphore>,
        name: &'static str,
    ) -> Result<OwnedSemaphorePermit, StorageError> {
        let turn = Arc::clone(turns).acquire_owned();
        let turn = self.env.clock.timeout(TURN_TIMEOUT, turn).await;
        turn.map_err(|_| no_connection(name))?
            .map_err(|_| StorageError::Closed)
    }

    /// A connection for a transaction, while no other process has the database.
    async fn connection(&self) -> Result<Object, StorageError> {
        self.guard.hold().await?;
        self.pool.get().await.map_err(connection_error)
    }
}

fn plan_by_index(config: &mut Config) {
    let given = config.get_options().unwrap_or_default();
    let options = format!("{PLANNING} {given}");
    config.options(options);
}

fn permits(connections: usize) -> u32 {
    u32::try_from(connections).unwrap_or(u32::MAX)
}

fn no_connection(name: &str) -> StorageError {
    StorageError::Unavailable(format!("no connection in time for {name}"))
}

fn pool(config: Config, connector: Connector, connections: usize) -> Result<Pool, StorageError> {
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_config(config, connector, recycling);
    let pool = Pool::builder(manager).max_size(connections).build();
    pool.map_err(|error| StorageError::Bug(error.to_string()))
}

/// Why a pool has no connection.
fn connection_error(error: PoolError) -> StorageError {
    match error {
        PoolError::Backend(error) => unreachable_server(error),
        PoolError::Closed => StorageError::Closed,
        other => StorageError::Unavailable(other.to_string()),
    }
}

/// Ends a transaction, with success if everything in it succeeded.
async fn commit(mut tx: Tx, succeeded: bool, clock: &Clock) -> Result<(), StorageError> {
    let failure = tx.take_failure();
    let mut session = into_session(tx)?;
    if succeeded && failure.is_none() {
        let started = clock.instant();
        session.commit().await?;
        metrics::histogram!("myelin_storage_commit_seconds")
            .record(started.elapsed(clock).as_secs_f64());
        return Ok(());
    }
    // If this fails the connection is closed, which has the same effect.
    session.roll_back().await.ok();
    failure.filter(|_| succeeded).map_or(Ok(()), Err)
}

fn into_session(tx: Tx) -> Result<Session, StorageError> {
    match tx.into_engine() {
        Engine::Postgres(session) => Ok(session),
        Engine::Sqlite(_) => Err(StorageError::Bug("another engine's transaction".to_owned())),
    }
}

/// An error before there was a connection: the server is away, or refuses us.
fn unreachable_server(error: tokio_postgres::Error) -> StorageError {
    match error.code() {
        Some(code) if code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME => {
            StorageError::Refused(format!(
                "PostgreSQL refuses the connection: {}",
                told(&error)
            ))
        }
        Some(_) => error.into(),
        None => StorageError::Unavailable(format!("cannot reach PostgreSQL: {}", told(&error))),
    }
}

/// The error with its cause: its own text is only a category.
fn told(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// PostgreSQL's errors by what the caller can do.
impl From<tokio_postgres::Error> for StorageError {
    fn from(error: tokio_postgres::Error) -> Self {
        let text = told(&error);
        let Some(code) = error.code() else {
            let lost = std::error::Error::source(&error)
                .is_some_and(|cause| cause.downcast_ref::<std::io::Error>().is_some());
            return if lost || error.is_closed() {
                Self::Unavailable(text)
            } else {
                Self::Bug(text)
            };
        };
        match code.code().as_bytes() {
            b"53100" => Self::Full,
            b"XX001" | b"XX002" => Self::Corrupt(text),
            // Connections, transactions to repeat, resources, the operator, the system below.
            [b'0', b'8', ..] | [b'4', b'0', ..] | [b'5', b'3' | b'7' | b'8', ..] | b"55P03" => {
                Self::Unavailable(text)
            }
            [b'2', b'3', ..] => Self::Constraint(text),
            _ => Self::Bug(text),
        }
    }
}
