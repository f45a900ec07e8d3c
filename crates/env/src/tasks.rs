//! Tasks: work that outlives its caller, and whose end the server can wait for.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    thread,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{Clock, trace::carry_on};

/// Starts tasks and knows which of them still run. Clones share everything.
#[derive(Clone)]
pub struct Tasks(Arc<Inner>);

struct Inner {
    clock: Clock,
    tracker: TaskTracker,
    /// Asks tasks to end at their next convenience.
    stopping: CancellationToken,
    /// Drops tasks where they stand.
    dropping: CancellationToken,
    running: Arc<Mutex<Running>>,
    /// One permit per core, so that batches do not crowd out each other; `None` if everything happens on
    /// the one thread of the runtime.
    cores: Option<Semaphore>,
}

/// How many tasks of each name run.
type Running = BTreeMap<&'static str, usize>;

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskFailed {
    /// It panicked: a bug. The panic is in the log.
    #[error("task {0} panicked")]
    Panicked(&'static str),
    /// The server stopped before it finished.
    #[error("task {0} was stopped")]
    Stopped(&'static str),
}

/// Tasks that had not ended when the time for shutting down was over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tasks did not end in time: {}", .0.join(", "))]
pub struct StillRunning(pub Vec<&'static str>);

/// Awaits `future`. A panic in it, which is a bug, is logged and becomes an error, so that a loop around
/// it goes on. What the future shares with others must bear being left half-way.
///
/// # Errors
/// [`TaskFailed::Panicked`] with `name`.
pub fn contain<F: Future>(
    name: &'static str,
    future: F,
) -> impl Future<Output = Result<F::Output, TaskFailed>> {
    // Boxed, or what wraps it would be as large again.
    let contained = AssertUnwindSafe(Box::pin(future)).catch_unwind();
    // The payload says nothing that the panic hook hasn't said.
    contained.map(move |ended| {
        ended.map_err(|_| {
            tracing::error!(name, "task panicked");
            TaskFailed::Panicked(name)
        })
    })
}

impl Tasks {
    /// A new set of tasks. `clock` measures the time for shutting down.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with(clock, Some(Semaphore::new(cores)))
    }

    /// A new set of tasks that take no other threads than the runtime's, so that with a runtime of one thread
    /// the order of everything follows from what is polled.
    #[must_use]
    pub fn on_one_thread(clock: Clock) -> Self {
        Self::with(clock, None)
    }

    fn with(clock: Clock, cores: Option<Semaphore>) -> Self {
        Self(Arc::new(Inner {
            clock,
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
            dropping: CancellationToken::new(),
            running: Arc::default(),
            cores,
        }))
    }

    /// Runs `future` to its end, whether or not anybody waits for the handle. `name` says in logs
    /// what it is; the caller's log fields and trace go with it.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where ambient tasks enter"
    )]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let counted = Counted::new(&self.0.running, name);
        let dropping = self.0.dropping.clone();
        let contained = contain(name, future);
        let tracked = self.0.tracker.track_future(async move {
            let _counted = counted;
            dropping
                .run_until_cancelled_owned(contained)
                .await
                .unwrap_or(Err(TaskFailed::Stopped(name)))
        });
        let span = tracing::error_span!("task", name);
        Task {
            name,
            handle: tokio::spawn(carry_on(tracked.instrument(span))),
        }
    }

    /// Whether work that blocks its thread may have a thread of its own.
    #[must_use]
    pub fn may_use_threads(&self) -> bool {
        self.0.cores.is_some()
    }

    /// Runs a CPU-bound batch beside the asynchronous threads, at most one per core at a time; on the
    /// caller's own thread if there is no other. Dropping the future before it has begun cancels it. A panic of `batch` goes on in the caller.
    pub async fn cpu<T, F>(&self, name: &'static str, batch: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let Some(cores) = &self.0.cores else {
            return batch();
        };
        // The semaphore is never closed, so an error cannot happen; a batch too many would do no harm.
        let _core = cores.acquire().await.ok();
        let counted = Counted::new(&self.0.running, name);
        let span = tracing::Span::current();
        let batch = self.0.tracker.spawn_blocking(move || {
            let _counted = counted;
            span.in_scope(batch)
        });
        match batch.await {
            Ok(output) => output,
            Err(failure) => match failure.try_into_panic() {
                Ok(payload) => {
                    tracing::error!(name, "a batch panicked");
                    panic::resume_unwind(payload)
                }
                // The runtime is going away and drops the caller next.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Cancelled when the server shuts down. Tasks that wait or repeat listen to it.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    /// Names of the tasks that run now, each once.
    #[must_use]
    pub fn running(&self) -> Vec<&'static str> {
        let running = self.0.running.lock();
        let running = running.unwrap_or_else(PoisonError::into_inner);
        running.keys().copied().collect()
    }

    /// How many tasks of this name run now.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        let running = self.0.running.lock();
        let running = running.unwrap_or_else(PoisonError::into_inner);
        running.get(name).copied().unwrap_or(0)
    }

    /// Drops all tasks where they stand, as the death of a process does, and waits until they are gone.
    pub async fn kill(&self) {
        self.0.tracker.close();
        self.0.dropping.cancel();
        self.0.tracker.wait().await;
    }

    /// Cancels [`Tasks::stopping`] and waits until every task has ended. What has not ended within
    /// `grace` is dropped at its next await, so that nothing goes on behind a closed database.
    ///
    /// # Errors
    /// Names what was dropped.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), StillRunning> {
        self.0.stopping.cancel();
        self.0.tracker.close();
        let ended = self.0.clock.timeout(grace, self.0.tracker.wait()).await;
        if ended.is_ok() {
            return Ok(());
        }
        let late = self.running();
        self.0.dropping.cancel();
        Err(StillRunning(late))
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Tasks")
            .field(&self.running())
            .finish()
    }
}

/// A running task. Awaiting it gives its result; dropping it lets it run on.
#[derive(Debug)]
pub struct Task<T> {
    name: &'static str,
    handle: JoinHandle<Result<T, TaskFailed>>,
}

impl<T> Task<T> {
    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskFailed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        // Panics don't reach the handle; what else it reports is that the runtime went away.
        let ended = ready!(Pin::new(&mut self.handle).poll(context));
        Poll::Ready(ended.unwrap_or(Err(TaskFailed::Stopped(name))))
    }
}

/// Counts a task as running while it exists.
struct Counted {
    running: Arc<Mutex<Running>>,
    name: &'static str,
}

impl Counted {
    fn new(running: &Arc<Mutex<Running>>, name: &'static str) -> Self {
        let mut names = running.lock().unwrap_or_else(PoisonError::into_inner);
        *names.entry(name).or_default() += 1;
        Self {
            running: Arc::clone(running),
            name,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut names = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = names.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(self.name);
            }
        }
    }
}
