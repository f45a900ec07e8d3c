//! How much waits in the database, for figures.

use crate::{StorageError, Tx};

/// More than so many of a kind are not counted.
pub const MOST_COUNTED: u32 = 100_000;

statements! {
    /// Everything at once. What is counted stops at `$1`, so that a long queue does not grow dearer.
    COUNT_QUEUES = "SELECT
        (SELECT COUNT(*) FROM (SELECT 1 FROM staged_pdus LIMIT $1) staged),
        (SELECT COUNT(*) FROM (SELECT 1 FROM outbox LIMIT $1) events),
        (SELECT COUNT(*) FROM (SELECT 1 FROM edu_outbox LIMIT $1) edus),
        (SELECT COUNT(*) FROM (SELECT 1 FROM delivery_cursors LIMIT $1) behind),
        (SELECT COUNT(*) FROM (SELECT 1 FROM destinations WHERE failing_since IS NOT NULL LIMIT $1) failing)";
}

/// How much waits, each up to [`MOST_COUNTED`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Acknowledged events of other servers that are to be judged.
    pub staged: i64,
    /// Events of this server that are kept for other servers.
    pub outbox: i64,
    /// EDUs that other servers must get.
    pub edus: i64,
    /// Servers that don't have all of the outbox yet.
    pub behind: i64,
    /// Servers to which requests fail.
    pub failing: i64,
}

/// Counts what waits.
///
/// # Errors
/// Any [`StorageError`].
pub async fn count(tx: &mut Tx) -> Result<Queues, StorageError> {
    let row = tx.query_opt(COUNT_QUEUES, params![MOST_COUNTED]).await?;
    let Some(row) = row else {
        return Ok(Queues::default());
    };
    Ok(Queues {
        staged: row.int(0)?,
        outbox: row.int(1)?,
        edus: row.int(2)?,
        behind: row.int(3)?,
        failing: row.int(4)?,
    })
}

#[cfg(test)]
mod tests {
    use myelin_core::number::{EventNr, RoomNr, SnapshotNr, StreamPosition};
    use ruma::server_name;

    use super::{Queues, count};
    use crate::{
        Priority, StorageError,
        destinations::{self, Failing},
        edu_outbox,
        outbox::{self, OutboxRow},
        testing::on_each_engine,
    };

    #[tokio::test]
    async fn what_waits_is_counted_by_kind() {
        on_each_engine(|fresh| async move {
            let counted: Result<Queues, StorageError> = fresh
                .database
                .write("count", Priority::Interactive, |tx| {
                    Box::pin(async move {
                        assert_eq!(count(tx).await?, Queues::default());
                        for position in 1..=3 {
                            let row = OutboxRow {
                                position: StreamPosition(position),
                                event: EventNr(position),
                                room: RoomNr(1),
                                snapshot: SnapshotNr(1),
                                further: Vec::new(),
                                made_ms: 1,
                            };
                            outbox::put(tx, &row).await?;
                        }
                        let (a, b) = (server_name!("a.example"), server_name!("b.example"));
                        edu_outbox::put(tx, a, StreamPosition(1), b"{}").await?;
                        edu_outbox::put(tx, b, StreamPosition(2), b"{}").await?;
                        outbox::put_cursor(tx, a.as_str(), StreamPosition(1)).await?;
                        let failing = Failing {
                            since_ms: 1,
                            retry_at_ms: 2,
                            wait_ms: 1,
                        };
                        destinations::put_failing(tx, a.as_str(), failing).await?;
                        destinations::put_failing(tx, b.as_str(), failing).await?;
                        destinations::clear_failing(tx, b.as_str()).await?;
                        count(tx).await
                    })
                })
                .await;
            let expected = Queues {
                staged: 0,
                outbox: 3,
                edus: 2,
                behind: 1,
                failing: 1,
            };
            assert_eq!(counted, Ok(expected));
        })
        .await;
    }
}
