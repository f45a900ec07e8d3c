//! Tasks that outlive their callers, and their end.

use std::{sync::Arc, time::Duration};

use myelin_env::{Clock, StillRunning, TaskFailed, Tasks, contain};
use tokio::sync::{Notify, oneshot};

const GRACE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_task_gives_its_result() {
    let tasks = Tasks::new(Clock::manual(0));
    assert_eq!(tasks.spawn("adds", async { 3 + 4 }).await, Ok(7));
}

#[tokio::test]
async fn a_task_goes_on_when_its_handle_is_dropped() {
    let tasks = Tasks::new(Clock::manual(0));
    let (go_on, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, finish) = (Arc::clone(&go_on), Arc::clone(&done));
    let task = tasks.spawn("goes on", async move {
        wait.notified().await;
        finish.notify_one();
    });
    drop(task);
    go_on.notify_one();
    done.notified().await;
}

#[tokio::test]
async fn shutdown_asks_tasks_to_end_and_waits_for_them() {
    let tasks = Tasks::new(Clock::manual(0));
    let stopping = tasks.stopping();
    let task = tasks.spawn("listens", async move {
        stopping.cancelled().await;
        // It still has something to do.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        "tidied up"
    });
    assert_eq!(tasks.running(), ["listens"]);
    assert_eq!(tasks.shutdown(GRACE).await, Ok(()));
    assert!(task.is_finished());
    assert_eq!(task.await, Ok("tidied up"));
    assert!(tasks.running().is_empty());
}

#[tokio::test]
async fn shutdown_drops_and_names_tasks_that_do_not_end_in_time() {
    /// Tells when it is dropped.
    struct Guard(Option<oneshot::Sender<()>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.take().map(|dropped| dropped.send(()));
        }
    }
    let clock = Clock::manual(0);
    let tasks = Tasks::new(clock.clone());
    let (dropped, is_dropped) = oneshot::channel();
    let guard = Guard(Some(dropped));
    let deaf = tasks.spawn("deaf", async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    let advance = async {
        while clock.sleepers() == 0 {
            tokio::task::yield_now().await;
        }
        clock.advance(GRACE);
    };
    let (ended, ()) = tokio::join!(tasks.shutdown(GRACE), advance);
    assert_eq!(ended, Err(StillRunning(vec!["deaf"])));
    is_dropped.await.unwrap();
    assert_eq!(deaf.await, Err(TaskFailed::Stopped("deaf")));
}

#[tokio::test]
async fn a_panic_stays_in_its_task() {
    let tasks = Tasks::new(Clock::manual(0));
    let task = tasks.spawn("panics", async { panic!("as the test wants it") });
    let failed: Result<(), TaskFailed> = task.await;
    assert_eq!(failed, Err(TaskFailed::Panicked("panics")));
    assert_eq!(tasks.shutdown(GRACE).await, Ok(()));
}

#[tokio::test]
async fn a_contained_panic_is_an_error_and_the_caller_goes_on() {
    let mut left = 3;
    while left > 0 {
        left -= 1;
        let failed: Result<(), _> = contain("odd", async {
            tokio::task::yield_now().await;
            assert!(left % 2 == 0, "as the test wants it");
        })
        .await;
        let expected = match left % 2 {
            0 => Ok(()),
            _ => Err(TaskFailed::Panicked("odd")),
        };
        assert_eq!(failed, expected);
    }
}

#[tokio::test]
async fn a_batch_runs_beside_the_asynchronous_threads() {
    let tasks = Tasks::new(Clock::manual(0));
    let here = std::thread::current().id();
    let there = tasks.cpu("batch", || std::thread::current().id()).await;
    assert_ne!(here, there);
}

#[tokio::test]
#[should_panic(expected = "in the batch")]
async fn a_panic_of_a_batch_goes_on_in_its_caller() {
    let tasks = Tasks::new(Clock::manual(0));
    tasks.cpu("batch", || panic!("in the batch")).await;
}

#[tokio::test]
async fn more_batches_than_cores_all_get_their_turn() {
    let tasks = Tasks::new(Clock::manual(0));
    let batches: Vec<_> = (0..200)
        .map(|number| {
            let batch_tasks = tasks.clone();
            tasks.spawn("asks", async move {
                batch_tasks.cpu("batch", move || number).await
            })
        })
        .collect();
    for (number, batch) in batches.into_iter().enumerate() {
        assert_eq!(batch.await, Ok(number));
    }
}

#[tokio::test]
async fn without_threads_of_their_own_batches_run_where_they_are_asked_for() {
    let tasks = Tasks::on_one_thread(Clock::manual(0));
    assert!(!tasks.may_use_threads() && Tasks::new(Clock::manual(0)).may_use_threads());
    let here = std::thread::current().id();
    let there = tasks.cpu("where", || std::thread::current().id()).await;
    assert_eq!(here, there);
}

#[tokio::test]
async fn killed_tasks_are_dropped_where_they_stand_without_being_asked_to_end() {
    let tasks = Tasks::new(Clock::manual(0));
    let stopping = tasks.stopping();
    let task = tasks.spawn("would tidy up", async move {
        stopping.cancelled().await;
        "tidied up"
    });
    tokio::task::yield_now().await;
    tasks.kill().await;
    assert!(tasks.running().is_empty());
    assert_eq!(task.await, Err(TaskFailed::Stopped("would tidy up")));
    // What is begun afterwards doesn't get far either.
    let late = tasks.spawn("late", std::future::pending::<()>());
    assert_eq!(late.await, Err(TaskFailed::Stopped("late")));
}
