//! What is known about the way to other servers: whether requests to them fail, and until when to
//! leave them alone.

use myelin_core::number::StreamPosition;

use crate::{Row, StorageError, Tx, statement::contains};

/// Which servers are listed: those whose names are like `$1`.
macro_rules! wanted {
    () => {
        "WHERE (CAST($1 AS TEXT) IS NULL OR d.server LIKE $1 ESCAPE '\\')"
    };
}

/// What a list is ordered by, if not by name.
macro_rules! key {
    () => {
        "CASE $2 WHEN 'failure_ts' THEN COALESCE(d.failing_since, 0)
            WHEN 'retry_last_ts' THEN d.retry_at - d.wait_ms WHEN 'retry_interval' THEN d.wait_ms
            WHEN 'last_successful_stream_ordering' THEN COALESCE(c.position, 0) ELSE 0 END"
    };
}

statements! {
    /// Whether requests to a server fail.
    FAILING = "SELECT failing_since, retry_at, wait_ms FROM destinations
        WHERE server = $1 AND failing_since IS NOT NULL";
    /// A failure, the first or a further one.
    PUT_FAILING = "INSERT INTO destinations (server, failing_since, retry_at, wait_ms)
        VALUES ($1, $2, $3, $4)
        ON CONFLICT (server) DO UPDATE SET failing_since = excluded.failing_since,
            retry_at = excluded.retry_at, wait_ms = excluded.wait_ms";
    /// Requests to a server work again.
    CLEAR_FAILING = "UPDATE destinations SET failing_since = NULL, retry_at = 0, wait_ms = 0
        WHERE server = $1";
    /// Servers to which requests have failed.
    LIST = concat!("SELECT d.server, d.failing_since, d.retry_at, d.wait_ms, c.position
        FROM destinations d LEFT JOIN delivery_cursors c ON c.server = d.server ", wanted!(), "
        ORDER BY CASE WHEN $2 = 'destination' AND NOT $3 THEN d.server ELSE '' END,
            CASE WHEN $2 = 'destination' AND $3 THEN d.server ELSE '' END DESC,
            CASE WHEN $3 THEN 0 ELSE ", key!(), " END, CASE WHEN $3 THEN ", key!(), " ELSE 0 END DESC, d.server
        LIMIT $4 OFFSET $5");
    /// How many servers there are of a name.
    COUNT = concat!("SELECT COUNT(*) FROM destinations d ", wanted!());
    /// One of them.
    ONE = "SELECT d.server, d.failing_since, d.retry_at, d.wait_ms, c.position
        FROM destinations d LEFT JOIN delivery_cursors c ON c.server = d.server WHERE d.server = $1";
    /// Failing servers that may be tried again.
    DUE = "SELECT server FROM destinations WHERE failing_since IS NOT NULL AND retry_at <= $1
        ORDER BY retry_at LIMIT $2";
}

/// How requests to a server fail. Times are Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// When the first of the failures was.
    pub since_ms: u64,
    /// Before this moment the server is left alone.
    pub retry_at_ms: u64,
    /// How long that wait is.
    pub wait_ms: u64,
}

/// How requests to `server` fail; `None` if they don't, or if none was made yet.
///
/// # Errors
/// Any [`StorageError`].
pub async fn failing(tx: &mut Tx, server: &str) -> Result<Option<Failing>, StorageError> {
    let row = tx.query_opt(FAILING, params![server]).await?;
    row.as_ref().map(read_failing).transpose()
}

/// Records that requests to `server` fail.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put_failing(tx: &mut Tx, server: &str, failing: Failing) -> Result<(), StorageError> {
    let values = params![
        server,
        failing.since_ms,
        failing.retry_at_ms,
        failing.wait_ms
    ];
    tx.run(PUT_FAILING, values).await
}

/// Records that requests to `server` work.
///
/// # Errors
/// Any [`StorageError`].
pub async fn clear_failing(tx: &mut Tx, server: &str) -> Result<(), StorageError> {
    tx.run(CLEAR_FAILING, params![server]).await
}

/// Up to `limit` failing servers that may be tried again at `now_ms`, the longest due first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn due(tx: &mut Tx, now_ms: u64, limit: u32) -> Result<Vec<String>, StorageError> {
    let rows = tx.query(DUE, params![now_ms, limit]).await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
}

