//! The one writer: it takes the writes that wait, runs each in a savepoint of one transaction,
//! commits once for all of them, and answers.
//!
//! A commit waits for the disk, so the writes that arrive meanwhile share the next one.

use std::{
    ffi::c_int,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use futures_util::FutureExt as _;
use myelin_env::{CancellationToken, Clock, DropGuard, Env};
use rusqlite::{Connection, hooks::Wal};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Session,
    checkpoints::{Checkpoints, LogLength},
    queue::{CloseOnDrop, Queue},
};
use crate::{Priority, StorageError, Tx, database::Work, tx::Engine};

/// A transaction takes no further closure after this time: those in it wait for the others.
const GROUP_TIME: Duration = Duration::from_millis(20);

/// The same as a number of closures, for clocks that stand still.
const GROUP_SIZE: usize = 256;

/// Where the writer is a task, each of its transactions takes up to so long, by chance: as long as a disk
/// may need. Otherwise nothing could ever happen while one is written.
const LONGEST_WRITE: Duration = Duration::from_millis(8);

/// And up to so long passes between its commit and the answers: a crash in between leaves behind what nobody
/// was told of.
const LONGEST_ANSWER: Duration = Duration::from_millis(2);

/// The handle on the writer.
#[derive(Debug)]
pub(super) struct Committer {
    queue: Arc<Queue>,
    /// `None` where the writer is a task.
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Cancelled when the writer has ended.
    ended: CancellationToken,
}

/// A write that waits.
pub(super) struct Job {
    name: &'static str,
    work: Work,
    reply: Reply,
    _place: OwnedSemaphorePermit,
}

/// What a closure came to.
struct Outcome {
    /// Whether its changes are to be kept.
    keep: bool,
    result: Result<(), StorageError>,
    reply: Reply,
}

/// Where to tell the caller, once it is known whether the changes are durable.
type Reply = oneshot::Sender<Result<(), StorageError>>;

