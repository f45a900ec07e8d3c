//! Statements: SQL that both engines take, as constants beside the functions that use them.
//!
//! `$1`, `$2` … are parameters; `BIGINT`, `TEXT`, `BYTEA` and `BOOLEAN` the types. Sums need a cast
//! (`CAST(SUM(x) AS BIGINT)`), because PostgreSQL's are of another type. A set of values is
//! `int_list($n)`, `text_list($n)` or `blob_list($n)`: a table with the one column `value`, for
//! `WHERE x IN int_list($1)` and for `FROM blob_list($1) AS wanted JOIN … ON … = wanted.value`.
//! An index of words (`CREATE TEXT INDEX name` in a migration) is a table of `rowid` and `words`: what is put
//! there is a text, the words with spaces between them, and `words_match(name, $n)` holds a query against it, in
//! PostgreSQL's form: `'word' & 'begin':* & ( 'a' | 'b' )`. Words and queries consist of letters, digits and `!`.
//! A statement with a query has a list among its parameters.
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

/// Text that stands for itself in a pattern.
pub(crate) fn escaped(part: &str) -> String {
    let mut pattern = String::new();
    for character in part.to_lowercase().chars() {
        if matches!(character, '\\' | '%' | '_') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// A pattern for all that has a text in it, for `LIKE … ESCAPE '\'` over lower case.
pub(crate) fn contains(part: &str) -> String {
    format!("%{}%", escaped(part))
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

/// `sql` with its functions in the engine's own words.
pub(crate) fn translated(sql: &str, dialect: Dialect) -> Cow<'_, str> {
    const MATCH: &str = "words_match(";
    let sql = with_lists(sql, dialect);
    let Some(start) = sql.find(MATCH) else {
        return sql;
    };
    let Some(length) = sql[start..].find(')') else {
        return sql;
    };
    let matched = words_match(&sql[start + MATCH.len()..start + length], dialect);
    let after = &sql[start + length + 1..];
    Cow::Owned(format!("{}{matched}{after}", &sql[..start]))
}

fn words_match(arguments: &str, dialect: Dialect) -> String {
    let (table, parameter) = arguments.split_once(", ").unwrap_or((arguments, ""));
    match dialect {
        Dialect::Sqlite => {
            let replaced = [
                ("''''", "'\"'"),
                ("':*'", "'*'"),
                ("' & '", "' AND '"),
                ("' | '", "' OR '"),
            ]
            .iter()
            .fold(parameter.to_owned(), |query, (from, to)| {
                format!("replace({query}, {from}, {to})")
            });
            format!("{table} MATCH {replaced}")
        }
        Dialect::Postgres => format!("{table}.words @@ CAST(CAST({parameter} AS TEXT) AS tsquery)"),
    }
}

/// `sql` with its lists in the engine's own words.
fn with_lists(sql: &str, dialect: Dialect) -> Cow<'_, str> {
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
    let sql = with_text_index(sql, dialect);
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

/// An index of words is a virtual table of SQLite's that holds nothing but the index, and a table with an
/// index for PostgreSQL.
fn with_text_index(sql: &str, dialect: Dialect) -> Cow<'_, str> {
    const CREATE: &str = "CREATE TEXT INDEX ";
    let Some((before, rest)) = sql.split_once(CREATE) else {
        return Cow::Borrowed(sql);
    };
    let (name, after) = rest.split_once(';').unwrap_or((rest, ""));
    let created = match dialect {
        Dialect::Sqlite => format!(
            "CREATE VIRTUAL TABLE {name} USING fts5(words, content='', contentless_delete=1, \
             detail=none, tokenize=\"ascii tokenchars '!'\");"
        ),
        Dialect::Postgres => format!(
            "CREATE TABLE {name} (rowid BIGINT NOT NULL PRIMARY KEY, words TSVECTOR NOT NULL); \
             CREATE INDEX {name}_by_word ON {name} USING GIN (words);"
        ),
    };
    Cow::Owned(format!("{before}{created}{after}"))
}

#[cfg(test)]
mod tests {
    use super::{Dialect, schema, translated};
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
            translated(sql, Dialect::Sqlite),
            "SELECT a FROM (SELECT value FROM rarray($2)) AS b \
             WHERE c IN (SELECT value FROM rarray($1)) AND d NOT IN (SELECT value FROM rarray($1))"
        );
        assert_eq!(
            translated("x IN blob_list($12)", Dialect::Postgres),
            "x IN (SELECT value FROM unnest($12::bytea[]) AS list (value))"
        );
        assert_eq!(
            translated("IN (SELECT value FROM int_list($1))", Dialect::Postgres),
            "IN (SELECT value FROM (SELECT value FROM unnest($1::bigint[]) AS list (value)) AS list)"
        );
    }

    #[test]
    fn words_are_matched_in_the_words_of_the_engine() {
        let matches = "WHERE words_match(x, $1) AND a = 1";
        assert_eq!(
            translated(matches, Dialect::Postgres),
            "WHERE x.words @@ CAST(CAST($1 AS TEXT) AS tsquery) AND a = 1"
        );
        let sqlite = translated(matches, Dialect::Sqlite);
        assert!(sqlite.starts_with("WHERE x MATCH replace("), "{sqlite}");
        assert!(sqlite.ends_with(", ' | ', ' OR ') AND a = 1"), "{sqlite}");
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
