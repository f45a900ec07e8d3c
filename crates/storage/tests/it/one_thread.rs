//! A database whose surroundings have no threads: the writer is a task, and all that happens follows from
//! what is polled.

use std::{future::Future, thread};

use myelin_env::{Clock, Env, Network};
use myelin_storage::{
    Database, DatabaseUrl, Priority, StorageError,
    testing::{Fresh, START_MS},
};

use crate::{insert, stored, with_numbers};

/// Awaits something while time goes on.
async fn with_time<T>(clock: &Clock, future: impl Future<Output = T>) -> T {
    let passing = async {
        loop {
            clock.advance_to_next();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        output = future => output,
        () = passing => unreachable!("time does not end"),
    }
}

/// The database of `fresh` in surroundings without threads.
async fn without_threads(fresh: &Fresh) -> (Env, Database) {
    let env = Env::simulated(Clock::manual(START_MS), 7, Network::real());
    let opened = Database::open(&fresh.url, &env);
    let database = with_time(&env.clock, opened).await.unwrap();
    (env, database)
}

async fn closed_with_numbers() -> Fresh {
    let fresh = with_numbers(Fresh::sqlite().await).await;
    fresh.database.close().await;
    fresh
}

#[tokio::test]
async fn a_write_runs_on_the_callers_thread_and_takes_time() {
    let fresh = closed_with_numbers().await;
    assert!(matches!(fresh.url, DatabaseUrl::Sqlite { .. }));
    let (env, database) = without_threads(&fresh).await;
    let here = thread::current().id();
    let before = env.clock.instant();
    let there = database.write("where", Priority::Interactive, |_| {
        Box::pin(async { Ok::<_, StorageError>(thread::current().id()) })
    });
    assert_eq!(with_time(&env.clock, there).await, Ok(here));
    assert!(env.clock.instant() > before);
    with_time(&env.clock, insert(&database, Priority::Bulk, 1))
        .await
        .unwrap();
    assert_eq!(stored(&database).await, [1]);
    with_time(&env.clock, database.close()).await;
}

#[tokio::test]
async fn what_was_not_committed_when_everything_is_killed_is_lost_and_the_rest_is_there() {
    let fresh = closed_with_numbers().await;
    let (env, database) = without_threads(&fresh).await;
    let first = insert(&database, Priority::Interactive, 1);
    with_time(&env.clock, first).await.unwrap();
    // Nothing moves the clock, so the second one waits for the disk.
    let second = insert(&database, Priority::Interactive, 2);
    let (second, ()) = tokio::join!(second, env.tasks.kill());
    assert_eq!(second, Err(StorageError::Closed));
    drop(database);
    let (env, database) = without_threads(&fresh).await;
    assert_eq!(stored(&database).await, [1]);
    with_time(&env.clock, database.close()).await;
}
