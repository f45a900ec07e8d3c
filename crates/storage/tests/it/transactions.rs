//! What a transaction promises.

use myelin_storage::{Priority, StorageError, params, testing::Fresh};

#[tokio::test]
async fn a_write_is_seen_by_later_reads() {
    let fresh = Fresh::sqlite().await;
    fresh
        .database
        .write::<_, StorageError, _>("test", Priority::Interactive, |tx| {
            Box::pin(async move {
                tx.execute(
                    "INSERT INTO settings (value, name) VALUES ($2, $1)",
                    params!["name", b"value"],
                )
                .await
            })
        })
        .await
        .unwrap();
    let rows = fresh
        .database
        .read("test", |tx| {
            Box::pin(async move {
                tx.query(
                    "SELECT value FROM settings WHERE name IN text_list($1)",
                    params![vec!["name"]],
                )
                .await
            })
        })
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].blob(0).unwrap(), b"value");
}
