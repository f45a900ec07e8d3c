//! The order of writes on SQLite's one writer.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use myelin_storage::{Database, Priority, StorageError, testing::Fresh};

/// Occupies the writer until the returned sender is dropped or used.
async fn occupy(database: &Database) -> mpsc::Sender<()> {
    let (release, wait) = mpsc::channel();
    let (begun, begin) = tokio::sync::oneshot::channel();
    let database = database.clone();
    let occupied = async move {
        database
            .write::<_, StorageError, _>("occupies the writer", Priority::Interactive, move |_| {
                begun.send(()).ok();
                wait.recv().ok();
                Box::pin(async move { Ok(()) })
            })
            .await
    };
    spawn(occupied);
    begin.await.unwrap();
    release
}

#[expect(clippy::disallowed_methods, reason = "tests have nothing to track")]
fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    tokio::spawn(future)
}

#[tokio::test]
async fn interactive_writes_go_before_bulk_writes() {
    let fresh = Fresh::sqlite().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |priority, name: &'static str| {
        let order = Arc::clone(&order);
        fresh
            .database
            .write::<_, StorageError, _>(name, priority, move |_| {
                order.lock().unwrap().push(name);
                Box::pin(async move { Ok(()) })
            })
    };
    let release = occupy(&fresh.database).await;
    // `join!` polls in this order, so they arrive in it.
    let (a, b, c, d, ()) = tokio::join!(
        note(Priority::Bulk, "first bulk"),
        note(Priority::Bulk, "second bulk"),
        note(Priority::Interactive, "first interactive"),
        note(Priority::Interactive, "second interactive"),
        async { release.send(()).unwrap() },
    );
    assert_eq!((a, b, c, d), (Ok(()), Ok(()), Ok(()), Ok(())));
    assert_eq!(
        *order.lock().unwrap(),
        [
            "first interactive",
            "second interactive",
            "first bulk",
            "second bulk"
        ]
    );
}

#[tokio::test]
async fn a_write_whose_caller_left_while_it_waited_never_runs() {
    let fresh = Fresh::sqlite().await;
    let ran = Arc::new(AtomicBool::new(false));
    let release = occupy(&fresh.database).await;
    let runs = Arc::clone(&ran);
    let write =
        fresh
            .database
            .write::<_, StorageError, _>("abandoned", Priority::Interactive, move |_| {
                runs.store(true, Ordering::SeqCst);
                Box::pin(async move { Ok(()) })
            });
    tokio::select! {
        biased;
        _ = write => unreachable!("the writer is occupied"),
        () = std::future::ready(()) => {}
    }
    release.send(()).unwrap();
    fresh.database.close().await;
    assert!(!ran.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_write_that_waits_for_something_else_is_a_bug_and_does_not_hold_the_writer() {
    let fresh = Fresh::sqlite().await;
    let stuck = fresh
        .database
        .write::<(), StorageError, _>("stuck", Priority::Interactive, |_| {
            Box::pin(std::future::pending())
        })
        .await;
    assert!(matches!(stuck, Err(StorageError::Bug(_))), "{stuck:?}");
}
