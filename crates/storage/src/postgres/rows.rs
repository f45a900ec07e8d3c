//! Rows that a statement puts one after another, sent as one statement. That spares the server one for each row.

use std::{collections::HashSet, fmt::Write as _, sync::OnceLock};

use bytes::BytesMut;
use tokio_postgres::{
    Statement,
    types::{IsNull, ToSql, Type, to_sql_checked},
};

use crate::{Param, StorageError};

/// How many rows go together at most.
const MOST_ROWS: usize = 100;

/// Rows for one statement that were not sent yet.
#[derive(Debug)]
pub(super) struct Rows {
    /// The statement for one row.
    pub(super) sql: &'static str,
    pub(super) statement: Statement,
    together: OnceLock<Option<Together>>,
    /// For each parameter its value in each row.
    pub(super) columns: Vec<Vec<Encoded>>,
    len: usize,
    /// The first values of the rows.
    firsts: HashSet<Encoded>,
}

/// The values of a row.
pub(super) struct Values(Vec<Encoded>);

impl Rows {
    pub(super) fn new(sql: &'static str, statement: Statement) -> Self {
        Self {
            sql,
            columns: statement.params().iter().map(|_| Vec::new()).collect(),
            statement,
            together: OnceLock::new(),
            len: 0,
            firsts: HashSet::new(),
        }
    }

    /// The parameters as the statement wants them.
    pub(super) fn values(&self, params: &[Param<'_>]) -> Result<Values, StorageError> {
        let types = self.statement.params();
        if types.len() != params.len() {
            let bug = format!("{} parameters: {}", params.len(), self.sql);
            return Err(StorageError::Bug(bug));
        }
        let encoded = params
            .iter()
            .zip(types)
            .map(|(param, wanted)| Encoded::of(param, wanted))
            .collect::<Result<_, AnyError>>();
        let bug = |error| StorageError::Bug(format!("{error}: {}", self.sql));
        Ok(Values(encoded.map_err(bug)?))
    }

    /// Whether a row can go with those that are here.
    pub(super) fn has_room_for(&self, values: &Values) -> bool {
        match self.len {
            0 => true,
            MOST_ROWS.. => false,
            _ => self.together().is_some_and(|together| {
                let mut first = values.0.iter().take(1);
                let is_here = first.any(|first| self.firsts.contains(first));
                !(together.is_update && is_here)
            }),
        }
    }

    pub(super) fn push(&mut self, values: Values) {
        self.len += 1;
        self.firsts.extend(values.0.first().cloned());
        for (column, value) in self.columns.iter_mut().zip(values.0) {
            column.push(value);
        }
    }

    /// The statement that puts all of the rows, unless there is one row only.
    pub(super) fn sql_for_all(&self) -> Option<&str> {
        let together = self.together().filter(|_| self.len > 1);
        together.map(|together| &*together.sql)
    }

    fn together(&self) -> Option<&Together> {
        let together = self
            .together
            .get_or_init(|| Together::of(self.sql, self.statement.params()));
        together.as_ref()
    }
}

/// A statement that puts many rows. Each parameter is the list of the rows' values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Together {
    pub(super) sql: String,
    /// A row may change what is there, and no statement changes a row twice: those of one statement differ in
    /// their first value, the key.
    is_update: bool,
}

impl Together {
    /// For an `INSERT` of plain values that ignores what is there, or replaces it by the key that is its first
    /// column; `None` for any other statement.
    pub(super) fn of(sql: &str, types: &[Type]) -> Option<Self> {
        let (head, rest) = sql.split_once("VALUES (")?;
        let (values, conflict) = rest.split_once(')')?;
        let (_, columns) = head
            .trim_start()
            .strip_prefix("INSERT INTO ")?
            .split_once('(')?;
        let key = columns.split([',', ')']).next()?.trim();
        let is_update = conflict.contains("DO UPDATE");
        let by_key = conflict
            .trim_start()
            .starts_with(&format!("ON CONFLICT ({key}) "));
        let is_plain = !values.contains('(') && !conflict.contains('$');
        if !is_plain || types.is_empty() || (is_update && !(by_key && values.starts_with("$1,"))) {
            return None;
        }
        let (mut lists, mut names) = (String::new(), String::new());
        for (number, one) in (1..).zip(types) {
            let comma = if number > 1 { ", " } else { "" };
            write!(lists, "{comma}${number}::{}[]", one.name()).ok()?;
            write!(names, "{comma}p{number}").ok()?;
        }
        let values = values.replace('$', "p");
        Some(Self {
            sql: format!("{head}SELECT {values} FROM unnest({lists}) AS given ({names}){conflict}"),
            is_update,
        })
    }
}

pub(super) type AnyError = Box<dyn std::error::Error + Sync + Send>;

/// A parameter in the form that a statement wants it in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Encoded(Option<BytesMut>);

impl Encoded {
    fn of(param: &Param<'_>, wanted: &Type) -> Result<Self, AnyError> {
        let mut bytes = BytesMut::new();
        Ok(match param.to_sql(wanted, &mut bytes)? {
            IsNull::Yes => Self(None),
            IsNull::No => Self(Some(bytes)),
        })
    }
}

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        let Some(bytes) = &self.0 else {
            return Ok(IsNull::Yes);
        };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::Together;
    use tokio_postgres::types::Type;

    #[test]
    fn only_plain_rows_whose_key_comes_first_go_together() {
        let types = [Type::INT8, Type::BYTEA];
        let of = |sql: &str| Together::of(sql, &types).map(|together| together.sql);
        let ignoring = "INSERT INTO a (b, c, d) VALUES ($1, $2, FALSE) ON CONFLICT DO NOTHING";
        assert_eq!(
            of(ignoring).as_deref(),
            Some(
                "INSERT INTO a (b, c, d) SELECT p1, p2, FALSE \
                 FROM unnest($1::int8[], $2::bytea[]) AS given (p1, p2) ON CONFLICT DO NOTHING"
            )
        );
        let replacing =
            "INSERT INTO a (b, c) VALUES ($1, $2) ON CONFLICT (b) DO UPDATE SET c = excluded.c";
        assert!(Together::of(replacing, &types).is_some_and(|together| together.is_update));
        for alone in [
            "UPDATE a SET b = $1 WHERE c = $2",
            "INSERT INTO a (b, c) SELECT value, $2 FROM int_list($1)",
            "INSERT INTO a (b, c) VALUES ($1, lower($2))",
            "INSERT INTO a (b, c) VALUES ($2, $1) ON CONFLICT (b) DO UPDATE SET c = excluded.c",
            "INSERT INTO a (b, c) VALUES ($1, $2) ON CONFLICT (c) DO UPDATE SET b = excluded.b",
            "INSERT INTO a (b, c) VALUES ($1, $2) ON CONFLICT (b, c) DO UPDATE SET c = excluded.c",
            "INSERT INTO a (b) VALUES ($1) ON CONFLICT (b) DO UPDATE SET c = $2",
        ] {
            assert_eq!(of(alone), None, "{alone}");
        }
    }
}