/// A server to which requests have failed, lately or long ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its name.
    pub server: String,
    /// How requests fail, if they do.
    pub failing: Option<Failing>,
    /// Up to which position it has what it must get, if it is behind.
    pub position: Option<StreamPosition>,
}

/// What servers are ordered by in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortBy {
    /// Their names.
    Name,
    /// Since when requests fail.
    FailingSince,
    /// When the last request failed, about.
    LastFailure,
    /// How long they are left alone.
    Wait,
    /// How far they have got.
    Position,
}

impl SortBy {
    fn name(self) -> &'static str {
        match self {
            Self::Name => "destination",
            Self::FailingSince => "failure_ts",
            Self::LastFailure => "retry_last_ts",
            Self::Wait => "retry_interval",
            Self::Position => "last_successful_stream_ordering",
        }
    }
}

/// Which servers a list has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationsWanted {
    /// Part of their names.
    pub name: Option<String>,
    /// What they are ordered by.
    pub sort_by: SortBy,
    /// Whether the last comes first.
    pub descending: bool,
    /// So many are left out at the beginning.
    pub skip: u64,
    /// So many at most.
    pub limit: u64,
}

/// Part of the list of servers to which requests have failed, and how many it has in all.
///
/// # Errors
/// Any [`StorageError`].
pub async fn list(
    tx: &mut Tx,
    wanted: &DestinationsWanted,
) -> Result<(Vec<Destination>, u64), StorageError> {
    let name = wanted.name.as_deref().map(contains);
    let values = params![
        name.as_deref(),
        wanted.sort_by.name(),
        wanted.descending,
        wanted.limit,
        wanted.skip
    ];
    let rows = tx.query(LIST, values).await?;
    let total = tx.query_opt(COUNT, params![name.as_deref()]).await?;
    let total = total.map_or(Ok(0), |row| row.int(0))?.unsigned_abs();
    Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
}

/// A server to which requests have failed.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_name(tx: &mut Tx, server: &str) -> Result<Option<Destination>, StorageError> {
    let row = tx.query_opt(ONE, params![server]).await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &Row) -> Result<Destination, StorageError> {
    let ms = |column| Ok::<_, StorageError>(row.int(column)?.max(0).unsigned_abs());
    let failing = match row.opt_int(1)? {
        None => None,
        Some(_) => Some(Failing {
            since_ms: ms(1)?,
            retry_at_ms: ms(2)?,
            wait_ms: ms(3)?,
        }),
    };
    Ok(Destination {
        server: row.text(0)?.to_owned(),
        failing,
        position: row.opt_int(4)?.map(StreamPosition),
    })
}

fn read_failing(row: &Row) -> Result<Failing, StorageError> {
    let ms = |column| Ok::<_, StorageError>(row.int(column)?.max(0).unsigned_abs());
    Ok(Failing {
        since_ms: ms(0)?,
        retry_at_ms: ms(1)?,
        wait_ms: ms(2)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Failing, clear_failing, due, failing, put_failing};
    use crate::{Priority, StorageError, testing::on_each_engine};

    fn until(retry_at_ms: u64) -> Failing {
        Failing {
            since_ms: 1,
            retry_at_ms,
            wait_ms: 600_000,
        }
    }

    #[tokio::test]
    async fn failures_are_recorded_replaced_and_cleared() {
        on_each_engine(|fresh| async move {
            let seen = fresh
                .database
                .write::<_, StorageError, _>("failing", Priority::Bulk, |tx| {
                    Box::pin(async move {
                        let before = failing(tx, "a").await?;
                        clear_failing(tx, "a").await?;
                        for (server, at) in [("a", 9), ("b", 20), ("c", 10), ("d", 5), ("a", 30)] {
                            put_failing(tx, server, until(at)).await?;
                        }
                        clear_failing(tx, "d").await?;
                        let after = [failing(tx, "a").await?, failing(tx, "d").await?];
                        Ok((before, after, due(tx, 20, 10).await?, due(tx, 30, 2).await?))
                    })
                })
                .await;
            let (before, after, due, first_due) = seen.unwrap();
            assert_eq!((before, after), (None, [Some(until(30)), None]));
            assert_eq!(
                (due, first_due),
                (vec!["c".into(), "b".into()], vec!["c".into(), "b".into()])
            );
        })
        .await;
    }
}
