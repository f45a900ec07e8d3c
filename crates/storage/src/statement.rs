//! Statements: SQL that both engines take, as constants beside the functions that use them.
//!
//! `$1`, `$2` … are parameters; `BIGINT`, `TEXT`, `BYTEA` and `BOOLEAN` the types. Sums need a cast
//! (`CAST(SUM(x) AS BIGINT)`), because PostgreSQL's are of another type. A set of values is
//! `int_list($n)`, `text_list($n)` or `blob_list($n)`: a table with the one column `value`, for
//! `WHERE x IN int_list($1)` and for `FROM blob_list($1) AS wanted JOIN … ON … = wanted.value`.
//! Beside those, only `WITHOUT ROWID` and the key types of migrations differ ([`schema`]).

use std::borrow::Cow;

/// Declares SQL constants, and `STATEMENTS`, a slice of all of them with their names. `lib.rs` collects
/// the slices so that a test prepares every statement on both engines.
///
/// ```text
/// statements! {
///     /// A name is taken only once.
///     INSERT_ACCOUNT = "INSERT INTO accounts (user_id) VALUES ($1) ON CONFLICT DO NOTHING";
/// }
/// ```
#[macro_export]
macro_rules! statements {
    ($($(#[$attribute:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$attribute])* pub(crate) const $name: &str = $sql;)*
        /// Every statement of this file with its name.
        #[cfg(test)]
        pub(crate) const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

/// Which SQL an engine speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// The list functions, with PostgreSQL's type of the array.
const LISTS: [(&str, &str); 3] = [
    ("int_list(", "bigint"),
    ("text_list(", "text"),
    ("blob_list(", "bytea"),
];

/// `sql` with its lists in the engine's own words.
pub(crate) fn with_lists(sql: &str, dialect: Dialect) -> Cow<'_, str> {
    let mut sql = Cow::Borrowed(sql);
    for (name, array_type) in LISTS {
        while let Some(start) = sql.find(name) {
            let number = start + name.len();
            let Some(end) = sql[number..].find(')').map(|length| number + length) else {
                // Not a statement; preparing it will say so.
                break;
            };
            let parameter = &sql[number..end];
            let table = match dialect {
                Dialect::Sqlite => format!("(SELECT value FROM rarray({parameter}))"),
                Dialect::Postgres => format!(
                    "(SELECT value FROM unnest({parameter}::{array_type}[]) AS list (value)){}",
                    missing_alias(&sql[..start], &sql[end + 1..])
                ),
            };
            let rewritten = format!("{}{table}{}", &sql[..start], &sql[end + 1..]);
            sql = Cow::Owned(rewritten);
        }
    }
    sql
}

/// PostgreSQL wants a name for a table in `FROM`, also where nothing refers to it.
fn missing_alias(before: &str, after: &str) -> &'static str {
    let before = before.trim_end();
    let is_table = before.ends_with("FROM") || before.ends_with("JOIN");
    if is_table && !after.trim_start().starts_with("AS ") {
        " AS list"
    } else {
        ""
    }
}

/// A migration's text in the engine's own words. SQLite stores a table in one tree, not two, if its
/// key is called `INTEGER` (64 bits there, 32 on PostgreSQL) or if it is `WITHOUT ROWID` (unknown to
/// PostgreSQL, and needless there).
pub(crate) fn schema(sql: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => sql
            .replace(
                "BIGINT NOT NULL PRIMARY KEY",
                "INTEGER NOT NULL PRIMARY KEY",
            )
            .replace("BIGINT PRIMARY KEY", "INTEGER PRIMARY KEY"),
        Dialect::Postgres => sql.replace(" WITHOUT ROWID", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::{Dialect, schema, with_lists};
    use crate::testing::on_each_engine;

    #[tokio::test]
    async fn every_statement_is_valid_on_each_engine() {
        on_each_engine(|fresh| async move {
            for (file, statements) in crate::STATEMENTS {
                for (name, sql) in *statements {
                    let prepared = fresh
                        .database
                        .read("prepare", move |tx| {
                            Box::pin(async move { tx.prepare(sql).await })
                        })
                        .await;
                    assert_eq!(prepared, Ok(()), "{file}: {name} in {:?}", fresh.url);
                }
            }
        })
        .await;
    }

    #[test]
    fn lists_become_tables_of_the_engine() {
        let sql =
            "SELECT a FROM text_list($2) AS b WHERE c IN int_list($1) AND d NOT IN int_list($1)";
        assert_eq!(
            with_lists(sql, Dialect::Sqlite),
            "SELECT a FROM (SELECT value FROM rarray($2)) AS b \
             WHERE c IN (SELECT value FROM rarray($1)) AND d NOT IN (SELECT value FROM rarray($1))"
        );
        assert_eq!(
            with_lists("x IN blob_list($12)", Dialect::Postgres),
            "x IN (SELECT value FROM unnest($12::bytea[]) AS list (value))"
        );
        assert_eq!(
            with_lists("IN (SELECT value FROM int_list($1))", Dialect::Postgres),
            "IN (SELECT value FROM (SELECT value FROM unnest($1::bigint[]) AS list (value)) AS list)"
        );
    }

    #[test]
    fn only_what_an_engine_does_not_know_is_changed_in_a_schema() {
        let sql =
            "CREATE TABLE a (b BIGINT NOT NULL PRIMARY KEY, c BIGINT NOT NULL) WITHOUT ROWID;";
        assert_eq!(
            schema(sql, Dialect::Sqlite),
            "CREATE TABLE a (b INTEGER NOT NULL PRIMARY KEY, c BIGINT NOT NULL) WITHOUT ROWID;"
        );
        assert_eq!(
            schema(sql, Dialect::Postgres),
            "CREATE TABLE a (b BIGINT NOT NULL PRIMARY KEY, c BIGINT NOT NULL);"
        );
    }
}
