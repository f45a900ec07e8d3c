//! A connection and its statements.

use std::{collections::BTreeSet, fmt, pin::Pin, sync::Arc};

use bytes::{BufMut as _, BytesMut};
use deadpool_postgres::Object;
use futures_util::{FutureExt as _, future::join};
use myelin_env::Tasks;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use tokio_postgres::{
    Statement,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

#[cfg(test)]
use super::rows::Together;
use super::rows::{AnyError, Rows};
use crate::{
    Param, Row, StorageError,
    statement::{Dialect, schema, translated},
};

/// How many statements may be under way without anybody having looked at their outcome.
const MOST_UNDER_WAY: usize = 256;

/// The outcome of a statement that was sent.
type UnderWay = Pin<Box<dyn Future<Output = Result<u64, StorageError>> + Send>>;

/// A connection in use by one transaction. Dropping it undoes the transaction.
pub(crate) struct Session {
    /// Only `drop` takes it away. Shared with the statements under way.
    client: Option<Arc<Object>>,
    /// Statements that were sent and whose outcome is still to be seen, in order.
    under_way: Vec<UnderWay>,
    /// Rows that were not sent yet. They come after what is under way.
    rows: Option<Box<Rows>>,
    /// Whether a transaction is open.
    open: bool,
    tasks: Tasks,
    turn: Option<OwnedSemaphorePermit>,
}

impl Session {
    pub(super) fn new(client: Object, turn: OwnedSemaphorePermit, tasks: Tasks) -> Self {
        Self {
            client: Some(Arc::new(client)),
            under_way: Vec::new(),
            rows: None,
            open: false,
            tasks,
            turn: Some(turn),
        }
    }

    pub(super) async fn begin(&mut self, statement: &'static str) -> Result<(), StorageError> {
        self.open = true;
        Ok(self.client().batch_execute(statement).await?)
    }

    /// Begins a transaction without waiting for the answer. If it were refused, the statements would
    /// stand alone: good enough for reading.
    pub(super) fn begin_soon(&mut self, statement: &'static str) -> Result<(), StorageError> {
        self.open = true;
        self.send(statement)
    }

    /// Ends a transaction that changed nothing, without waiting for the answer.
    pub(super) fn end_soon(&mut self, statement: &'static str) -> Result<(), StorageError> {
        self.send(statement)?;
        self.open = false;
        Ok(())
    }

    /// The first poll sends the statement. What follows on the connection comes after it.
    fn send(&self, statement: &'static str) -> Result<(), StorageError> {
        let answered = self.client().batch_execute(statement).now_or_never();
        Ok(answered.transpose().map(drop)?)
    }

    /// Commits. PostgreSQL makes a rollback of it if a statement before it failed; then that statement's error
    /// is the outcome.
    pub(super) async fn commit(&mut self) -> Result<(), StorageError> {
        self.flush().await?;
        self.end("COMMIT").await
    }

    /// Undoes everything.
    pub(super) async fn roll_back(&mut self) -> Result<(), StorageError> {
        self.rows = None;
        self.end("ROLLBACK").await
    }

    async fn end(&mut self, statement: &'static str) -> Result<(), StorageError> {
        let client = Arc::clone(self.client());
        let ended = join(client.batch_execute(statement), self.settle());
        let (ended, settled) = ended.await;
        self.open = ended.is_err();
        settled?;
        Ok(ended?)
    }

    /// Runs a statement whose outcome [`Self::settle`] tells. It is sent when its like have come to an end;
    /// what follows on the connection comes after it.
    pub(crate) async fn run(
        &mut self,
        sql: &'static str,
        params: &[Param<'_>],
    ) -> Result<(), StorageError> {
        let mut rows = match self.rows.take() {
            Some(rows) if rows.sql == sql => rows,
            others => {
                self.send_rows(others).await?;
                Box::new(Rows::new(sql, self.prepare(sql).await?))
            }
        };
        let values = rows.values(params)?;
        if !rows.has_room_for(&values) {
            let next = Box::new(Rows::new(sql, rows.statement.clone()));
            self.send_rows(Some(rows)).await?;
            rows = next;
        }
        rows.push(values);
        self.rows = Some(rows);
        Ok(())
    }

    /// Sends rows that were gathered.
    async fn send_rows(&mut self, rows: Option<Box<Rows>>) -> Result<(), StorageError> {
        let Some(rows) = rows else { return Ok(()) };
        let all = match rows.sql_for_all() {
            Some(sql) => Some(self.prepare(sql).await?),
            None => None,
        };
        let client = Arc::clone(self.client());
        let mut sent: UnderWay = Box::pin(async move {
            let done = match all {
                Some(all) => client.execute_raw(&all, &rows.columns).await,
                None => {
                    let row = rows.columns.iter().filter_map(|column| column.first());
                    let row: Vec<_> = row.collect();
                    client.execute_raw(&rows.statement, row).await
                }
            };
            done.map_err(|error| told(error, rows.sql))
        });
        // The first poll sends it.
        match (&mut sent).now_or_never() {
            Some(done) => done.map(drop),
            None => {
                self.under_way.push(sent);
                match self.under_way.len() < MOST_UNDER_WAY {
                    true => Ok(()),
                    false => self.settle().await,
                }
            }
        }
    }

    /// Sends what waits, before something else is sent.
    async fn flush(&mut self) -> Result<(), StorageError> {
        let rows = self.rows.take();
        self.send_rows(rows).await
    }

    /// Waits for the statements under way.
    async fn settle(&mut self) -> Result<(), StorageError> {
        for sent in std::mem::take(&mut self.under_way) {
            sent.await?;
        }
        Ok(())
    }

    pub(crate) async fn execute(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<u64, StorageError> {
        self.flush().await?;
        let statement = self.prepare(sql).await?;
        let (client, params) = (Arc::clone(self.client()), borrowed(params));
        let done = join(client.execute(&statement, &params), self.settle());
        let (done, settled) = done.await;
        settled?;
        done.map_err(|error| told(error, sql))
    }

    pub(crate) async fn query(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StorageError> {
        self.flush().await?;
        let statement = self.prepare(sql).await?;
        let (client, params) = (Arc::clone(self.client()), borrowed(params));
        let rows = join(client.query(&statement, &params), self.settle());
        let (rows, settled) = rows.await;
        settled?;
        let rows = rows.map_err(|error| told(error, sql))?;
        Ok(rows.into_iter().map(Row::from_postgres).collect())
    }

    pub(crate) async fn execute_batch(&mut self, sql: &str) -> Result<(), StorageError> {
        self.flush().await?;
        let sql = schema(sql, Dialect::Postgres);
        Ok(self.client().batch_execute(&sql).await?)
    }

    /// Prepares a statement and what puts many of its rows.
    #[cfg(test)]
    pub(crate) async fn prepare_all(&mut self, sql: &str) -> Result<(), StorageError> {
        let statement = self.prepare(sql).await?;
        match Together::of(sql, statement.params()) {
            Some(together) => self.prepare(&together.sql).await.map(drop),
            None => Ok(()),
        }
    }

    /// Prepares a statement, or finds it among those of this connection.
    async fn prepare(&mut self, sql: &str) -> Result<Statement, StorageError> {
        let sql = translated(sql, Dialect::Postgres);
        let prepared = self.client().prepare_cached(&sql).await;
        match prepared {
            Ok(statement) => Ok(statement),
            Err(error) => {
                // After a failure PostgreSQL takes nothing more: that is the one to tell of.
                self.settle().await?;
                Err(told(error, &sql))
            }
        }
    }

    fn client(&self) -> &Arc<Object> {
        self.client
            .as_ref()
            .expect("only drop takes the connection away")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.under_way.clear();
        let client = self.client.take().filter(|_| self.open);
        let Some(client) = client.and_then(Arc::into_inner) else {
            return;
        };
        if Handle::try_current().is_err() {
            // Without a runtime nothing can be sent. The server undoes what a closed connection left.
            drop(Object::take(client));
            return;
        }
        let turn = self.turn.take();
        self.tasks.spawn("undo a transaction", async move {
            let _turn = turn;
            if client.batch_execute("ROLLBACK").await.is_err() {
                drop(Object::take(client));
            }
        });
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// A mistake is easier to find with its statement; other errors say enough.
fn told(error: tokio_postgres::Error, sql: &str) -> StorageError {
    match error.into() {
        StorageError::Bug(text) => StorageError::Bug(format!("{text}: {sql}")),
        other => other,
    }
}

fn borrowed<'a>(params: &'a [Param<'a>]) -> Vec<&'a (dyn ToSql + Sync)> {
    params
        .iter()
        .map(|param| param as &(dyn ToSql + Sync))
        .collect()
}

impl ToSql for Param<'_> {
    fn to_sql(&self, wanted: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        match (self, wanted) {
            (Self::Null, _) => Ok(IsNull::Yes),
            (Self::Int(value), &Type::INT8) => value.to_sql(wanted, out),
            (Self::Int(value), &Type::INT4) => i32::try_from(*value)?.to_sql(wanted, out),
            (Self::Bool(value), &Type::BOOL) => value.to_sql(wanted, out),
            (Self::Text(value), &Type::TEXT | &Type::VARCHAR | &Type::NAME) => {
                value.to_sql(wanted, out)
            }
            (Self::Text(words), &Type::TS_VECTOR) => put_words(words, out),
            (Self::Blob(value), &Type::BYTEA) => value.to_sql(wanted, out),
            (Self::IntList(values), &Type::INT8_ARRAY) => values.as_ref().to_sql(wanted, out),
            (Self::TextList(values), &Type::TEXT_ARRAY) => values.to_sql(wanted, out),
            (Self::BlobList(values), &Type::BYTEA_ARRAY) => values.to_sql(wanted, out),
            (Self::TooLarge(value), _) => Err(format!("{value} is too large for a BIGINT").into()),
            _ => Err(format!("{self:?} where the statement has a {wanted}").into()),
        }
    }

    /// [`Param::to_sql`] checks by the value.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Words with spaces between them, as PostgreSQL sends a `tsvector`: how many there are, and for each, its bytes, a
/// zero, and the number of its places in the text, which nobody asks for.
fn put_words(words: &str, out: &mut BytesMut) -> Result<IsNull, AnyError> {
    let words: BTreeSet<&str> = words.split_ascii_whitespace().collect();
    out.put_i32(i32::try_from(words.len())?);
    for word in words {
        out.put_slice(word.as_bytes());
        out.put_u8(0);
        out.put_u16(0);
    }
    Ok(IsNull::No)
}
