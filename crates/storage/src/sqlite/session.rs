//! A connection and its statements.

use std::{fmt, rc::Rc};

use rusqlite::{
    CachedStatement, Connection, ToSql,
    types::{ToSqlOutput, Value, ValueRef},
};

use crate::{
    Param, Row, StorageError,
    statement::{Dialect, schema, translated},
};

/// A connection in use.
pub(crate) struct Session(Connection);

impl Session {
    pub(crate) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    pub(crate) fn execute(&mut self, sql: &str, params: &[Param<'_>]) -> Result<u64, StorageError> {
        let mut statement = self.bound(sql, params)?;
        let changed = statement.raw_execute().map_err(|error| told(error, sql))?;
        Ok(changed as u64)
    }

    pub(crate) fn query(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, StorageError> {
        let mut statement = self.bound(sql, params)?;
        let columns = statement.column_count();
        let mut result = statement.raw_query();
        let mut rows = Vec::new();
        while let Some(row) = result.next().map_err(|error| told(error, sql))? {
            rows.push(Row::from_sqlite(row, columns)?);
        }
        Ok(rows)
    }

    pub(crate) fn execute_batch(&mut self, sql: &str) -> Result<(), StorageError> {
        let sql = schema(sql, Dialect::Sqlite);
        Ok(self.0.execute_batch(&sql)?)
    }

    #[cfg(test)]
    pub(crate) fn prepare(&mut self, sql: &str) -> Result<(), StorageError> {
        self.0.prepare(&translated(sql, Dialect::Sqlite))?;
        Ok(())
    }

    /// `BEGIN` and its like: no parameters, no rows.
    pub(super) fn control(&mut self, sql: &'static str) -> Result<(), StorageError> {
        self.0.prepare_cached(sql)?.raw_execute()?;
        Ok(())
    }

    /// Whether a transaction is open. SQLite ends one by itself after some errors.
    pub(super) fn in_transaction(&self) -> bool {
        !self.0.is_autocommit()
    }

    fn bound(&self, sql: &str, params: &[Param<'_>]) -> Result<CachedStatement<'_>, StorageError> {
        let mut statement = if params.iter().any(is_list) {
            self.0.prepare_cached(&translated(sql, Dialect::Sqlite))
        } else {
            self.0.prepare_cached(sql)
        }
        .map_err(|error| told(error, sql))?;
        // SQLite numbers `$n` by first occurrence: the name says which value is meant.
        let mut used = 0;
        for index in 1..=statement.parameter_count() {
            let number = statement
                .parameter_name(index)
                .and_then(|name| name.strip_prefix('$')?.parse::<usize>().ok())
                .filter(|number| (1..=params.len()).contains(number))
                .ok_or_else(|| StorageError::Bug(format!("too few parameters: {sql}")))?;
            used = used.max(number);
            statement
                .raw_bind_parameter(index, &params[number - 1])
                .map_err(|error| told(error, sql))?;
        }
        if used != params.len() {
            return Err(StorageError::Bug(format!("too many parameters: {sql}")));
        }
        Ok(statement)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Session")
    }
}

/// A mistake is easier to find with its statement; other errors say enough.
fn told(error: rusqlite::Error, sql: &str) -> StorageError {
    match error.into() {
        StorageError::Bug(text) if !text.contains(sql) => {
            StorageError::Bug(format!("{text}: {sql}"))
        }
        other => other,
    }
}

fn is_list(param: &Param<'_>) -> bool {
    matches!(
        param,
        Param::IntList(_) | Param::TextList(_) | Param::BlobList(_)
    )
}

impl ToSql for Param<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Param::Null => ToSqlOutput::Owned(Value::Null),
            Param::Int(value) => ToSqlOutput::Owned(Value::Integer(*value)),
            Param::TooLarge(value) => {
                let reason = format!("{value} is too large for a BIGINT");
                return Err(rusqlite::Error::ToSqlConversionFailure(reason.into()));
            }
            Param::Bool(value) => ToSqlOutput::Owned(Value::Integer(i64::from(*value))),
            Param::Text(value) => ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())),
            Param::Blob(value) => ToSqlOutput::Borrowed(ValueRef::Blob(value)),
            Param::IntList(values) => array(values.iter().map(|value| Value::Integer(*value))),
            Param::TextList(values) => {
                array(values.iter().map(|value| Value::Text((*value).to_owned())))
            }
            Param::BlobList(values) => {
                array(values.iter().map(|value| Value::Blob(value.to_vec())))
            }
        })
    }
}

/// An argument for the `rarray` table.
fn array(values: impl Iterator<Item = Value>) -> ToSqlOutput<'static> {
    ToSqlOutput::from_rc(Rc::new(values.collect::<Vec<_>>()), c"rarray")
}