impl Committer {
    pub(super) fn start(
        mut connection: Connection,
        checkpoints: Arc<Checkpoints>,
        env: &Env,
    ) -> Result<Self, StorageError> {
        let queue = Arc::new(Queue::new());
        let ended = CancellationToken::new();
        let log_pages = Arc::new(AtomicU32::new(0));
        let pages = Arc::clone(&log_pages);
        connection.wal_hook(Some(move |_: &mut Wal, length: c_int| {
            pages.store(u32::try_from(length).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let writer = Writer {
            tx: Tx::new(Engine::Sqlite(Session::new(connection))),
            kept: Vec::new(),
            clock: env.clock.clone(),
            checkpoints,
            log_pages,
            log: LogLength::default(),
        };
        let end = ended.clone().drop_guard();
        let serving = Serving {
            // Even after a panic nobody may wait for an answer for ever.
            _closes: queue.close_on_drop(),
            _end: end,
            inbox: Arc::clone(&queue),
        };
        let thread = if env.tasks.may_use_threads() {
            Some(serving.serve_on_a_thread(writer)?)
        } else {
            // It is tracked; nobody waits for it.
            drop(env.tasks.spawn(
                "sqlite-writer",
                serving.serve_as_a_task(writer, env.clone()),
            ));
            None
        };
        Ok(Self {
            queue,
            thread: Mutex::new(thread),
            ended,
        })
    }

    /// Runs a closure, and answers when what it did is durable or undone.
    pub(super) async fn submit(
        &self,
        name: &'static str,
        priority: Priority,
        work: Work,
    ) -> Result<(), StorageError> {
        let place = self.queue.place(priority).await?;
        let (job, answer) = Job::new(name, work, place);
        self.queue.push(priority, job)?;
        answer.await.unwrap_or(Err(StorageError::Closed))
    }

    /// Refuses new writes, finishes those that wait, and closes the connection.
    pub(super) async fn close(&self) {
        self.queue.close();
        self.ended.cancelled().await;
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue.close();
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            // A closure may have held the last handle on the database.
            && thread.thread().id() != thread::current().id()
        {
            // A panic was reported when it happened.
            thread.join().ok();
        }
    }
}

impl Job {
    pub(super) fn new(
        name: &'static str,
        work: Work,
        place: OwnedSemaphorePermit,
    ) -> (Self, oneshot::Receiver<Result<(), StorageError>>) {
        let (reply, answer) = oneshot::channel();
        let job = Self {
            name,
            work,
            reply,
            _place: place,
        };
        (job, answer)
    }

    /// Whether nobody waits for the result any more.
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Runs the closure.
    fn run(self, tx: &mut Tx) -> Outcome {
        let Self {
            name, work, reply, ..
        } = self;
        let bug = |what: &str| Err(StorageError::Bug(format!("{name}: {what}")));
        // Everything a closure may await is done by the time it is polled.
        let run = catch_unwind(AssertUnwindSafe(|| work(tx).now_or_never()));
        let (keep, result) = match (run, tx.take_failure()) {
            (Ok(Some(true)), Some(overlooked)) => (false, Err(overlooked)),
            (Ok(Some(succeeded)), _) => (succeeded, Ok(())),
            (Ok(None), _) => (
                false,
                bug("a write waited for something else than its transaction"),
            ),
            (Err(_), _) => (false, bug("a write panicked")),
        };
        Outcome {
            keep,
            result,
            reply,
        }
    }

    /// Answers that it was not run.
    fn refuse(self, error: StorageError) {
        self.reply.send(Err(error)).ok();
    }
}

impl Outcome {
    /// Tells the caller, who may have gone.
    fn answer(self, ended: Result<(), StorageError>) {
        self.reply.send(self.result.and(ended)).ok();
    }
}

/// What is around the writer. The fields are dropped in their order.
struct Serving {
    _closes: CloseOnDrop,
    _end: DropGuard,
    inbox: Arc<Queue>,
}

impl Serving {
    fn serve_on_a_thread(self, writer: Writer) -> Result<JoinHandle<()>, StorageError> {
        thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || {
                let serving = self;
                // Its connection is closed before the others are told of the end.
                let mut writer = writer;
                while serving.inbox.wait() {
                    let committed = writer.run_group(&serving.inbox);
                    writer.finish(&committed);
                }
            })
            .map_err(|error| StorageError::Unavailable(error.to_string()))
    }

    async fn serve_as_a_task(self, writer: Writer, env: Env) {
        let serving = self;
        let mut writer = writer;
        let up_to = |longest: Duration| {
            let needed_us = env.random.below(longest.as_micros() as u64);
            env.clock.sleep(Duration::from_micros(needed_us))
        };
        while serving.inbox.work().await {
            up_to(LONGEST_WRITE).await;
            let committed = writer.run_group(&serving.inbox);
            up_to(LONGEST_ANSWER).await;
            writer.finish(&committed);
        }
    }
}

/// What the writer owns.
struct Writer {
    tx: Tx,
    /// Who is to be told once the transaction has been committed.
    kept: Vec<Outcome>,
    clock: Clock,
    checkpoints: Arc<Checkpoints>,
    /// Pages in the log after the last commit.
    log_pages: Arc<AtomicU32>,
    log: LogLength,
}

impl Writer {
    /// Runs what waits as one transaction, and commits it. [`Writer::finish`] tells whoever waits for it.
    fn run_group(&mut self, queue: &Queue) -> Result<(), StorageError> {
        let started = self.clock.instant();
        let group = queue.next_group();
        let mut size = 0;
        while size < GROUP_SIZE
            && started.elapsed(&self.clock) < GROUP_TIME
            && let Some(job) = queue.take(group, size > 0)
        {
            if !job.is_abandoned() {
                size += 1;
                self.run(job);
            }
        }
        self.commit()
    }

    /// Tells what came of a group, and has what it wrote moved.
    fn finish(&mut self, committed: &Result<(), StorageError>) {
        self.answer_all(committed);
        let pages = self.log_pages.load(Ordering::Relaxed);
        self.checkpoints.after_commit(pages, &mut self.log);
    }

    /// Runs one closure so that it can be undone alone.
    fn run(&mut self, job: Job) {
        // The first one can be undone with the whole transaction: savepoints copy pages.
        let nested = self.session().in_transaction();
        let begin = if nested {
            "SAVEPOINT closure"
        } else {
            "BEGIN IMMEDIATE"
        };
        if let Err(error) = self.session().control(begin) {
            job.refuse(error);
            return;
        }
        let outcome = job.run(&mut self.tx);
        if !self.session().in_transaction() {
            // SQLite gives up the whole transaction after some errors, such as a full disk.
            let error = StorageError::Unavailable("the transaction was given up".to_owned());
            outcome.answer(Err(error.clone()));
            self.answer_all(&Err(error));
            return;
        }
        let ended = match (nested, outcome.keep) {
            (false, true) => Ok(()),
            (false, false) => self.session().control("ROLLBACK"),
            (true, true) => self.session().control("RELEASE closure"),
            (true, false) => self
                .session()
                .control("ROLLBACK TO closure")
                .and_then(|()| self.session().control("RELEASE closure")),
        };
        match ended {
            Ok(()) if outcome.keep => self.kept.push(outcome),
            Ok(()) => outcome.answer(Ok(())),
            Err(error) => {
                self.roll_back();
                outcome.answer(Err(error.clone()));
                self.answer_all(&Err(error));
            }
        }
    }

    fn commit(&mut self) -> Result<(), StorageError> {
        if !self.session().in_transaction() {
            return Ok(());
        }
        let started = self.clock.instant();
        let committed = self.session().control("COMMIT");
        metrics::histogram!("myelin_storage_commit_seconds")
            .record(started.elapsed(&self.clock).as_secs_f64());
        metrics::histogram!("myelin_storage_commit_writes").record(self.kept.len() as f64);
        if let Err(error) = &committed {
            tracing::error!(%error, writes = self.kept.len(), "commit failed");
            self.roll_back();
        }
        committed
    }

    fn roll_back(&mut self) {
        if self.session().in_transaction()
            && let Err(error) = self.session().control("ROLLBACK")
        {
            tracing::error!(%error, "rollback failed");
        }
    }

    fn answer_all(&mut self, result: &Result<(), StorageError>) {
        for outcome in self.kept.drain(..) {
            outcome.answer(result.clone());
        }
    }

    fn session(&mut self) -> &mut Session {
        self.tx.sqlite()
    }
}
