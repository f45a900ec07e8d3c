//! EDUs that other servers must get and that a restart must not lose: a row for each server.

use myelin_core::number::StreamPosition;
use ruma::ServerName;

use crate::{StorageError, Tx};

statements! {
    /// One more EDU for a server.
    PUT_EDU = "INSERT INTO edu_outbox (server, position, edu) VALUES ($1, $2, $3)";
    /// Those beyond the newest `$2` go.
    TRIM_EDUS = "DELETE FROM edu_outbox WHERE server = $1 AND position <= (
        SELECT position FROM edu_outbox WHERE server = $1 ORDER BY position DESC LIMIT 1 OFFSET $2)";
    /// What waits for a server.
    EDUS = "SELECT position, edu FROM edu_outbox WHERE server = $1 ORDER BY position LIMIT $2";
    /// The server has these.
    DELETE_EDUS = "DELETE FROM edu_outbox WHERE server = $1 AND position IN int_list($2)";
    /// The servers for which something waits.
    SERVERS_WITH_EDUS = "SELECT DISTINCT server FROM edu_outbox ORDER BY server";
}

/// How many wait for one server at most. Of a server that is away for longer, the oldest are lost.
pub const MOST_WAITING: usize = 10_000;

/// An EDU that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingEdu {
    /// Its place among those of the server.
    pub position: StreamPosition,
    /// The whole EDU as JSON.
    pub edu: Vec<u8>,
}

/// Queues an EDU for a server, and answers how many older ones had to go for it.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    server: &ServerName,
    position: StreamPosition,
    edu: &[u8],
) -> Result<u64, StorageError> {
    tx.run(PUT_EDU, params![server.as_str(), position, edu])
        .await?;
    tx.execute(TRIM_EDUS, params![server.as_str(), MOST_WAITING])
        .await
}

/// The oldest EDUs that wait for a server, in order.
///
/// # Errors
/// Any [`StorageError`].
pub async fn waiting(
    tx: &mut Tx,
    server: &ServerName,
    limit: usize,
) -> Result<Vec<WaitingEdu>, StorageError> {
    let rows = tx.query(EDUS, params![server.as_str(), limit]).await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingEdu {
                position: StreamPosition(row.int(0)?),
                edu: row.blob(1)?.to_vec(),
            })
        })
        .collect()
}

/// Removes what a server was given. Others, even older ones, may have been written meanwhile.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete(
    tx: &mut Tx,
    server: &ServerName,
    positions: &[StreamPosition],
) -> Result<(), StorageError> {
    let positions: Vec<i64> = positions.iter().map(|position| position.0).collect();
    tx.run(DELETE_EDUS, params![server.as_str(), positions])
        .await?;
    Ok(())
}

/// The servers for which something waits.
///
/// # Errors
/// Any [`StorageError`].
pub async fn servers(tx: &mut Tx) -> Result<Vec<String>, StorageError> {
    let rows = tx.query(SERVERS_WITH_EDUS, params![]).await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::{MOST_WAITING, StreamPosition, delete, put, servers, waiting};
    use crate::{Priority, StorageError, testing::on_each_engine};
    use ruma::server_name;

    #[tokio::test]
    async fn edus_wait_in_order_until_they_are_delivered() {
        on_each_engine(|fresh| async move {
            let (a, b) = (server_name!("a.example"), server_name!("b.example"));
            let write = fresh.database.write::<_, StorageError, _>(
                "edus",
                Priority::Interactive,
                move |tx| {
                    Box::pin(async move {
                        for (server, position) in [(a, 3), (b, 4), (a, 1), (a, 2)] {
                            put(tx, server, StreamPosition(position), b"{}").await?;
                        }
                        // One was written after it was read what waits.
                        delete(tx, a, &[StreamPosition(1), StreamPosition(3)]).await?;
                        delete(tx, b, &[StreamPosition(4)]).await?;
                        Ok((waiting(tx, a, 10).await?, servers(tx).await?))
                    })
                },
            );
            let (left, servers) = write.await.unwrap();
            let positions: Vec<_> = left.iter().map(|edu| edu.position).collect();
            assert_eq!(positions, [StreamPosition(2)]);
            assert_eq!(servers, ["a.example"]);
        })
        .await;
    }

    #[tokio::test]
    async fn what_waits_for_a_server_is_bounded() {
        on_each_engine(|fresh| async move {
            let server = server_name!("a.example");
            let write =
                fresh
                    .database
                    .write::<_, StorageError, _>("edus", Priority::Bulk, move |tx| {
                        Box::pin(async move {
                            let rows = "INSERT INTO edu_outbox (server, position, edu)
                                SELECT $1, value, $2 FROM int_list($3)";
                            let edu: &[u8] = b"{}";
                            let full: Vec<i64> = (1..=MOST_WAITING as i64).collect();
                            tx.run(rows, params![server.as_str(), edu, full]).await?;
                            let end = StreamPosition(MOST_WAITING as i64 + 1);
                            let gone = put(tx, server, end, edu).await?;
                            Ok((gone, waiting(tx, server, 1).await?))
                        })
                    });
            let (gone, oldest) = write.await.unwrap();
            assert_eq!(gone, 1);
            assert_eq!(oldest[0].position, StreamPosition(2));
        })
        .await;
    }
}
