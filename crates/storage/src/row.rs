//! Rows of results.

use std::ops::Range;

use rusqlite::types::ValueRef;
use tokio_postgres::{
    Column,
    types::{FromSql, Type},
};

use crate::StorageError;

/// One row of a result. Columns are numbered from 0. A column of another type than asked for, or
/// NULL where a value is asked for, is [`StorageError::Corrupt`].
#[derive(Debug)]
pub struct Row(Kind);

#[derive(Debug)]
enum Kind {
    Sqlite(Packed),
    Postgres(tokio_postgres::Row),
}

/// A row copied out of SQLite: two allocations, however many columns.
#[derive(Debug)]
struct Packed {
    cells: Box<[Cell]>,
    bytes: Box<[u8]>,
}

#[derive(Debug)]
enum Cell {
    Null,
    Int(i64),
    Text(Range<usize>),
    Blob(Range<usize>),
}

impl Row {
    /// Copies the current row of a SQLite result.
    pub(crate) fn from_sqlite(
        row: &rusqlite::Row<'_>,
        columns: usize,
    ) -> Result<Self, StorageError> {
        let mut size = 0;
        for column in 0..columns {
            if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = row.get_ref(column)? {
                size += bytes.len();
            }
        }
        let mut cells = Vec::with_capacity(columns);
        let mut packed = Vec::with_capacity(size);
        for column in 0..columns {
            let value = row.get_ref(column)?;
            let start = packed.len();
            if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = value {
                packed.extend_from_slice(bytes);
            }
            cells.push(match value {
                ValueRef::Null => Cell::Null,
                ValueRef::Integer(value) => Cell::Int(value),
                ValueRef::Text(_) => Cell::Text(start..packed.len()),
                ValueRef::Blob(_) => Cell::Blob(start..packed.len()),
                ValueRef::Real(_) => return Err(wrong(column, "a number without fraction")),
            });
        }
        Ok(Self(Kind::Sqlite(Packed {
            cells: cells.into_boxed_slice(),
            bytes: packed.into_boxed_slice(),
        })))
    }

    pub(crate) fn from_postgres(row: tokio_postgres::Row) -> Self {
        Self(Kind::Postgres(row))
    }

    /// A BIGINT.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn int(&self, column: usize) -> Result<i64, StorageError> {
        self.opt_int(column)?
            .ok_or_else(|| wrong(column, "an integer"))
    }

    /// A BOOLEAN.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn bool(&self, column: usize) -> Result<bool, StorageError> {
        self.opt_bool(column)?
            .ok_or_else(|| wrong(column, "a boolean"))
    }

    /// A TEXT.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn text(&self, column: usize) -> Result<&str, StorageError> {
        self.opt_text(column)?
            .ok_or_else(|| wrong(column, "a text"))
    }

    /// A TEXT that is an ID or a name of a certain form.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn parsed<T>(&self, column: usize) -> Result<T, StorageError>
    where
        T: for<'a> TryFrom<&'a str, Error: std::fmt::Display>,
    {
        T::try_from(self.text(column)?)
            .map_err(|error| StorageError::Corrupt(format!("column {column} of a row: {error}")))
    }

    /// A BYTEA.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn blob(&self, column: usize) -> Result<&[u8], StorageError> {
        self.opt_blob(column)?
            .ok_or_else(|| wrong(column, "a blob"))
    }

    /// A BIGINT or NULL.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn opt_int(&self, column: usize) -> Result<Option<i64>, StorageError> {
        match &self.0 {
            Kind::Sqlite(packed) => match packed.cell(column)? {
                Cell::Null => Ok(None),
                Cell::Int(value) => Ok(Some(*value)),
                _ => Err(wrong(column, "an integer")),
            },
            // A literal of a statement may be a shorter integer.
            Kind::Postgres(row)
                if row.columns().get(column).map(Column::type_) == Some(&Type::INT4) =>
            {
                let value: Option<i32> = from_postgres(row, column, "an integer")?;
                Ok(value.map(i64::from))
            }
            Kind::Postgres(row) => from_postgres(row, column, "an integer"),
        }
    }

    /// A BOOLEAN or NULL.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn opt_bool(&self, column: usize) -> Result<Option<bool>, StorageError> {
        match &self.0 {
            // SQLite's booleans are the integers 0 and 1.
            Kind::Sqlite(packed) => match packed.cell(column)? {
                Cell::Null => Ok(None),
                Cell::Int(value @ (0 | 1)) => Ok(Some(*value == 1)),
                _ => Err(wrong(column, "a boolean")),
            },
            Kind::Postgres(row) => from_postgres(row, column, "a boolean"),
        }
    }

    /// A TEXT or NULL.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn opt_text(&self, column: usize) -> Result<Option<&str>, StorageError> {
        match &self.0 {
            Kind::Sqlite(packed) => match packed.cell(column)? {
                Cell::Null => Ok(None),
                Cell::Text(range) => std::str::from_utf8(&packed.bytes[range.clone()])
                    .map(Some)
                    .map_err(|_| wrong(column, "UTF-8")),
                _ => Err(wrong(column, "a text")),
            },
            Kind::Postgres(row) => from_postgres(row, column, "a text"),
        }
    }

    /// A BYTEA or NULL.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if it is anything else.
    pub fn opt_blob(&self, column: usize) -> Result<Option<&[u8]>, StorageError> {
        match &self.0 {
            Kind::Sqlite(packed) => match packed.cell(column)? {
                Cell::Null => Ok(None),
                Cell::Blob(range) => Ok(Some(&packed.bytes[range.clone()])),
                _ => Err(wrong(column, "a blob")),
            },
            Kind::Postgres(row) => from_postgres(row, column, "a blob"),
        }
    }
}

impl Packed {
    fn cell(&self, column: usize) -> Result<&Cell, StorageError> {
        self.cells.get(column).ok_or_else(|| {
            StorageError::Bug(format!("column {column} of a row of {}", self.cells.len()))
        })
    }
}

fn from_postgres<'a, T: FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    column: usize,
    expected: &str,
) -> Result<Option<T>, StorageError> {
    row.try_get(column).map_err(|_| wrong(column, expected))
}

fn wrong(column: usize, expected: &str) -> StorageError {
    StorageError::Corrupt(format!("column {column} of a row is not {expected}"))
}
