//! Callers that go away.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use myelin_storage::{Database, Priority, StorageError, params, testing::on_each_engine};
use tokio::sync::Notify;

use crate::{INSERT, insert, stored, with_numbers};

/// Polls `future` at most `polls` times and drops it; `None` if it was not ready by then.
async fn cancelled_after<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Stores `number` and `-number`.
async fn insert_pair(database: &Database, number: i64) -> Result<(), StorageError> {
    database
        .write("pair", Priority::Interactive, move |tx| {
            Box::pin(async move {
                tx.execute(INSERT, params![number, b"body"]).await?;
                tx.execute(INSERT, params![-number, b"body"]).await?;
                Ok(())
            })
        })
        .await
}

#[tokio::test]
async fn a_caller_dropped_at_any_await_takes_at_most_its_own_write_with_it() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        let others = 100;
        let mut completed = 0;
        for polls in 0..40 {
            let number = polls as i64 + 1;
            let (dropped, other) = tokio::join!(
                cancelled_after(insert_pair(&fresh.database, number), polls),
                insert(&fresh.database, Priority::Interactive, others + number),
            );
            assert_eq!(other, Ok(1));
            completed += usize::from(dropped == Some(Ok(())));
        }
        assert!(completed > 0, "no number of polls was enough");
        // Whatever still runs is finished first.
        fresh.database.close().await;
        let database = Database::open(&fresh.url, &fresh.env).await.unwrap();
        let stored = stored(&database).await;
        for number in 1..=40 {
            assert!(stored.contains(&(others + number)), "{number}");
            assert_eq!(
                stored.contains(&number),
                stored.contains(&-number),
                "{number}"
            );
        }
        let pairs = stored.iter().filter(|number| **number < 0).count();
        assert!(pairs >= completed, "an acknowledged pair is missing");
        database.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_read_dropped_half_way_gives_its_connection_back() {
    on_each_engine(|fresh| async move {
        let fresh = with_numbers(fresh).await;
        // More than there are connections.
        for _ in 0..40 {
            let begun = Arc::new(Notify::new());
            let begin = Arc::clone(&begun);
            let read = fresh.database.read("never ends", move |tx| {
                Box::pin(async move {
                    tx.query("SELECT number FROM numbers", params![]).await?;
                    begin.notify_one();
                    std::future::pending::<()>().await;
                    Ok(())
                })
            });
            tokio::select! {
                _ = read => unreachable!("it never ends"),
                () = begun.notified() => {}
            }
        }
        insert(&fresh.database, Priority::Interactive, 1)
            .await
            .unwrap();
        assert_eq!(stored(&fresh.database).await, [1]);
    })
    .await;
}
