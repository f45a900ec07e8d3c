//! The one table of the work that is done again and again in the background.
//!
//! What is done because something happened (sending to other servers, judging what was received,
//! completing partial joins) has no place in it: `rooms` begins it when it happens, and goes on with
//! it when the server starts. Each takes up where its durable rows say it was.

use std::time::Duration;

use myelin_core::number::EventNr;
use myelin_env::Env;
use myelin_rooms::thin_outbox;
use myelin_storage::{
    BoxFuture, Database, Priority, StorageError, client_transactions, history_purges,
    old_notifications::{self, Bounds, Progress},
    queues, room_deletions, staged, to_device,
};

use crate::telemetry;

/// For how long a repeated request of a client, and a repeated transaction of another server, is
/// known to be one.
const TRANSACTION_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// For how long a message to a device is known to be a repeated one. A server that could not be
/// answered repeats it after a week at the latest, and more than once.
const MESSAGE_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// For how long administrators can ask what became of a deletion.
const DELETION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// For how long users are told again of what they have read, and unread events are kept beyond those that are
/// counted.
const NOTIFICATION_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Work that goes on by itself. A round may be interrupted and repeated anywhere, and takes no input
/// but the clock.
pub struct Worker {
    /// What it is called in logs and figures.
    pub name: &'static str,
    /// How long it pauses.
    pub every: Duration,
    /// One round.
    run: fn(Env, Database) -> BoxFuture<'static, Result<(), StorageError>>,
}

/// All of them.
pub const WORKERS: &[Worker] = &[
    Worker {
        name: "forget old transactions",
        every: Duration::from_secs(3600),
        run: |env, database| Box::pin(forget_old_transactions(env, database)),
    },
    Worker {
        name: "thin the outbox",
        every: Duration::from_secs(600),
        run: |env, database| Box::pin(thin_outbox(env, database)),
    },
    Worker {
        name: "forget old notifications",
        every: Duration::from_secs(6 * 3600),
        run: |env, database| Box::pin(forget_old_notifications(env, database)),
    },
    Worker {
        name: "count what waits",
        every: Duration::from_secs(15),
        run: |_, database| Box::pin(count_what_waits(database)),
    },
    Worker {
        name: "metrics upkeep",
        every: Duration::from_secs(5),
        run: |_, _| {
            if let Some(recorder) = telemetry::recorder() {
                recorder.run_upkeep();
            }
            Box::pin(std::future::ready(Ok(())))
        },
    },
];

/// Starts all workers. They end with the server. Figures say when each last succeeded.
pub(crate) fn start(env: &Env, database: &Database) {
    for worker in WORKERS {
        let (task_env, database) = (env.clone(), database.clone());
        // It is tracked; nobody waits for it.
        drop(env.tasks.spawn(worker.name, async move {
            let stopping = task_env.tasks.stopping();
            loop {
                let pause = task_env.clock.sleep(worker.every);
                if stopping.run_until_cancelled(pause).await.is_none() {
                    return;
                }
                let name = worker.name;
                match (worker.run)(task_env.clone(), database.clone()).await {
                    Ok(()) => {
                        let now_s = task_env.clock.now_ms() as f64 / 1000.0;
                        let gauge = "myelin_worker_last_success_timestamp_seconds";
                        metrics::gauge!(gauge, "worker" => name).set(now_s);
                    }
                    Err(StorageError::Closed) => return,
                    Err(error) => {
                        metrics::counter!("myelin_worker_failures_total", "worker" => name)
                            .increment(1);
                        tracing::warn!(name, %error, "a worker failed; it will try again");
                    }
                }
            }
        }));
    }
}

/// In many small transactions, so that nothing else waits long.
async fn forget_old_notifications(env: Env, database: Database) -> Result<(), StorageError> {
    let now_ms = env.clock.now_ms();
    let then_ms = now_ms.saturating_sub(NOTIFICATION_LIFETIME.as_millis() as u64);
    let newest = database.write("notification marks", Priority::Bulk, move |tx| {
        Box::pin(async move { old_notifications::newest_at(tx, now_ms, then_ms).await })
    });
    let newest: Option<EventNr> = newest.await?;
    let Some(newest) = newest else {
        return Ok(());
    };
    let bounds = Bounds::up_to(newest);
    let mut after = None;
    while !env.tasks.stopping().is_cancelled() {
        let some = database.write("old notifications", Priority::Bulk, move |tx| {
            Box::pin(async move { old_notifications::prune_some(tx, after, bounds).await })
        });
        let progress: Result<Progress, StorageError> = some.await;
        match progress? {
            Progress::Done => break,
            Progress::GoOn(done) => after = done,
        }
    }
    Ok(())
}

async fn forget_old_transactions(env: Env, database: Database) -> Result<(), StorageError> {
    let now_ms = env.clock.now_ms();
    let before_ms = now_ms.saturating_sub(TRANSACTION_LIFETIME.as_millis() as u64);
    let messages_before_ms = now_ms.saturating_sub(MESSAGE_LIFETIME.as_millis() as u64);
    let deletions_before_ms = now_ms.saturating_sub(DELETION_LIFETIME.as_millis() as u64);
    database
        .write("forget old transactions", Priority::Bulk, move |tx| {
            Box::pin(async move {
                client_transactions::delete_before(tx, before_ms).await?;
                staged::delete_transactions(tx, before_ms).await?;
                to_device::delete_taken(tx, messages_before_ms).await?;
                room_deletions::delete_before(tx, deletions_before_ms).await?;
                history_purges::delete_before(tx, deletions_before_ms).await?;
                Ok(())
            })
        })
        .await
}

async fn count_what_waits(database: Database) -> Result<(), StorageError> {
    let waiting = database
        .read("count what waits", |tx| Box::pin(queues::count(tx)))
        .await?;
    for (queue, rows) in [
        ("staged events", waiting.staged),
        ("outbox", waiting.outbox),
        ("EDUs", waiting.edus),
    ] {
        metrics::gauge!("myelin_queued", "queue" => queue).set(rows as f64);
    }
    for (state, servers) in [("behind", waiting.behind), ("failing", waiting.failing)] {
        metrics::gauge!("myelin_destinations", "state" => state).set(servers as f64);
    }
    Ok(())
}
