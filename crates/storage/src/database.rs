//! The database as everybody else sees it.

use std::sync::{Arc, Mutex, PoisonError};

use myelin_env::{Clock, Env};

use crate::{
    DatabaseUrl, StorageError, Tx,
    migrations::{MIGRATIONS, Migration, Progress, run_next},
    postgres::Postgres,
    sqlite::Sqlite,
    tx::Reading,
};

/// A future in a box, as closures over a transaction return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A closure over a transaction with its types hidden, so that what surrounds it is compiled once and not for
/// every closure. It keeps its result to itself, and says whether that is a success.
pub(crate) type Work = Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, bool> + Send>;

/// Where a hidden closure leaves its result.
type Left<R> = Arc<Mutex<Option<R>>>;

/// Who waits for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// A person, or another server's request.
    Interactive,
    /// Nobody: work in pieces of some 1,000 rows, which should not hold the writer for more than
    /// 20 ms each.
    Bulk,
}

/// An open database. Clones share it; it is closed by [`Database::close`] or with the last of them.
#[derive(Clone, Debug)]
pub struct Database {
    engine: Arc<Engine>,
    clock: Clock,
}

#[derive(Debug)]
enum Engine {
    Sqlite(Sqlite),
    Postgres(Box<Postgres>),
}

impl Database {
    /// Opens a database and brings its schema up to date.
    ///
    /// # Errors
    /// [`StorageError::Refused`] if it cannot be used: another process has it, a newer Myelin wrote
    /// it, or there is no such place. Otherwise any [`StorageError`].
    pub async fn open(url: &DatabaseUrl, env: &Env) -> Result<Self, StorageError> {
        Self::open_with(url, env, MIGRATIONS).await
    }

    /// Opens a database with another history than the program's.
    pub(crate) async fn open_with(
        url: &DatabaseUrl,
        env: &Env,
        migrations: &'static [Migration],
    ) -> Result<Self, StorageError> {
        let engine = match url {
            DatabaseUrl::Sqlite { path, vfs } => {
                Engine::Sqlite(Sqlite::open(path, vfs.as_deref(), env)?)
            }
            DatabaseUrl::Postgres(url) => {
                Engine::Postgres(Box::new(Postgres::open(url, env).await?))
            }
        };
        let database = Self {
            engine: Arc::new(engine),
            clock: env.clock.clone(),
        };
        loop {
            let step: Result<Progress, StorageError> = database
                .write("migrate", Priority::Interactive, move |tx| {
                    Box::pin(run_next(tx, migrations))
                })
                .await;
            match step? {
                Progress::UpToDate => return Ok(database),
                Progress::Ran(number) => tracing::info!(number, "the schema was brought forward"),
            }
        }
    }

    /// Runs a closure over one state of the database. `name` says in logs and metrics what it is.
    ///
    /// The closure may await its transaction and nothing else.
    ///
    /// # Errors
    /// The closure's, and any [`StorageError`].
    pub async fn read<T, F>(&self, name: &'static str, closure: F) -> Result<T, StorageError>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, StorageError>> + Send + 'static,
        T: Send + 'static,
    {
        let (work, left) = hide(closure);
        result_of(self.reading(name, Reading::OneState, work).await, &left)
    }

    /// As [`Database::read`], for a closure of one query. It has no transaction around it, whose begin and end
    /// are statements for PostgreSQL too.
    ///
    /// # Errors
    /// The closure's, and any [`StorageError`]; [`StorageError::Bug`] at a second query, and at what writes.
    pub async fn look_up<T, F>(&self, name: &'static str, closure: F) -> Result<T, StorageError>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, StorageError>> + Send + 'static,
        T: Send + 'static,
    {
        let (work, left) = hide(closure);
        result_of(self.reading(name, Reading::OneStatement, work).await, &left)
    }

    async fn reading(
        &self,
        name: &'static str,
        reading: Reading,
        work: Work,
    ) -> Result<(), StorageError> {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.read(name, reading, work).await,
            Engine::Postgres(postgres) => postgres.read(name, reading, work).await,
        }
    }

    /// Runs a closure that changes the database. What it changed is durable when this returns `Ok`,
    /// and undone if it returns `Err`. Others' writes are not affected either way, though they may
    /// share its commit.
    ///
    /// Dropping the future before the closure has begun means that it never will; after that, it runs
    /// to its end and is committed. The closure may await its transaction and nothing else, and must not
    /// start anything that an undone transaction should not have started.
    ///
    /// # Errors
    /// The closure's, and any [`StorageError`].
    pub async fn write<T, E, F>(
        &self,
        name: &'static str,
        priority: Priority,
        closure: F,
    ) -> Result<T, E>
    where
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        let (work, left) = hide(closure);
        let done = match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.write(name, priority, work).await,
            Engine::Postgres(postgres) => postgres.write(name, priority, work).await,
        };
        result_of(done, &left)
    }

    /// Waits until this process may not use the database any more, because another one has taken it while
    /// PostgreSQL was started again; then says so. All reads and writes fail from then on. A file of
    /// SQLite can't be taken.
    pub async fn lost(&self) -> StorageError {
        match &*self.engine {
            Engine::Sqlite(_) => std::future::pending().await,
            Engine::Postgres(postgres) => postgres.lost().await,
        }
    }

    /// Finishes the writes that wait and closes all connections. Later calls answer
    /// [`StorageError::Closed`].
    pub async fn close(&self) {
        match &*self.engine {
            Engine::Sqlite(sqlite) => sqlite.close(&self.clock).await,
            Engine::Postgres(postgres) => postgres.close().await,
        }
    }
}

/// Hides the types of a closure.
fn hide<T, E, F>(closure: F) -> (Work, Left<Result<T, E>>)
where
    F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let left = Left::default();
    let place = Arc::clone(&left);
    let work: Work = Box::new(move |tx| {
        let running = closure(tx);
        Box::pin(async move {
            let result = running.await;
            let succeeded = result.is_ok();
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            succeeded
        })
    });
    (work, left)
}

/// What a hidden closure came to: its own error, that of what surrounds it, or what it answered.
fn result_of<T, E: From<StorageError>>(
    done: Result<(), StorageError>,
    left: &Mutex<Option<Result<T, E>>>,
) -> Result<T, E> {
    let left = left.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (done, left) {
        (Ok(()), Some(result)) => result,
        (Err(_), Some(Err(refused))) => Err(refused),
        (Err(error), _) => Err(error.into()),
        (Ok(()), None) => Err(StorageError::Bug("a closure left no result".to_owned()).into()),
    }
}
