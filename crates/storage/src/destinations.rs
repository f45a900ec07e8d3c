//! What is known about the way to other servers: whether requests to them fail, and until when to
//! leave them alone.

use crate::{Row, StorageError, Tx};

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
    tx.execute(PUT_FAILING, values).await.map(drop)
}

/// Records that requests to `server` work.
///
/// # Errors
/// Any [`StorageError`].
pub async fn clear_failing(tx: &mut Tx, server: &str) -> Result<(), StorageError> {
    tx.execute(CLEAR_FAILING, params![server]).await.map(drop)
}

/// Up to `limit` failing servers that may be tried again at `now_ms`, the longest due first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn due(tx: &mut Tx, now_ms: u64, limit: u32) -> Result<Vec<String>, StorageError> {
    let rows = tx.query(DUE, params![now_ms, limit]).await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
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
