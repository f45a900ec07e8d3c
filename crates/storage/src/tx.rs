//! A transaction, as the functions of this crate see it.

use crate::{Param, Row, StorageError, postgres, sqlite};

/// The number is the letters of "myelin", so that no other program locks it.
const LOCK_SCHEMA: &str = "SELECT 1 FROM pg_advisory_xact_lock(120368160074094)";

/// A transaction that is open. All it reads belongs to one state of the database.
///
/// A statement that fails dooms the transaction: later statements fail too, and it is rolled back even
/// if the closure answers `Ok`. PostgreSQL works so; here SQLite does too. What may fail in the
/// ordinary course says `ON CONFLICT`.
#[derive(Debug)]
pub struct Tx {
    engine: Engine,
    /// The first error of a statement.
    failed: Option<StorageError>,
    /// How many statements may still come, if they are counted.
    left: Option<u8>,
}

/// What a closure that reads needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Several statements that see one state of the database.
    OneState,
    /// A statement, which needs no transaction.
    OneStatement,
}

#[derive(Debug)]
pub(crate) enum Engine {
    Sqlite(sqlite::Session),
    Postgres(postgres::Session),
}

impl Tx {
    pub(crate) fn new(engine: Engine) -> Self {
        Self {
            engine,
            failed: None,
            left: None,
        }
    }

    /// Lets one statement run, or any number.
    pub(crate) fn reading(&mut self, reading: Reading) {
        self.left = match reading {
            Reading::OneState => None,
            Reading::OneStatement => Some(1),
        };
    }

    /// The session, in the hands of the engine that made this transaction.
    pub(crate) fn sqlite(&mut self) -> &mut sqlite::Session {
        match &mut self.engine {
            Engine::Sqlite(session) => session,
            Engine::Postgres(_) => unreachable!("the SQLite engine makes SQLite transactions"),
        }
    }

    pub(crate) fn into_engine(self) -> Engine {
        self.engine
    }

    /// The error that doomed the transaction, if any; forgotten afterwards.
    pub(crate) fn take_failure(&mut self) -> Option<StorageError> {
        self.failed.take()
    }

    /// Runs a statement of whose effect nothing needs to be known. PostgreSQL's answer isn't waited for, and rows
    /// that one statement puts one after another go to it together: an error may show at a later statement, or
    /// as that of the transaction.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn run(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<(), StorageError> {
        self.unless_doomed()?;
        self.check(params)?;
        self.may_write()?;
        let done = match &mut self.engine {
            Engine::Sqlite(session) => session.execute(sql, params).map(drop),
            Engine::Postgres(session) => session.run(sql, params).await,
        };
        self.note(done)
    }

    /// Runs a statement that returns no rows, and says how many it changed.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, StorageError> {
        self.unless_doomed()?;
        self.check(params)?;
        self.may_write()?;
        let done = match &mut self.engine {
            Engine::Sqlite(session) => session.execute(sql, params),
            Engine::Postgres(session) => session.execute(sql, params).await,
        };
        self.note(done)
    }

    /// Runs a statement and returns all its rows.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn query(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StorageError> {
        self.unless_doomed()?;
        self.check(params)?;
        self.count()?;
        let rows = match &mut self.engine {
            Engine::Sqlite(session) => session.query(sql, params),
            Engine::Postgres(session) => session.query(sql, params).await,
        };
        self.note(rows)
    }

    /// Runs a statement that returns one row or none.
    ///
    /// # Errors
    /// Any [`StorageError`]; [`StorageError::Bug`] if there are more rows.
    pub async fn query_opt(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, StorageError> {
        let mut rows = self.query(sql, params).await?;
        let row = match rows.len() {
            0 | 1 => Ok(rows.pop()),
            count => Err(StorageError::Bug(format!(
                "{count} rows where one was expected: {sql}"
            ))),
        };
        self.note(row)
    }

    /// Runs the statements of a migration. Nothing of them is cached.
    pub(crate) async fn execute_batch(&mut self, sql: &str) -> Result<(), StorageError> {
        self.unless_doomed()?;
        let done = match &mut self.engine {
            Engine::Sqlite(session) => session.execute_batch(sql),
            Engine::Postgres(session) => session.execute_batch(sql).await,
        };
        self.note(done)
    }

    /// Waits until no other process changes the schema, and keeps others from it until the end of
    /// the transaction. A SQLite file has one process.
    pub(crate) async fn lock_schema(&mut self) -> Result<(), StorageError> {
        match &mut self.engine {
            Engine::Sqlite(_) => Ok(()),
            Engine::Postgres(_) => self.query(LOCK_SCHEMA, params![]).await.map(drop),
        }
    }

    /// Checks a statement without running it.
    #[cfg(test)]
    pub(crate) async fn prepare(&mut self, sql: &str) -> Result<(), StorageError> {
        match &mut self.engine {
            Engine::Sqlite(session) => session.prepare(sql),
            Engine::Postgres(session) => session.prepare_all(sql).await,
        }
    }

    fn unless_doomed(&self) -> Result<(), StorageError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn check(&mut self, params: &[Param<'_>]) -> Result<(), StorageError> {
        let storable = params.iter().try_for_each(Param::check);
        self.note(storable)
    }

    /// Without a transaction, PostgreSQL would not keep a reader from it.
    fn may_write(&mut self) -> Result<(), StorageError> {
        let allowed = match self.left {
            None => Ok(()),
            Some(_) => Err(StorageError::Bug(
                "a write where one query was said".to_owned(),
            )),
        };
        self.note(allowed)
    }

    fn count(&mut self) -> Result<(), StorageError> {
        let counted = match &mut self.left {
            None => Ok(()),
            Some(0) => Err(StorageError::Bug(
                "two statements where one was said".to_owned(),
            )),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        };
        self.note(counted)
    }

    fn note<T>(&mut self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }
}
