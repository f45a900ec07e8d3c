//! A connection and its statements.

use std::fmt;

use bytes::BytesMut;
use deadpool_postgres::Object;
use futures_util::FutureExt as _;
use myelin_env::Tasks;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use tokio_postgres::{
    Statement,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use crate::{
    Param, Row, StorageError,
    statement::{Dialect, schema, translated},
};

/// A connection in use by one transaction. Dropping it undoes the transaction.
pub(crate) struct Session {
    /// Only `drop` takes it away.
    client: Option<Object>,
    /// Whether a transaction is open.
    open: bool,
    tasks: Tasks,
    turn: Option<OwnedSemaphorePermit>,
}

impl Session {
    pub(super) fn new(client: Object, turn: OwnedSemaphorePermit, tasks: Tasks) -> Self {
        Self {
            client: Some(client),
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

    pub(super) async fn end(&mut self, statement: &'static str) -> Result<(), StorageError> {
        self.client().batch_execute(statement).await?;
        self.open = false;
        Ok(())
    }

    pub(crate) async fn execute(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<u64, StorageError> {
        let statement = self.prepare(sql).await?;
        let done = self.client().execute(&statement, &borrowed(params)).await;
        done.map_err(|error| told(error, sql))
    }

    pub(crate) async fn query(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StorageError> {
        let statement = self.prepare(sql).await?;
        let rows = self.client().query(&statement, &borrowed(params)).await;
        let rows = rows.map_err(|error| told(error, sql))?;
        Ok(rows.into_iter().map(Row::from_postgres).collect())
    }

    pub(crate) async fn execute_batch(&mut self, sql: &str) -> Result<(), StorageError> {
        let sql = schema(sql, Dialect::Postgres);
        Ok(self.client().batch_execute(&sql).await?)
    }

    /// Prepares a statement, or finds it among those of this connection.
    pub(crate) async fn prepare(&self, sql: &str) -> Result<Statement, StorageError> {
        let sql = translated(sql, Dialect::Postgres);
        let prepared = self.client().prepare_cached(&sql).await;
        prepared.map_err(|error| told(error, &sql))
    }

    fn client(&self) -> &Object {
        self.client
            .as_ref()
            .expect("only drop takes the connection away")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(client) = self.client.take().filter(|_| self.open) else {
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

type AnyError = Box<dyn std::error::Error + Sync + Send>;

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
