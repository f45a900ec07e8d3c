//! Tests of the executor through its public interface.

mod cancellation;
mod committer;
mod durability;
mod holding;
mod one_thread;
mod opening;
mod tls;
mod transactions;

use myelin_storage::{Database, Priority, StorageError, params, testing::Fresh};

fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, StorageError>, expected: &[&str]) {
    match outcome {
        Err(StorageError::Refused(reason)) => {
            for part in expected {
                assert!(reason.contains(part), "{part}: {reason}");
            }
        }
        other => panic!("{other:?}"),
    }
}

/// Makes a table of numbered blobs.
async fn with_numbers(fresh: Fresh) -> Fresh {
    let made = fresh
        .database
        .write::<_, StorageError, _>("make a table", Priority::Interactive, |tx| {
            Box::pin(async move {
                tx.execute(
                    "CREATE TABLE numbers (number BIGINT NOT NULL PRIMARY KEY, body BYTEA)",
                    params![],
                )
                .await
            })
        })
        .await;
    made.unwrap();
    fresh
}

/// Stores a number.
async fn insert(database: &Database, priority: Priority, number: i64) -> Result<u64, StorageError> {
    database
        .write("insert", priority, move |tx| {
            Box::pin(async move { tx.execute(INSERT, params![number, b"body"]).await })
        })
        .await
}

const INSERT: &str = "INSERT INTO numbers (number, body) VALUES ($1, $2)";

/// All numbers stored, in order.
async fn stored(database: &Database) -> Vec<i64> {
    database
        .read("all numbers", |tx| {
            Box::pin(async move {
                let rows = tx
                    .query("SELECT number FROM numbers ORDER BY number", params![])
                    .await?;
                rows.iter().map(|row| row.int(0)).collect()
            })
        })
        .await
        .unwrap()
}
