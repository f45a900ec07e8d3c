//! Moving committed pages from the log into the database file, beside the writer.
//!
//! A passive checkpoint never makes the writer wait, but while the writer keeps writing it also never
//! catches up with it, and only a log that was moved as a whole is begun anew. So beyond a bound the
//! committer holds still for the rest, at a moment when little is left to move.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use myelin_env::Env;
use rusqlite::{Connection, MAIN_DB, wal::CheckpointMode};

use crate::StorageError;

/// So many pages (of 4 KiB) in the log are worth a checkpoint.
const WORTH_MOVING: u32 = 2_000;

/// Log length in pages from which it is to be begun anew.
const BOUND: u32 = 16_000;

/// Log length in pages from which the writer waits however much there is to move.
const HARD_BOUND: u32 = 2 * BOUND;

/// The writer holds still for so many pages: some milliseconds, and the disk's own time. More than
/// one bulk transaction writes, or the moment would never come.
const LITTLE: u32 = 4_000;

/// The log has to grow by so many pages before a checkpoint is asked for again.
const STEP: u32 = 1_000;

/// Whoever moves pages.
#[derive(Debug)]
pub(super) struct Checkpoints {
    mover: Mutex<Mover>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
enum Mover {
    /// A thread that takes requests.
    Thread(Sender<Request>, JoinHandle<()>),
    /// Whoever asks.
    Caller(Connection),
    Closed,
}

/// What was moved.
#[derive(Debug, Default)]
struct Progress {
    /// A checkpoint was asked for and has not ended.
    busy: AtomicBool,
    /// Pages of the log that were moved by the last one.
    moved: AtomicU32,
}

#[derive(Debug)]
enum Request {
    /// Move what can be moved.
    Passive,
    /// The same while the writer holds still, then answer.
    Pause(Sender<()>),
}

/// What the committer knows about the log.
#[derive(Debug, Default)]
pub(super) struct LogLength {
    /// After the last commit.
    pages: u32,
    /// At the last request. While an old read keeps pages from being moved, not every commit asks.
    asked: u32,
    /// The writer waits again from here on. Grows while an old read keeps the log from starting anew.
    bound: u32,
}

/// What the writer does about the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    GoOn,
    /// Have pages moved meanwhile.
    Ask,
    /// Hold still until all pages are moved.
    Wait,
}

impl LogLength {
    fn decide(&self, moved: u32, busy: bool) -> Decision {
        let rest = self.pages.saturating_sub(moved);
        let is_long = self.pages >= self.bound.max(BOUND);
        if self.pages >= self.bound.max(HARD_BOUND) || (is_long && rest <= LITTLE && !busy) {
            return Decision::Wait;
        }
        let is_worth_it = is_long || rest >= WORTH_MOVING;
        if is_worth_it && !busy && self.pages >= self.asked.saturating_add(STEP) {
            return Decision::Ask;
        }
        Decision::GoOn
    }
}

impl Checkpoints {
    pub(super) fn start(connection: Connection, env: &Env) -> Result<Self, StorageError> {
        let progress = Arc::new(Progress::default());
        let mover = if env.tasks.may_use_threads() {
            let (requests, inbox) = mpsc::channel();
            let shared = Arc::clone(&progress);
            let thread = thread::Builder::new()
                .name("sqlite-checkpoints".to_owned())
                .spawn(move || serve(&connection, &inbox, &shared))
                .map_err(|error| StorageError::Unavailable(error.to_string()))?;
            Mover::Thread(requests, thread)
        } else {
            Mover::Caller(connection)
        };
        Ok(Self {
            mover: Mutex::new(mover),
            progress,
        })
    }

    /// To be called by the writer after a commit that left `pages` in the log.
    pub(super) fn after_commit(&self, pages: u32, log: &mut LogLength) {
        if pages < log.pages {
            // It was begun anew.
            *log = LogLength::default();
            self.progress.moved.store(0, Ordering::Relaxed);
        }
        log.pages = pages;
        let moved = self.progress.moved.load(Ordering::Relaxed);
        match log.decide(moved, self.progress.busy.load(Ordering::Acquire)) {
            Decision::GoOn => return,
            Decision::Ask => self.ask(Request::Passive),
            Decision::Wait => {
                let (done, wait) = mpsc::channel();
                self.ask(Request::Pause(done));
                // An error means the thread has ended: the log grows, nothing is lost.
                wait.recv().ok();
                log.bound = pages.saturating_add(BOUND / 4);
            }
        }
        log.asked = pages;
    }

    /// Moves everything, closes the connection and waits for the thread's end.
    pub(super) fn close(&self) {
        match std::mem::replace(&mut *self.lock(), Mover::Closed) {
            Mover::Thread(requests, thread) => {
                drop(requests);
                // A panic was reported when it happened.
                thread.join().ok();
            }
            Mover::Caller(connection) => drop(checkpoint(&connection, CheckpointMode::TRUNCATE)),
            Mover::Closed => {}
        }
    }

    fn ask(&self, request: Request) {
        match &*self.lock() {
            Mover::Thread(requests, _) => {
                self.progress.busy.store(true, Ordering::Relaxed);
                requests.send(request).ok();
            }
            Mover::Caller(connection) => carry_out(connection, request, &self.progress),
            Mover::Closed => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mover> {
        self.mover.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(connection: &Connection, inbox: &Receiver<Request>, progress: &Progress) {
    while let Ok(request) = inbox.recv() {
        carry_out(connection, request, progress);
    }
    checkpoint(connection, CheckpointMode::TRUNCATE);
}

fn carry_out(connection: &Connection, request: Request, progress: &Progress) {
    if let Some(moved) = checkpoint(connection, CheckpointMode::PASSIVE) {
        progress.moved.store(moved, Ordering::Relaxed);
    }
    progress.busy.store(false, Ordering::Release);
    if let Request::Pause(done) = request {
        // The writer may have gone.
        done.send(()).ok();
    }
}

/// How many pages of the log are in the database file now.
fn checkpoint(connection: &Connection, mode: CheckpointMode) -> Option<u32> {
    match connection.wal_checkpoint_v2(Some(MAIN_DB), mode) {
        Ok((pages, moved)) => {
            tracing::debug!(pages, moved, "checkpoint");
            u32::try_from(moved).ok()
        }
        Err(error) => {
            // The log keeps what could not be moved.
            tracing::warn!(%error, "checkpoint failed");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BOUND, Decision, HARD_BOUND, LITTLE, LogLength, WORTH_MOVING};

    #[test]
    fn the_writer_waits_only_for_little_or_at_the_hard_bound() {
        let log = |pages, asked, bound| LogLength {
            pages,
            asked,
            bound,
        };
        let table = [
            ("a short log", log(100, 0, 0), 0, false, Decision::GoOn),
            (
                "enough to move",
                log(WORTH_MOVING, 0, 0),
                0,
                false,
                Decision::Ask,
            ),
            (
                "asked already",
                log(WORTH_MOVING, 0, 0),
                0,
                true,
                Decision::GoOn,
            ),
            (
                "most was moved",
                log(WORTH_MOVING, 0, 0),
                100,
                false,
                Decision::GoOn,
            ),
            (
                "long, much to move",
                log(BOUND, 0, 0),
                0,
                false,
                Decision::Ask,
            ),
            (
                "long, being moved",
                log(BOUND, 0, 0),
                BOUND,
                true,
                Decision::GoOn,
            ),
            (
                "long, little to move",
                log(BOUND, 0, 0),
                BOUND - LITTLE,
                false,
                Decision::Wait,
            ),
            ("too long", log(HARD_BOUND, 0, 0), 0, true, Decision::Wait),
            (
                "an old read holds it",
                log(BOUND, BOUND, BOUND + 1),
                0,
                false,
                Decision::GoOn,
            ),
            (
                "it still does",
                log(HARD_BOUND, HARD_BOUND, HARD_BOUND + 1),
                0,
                false,
                Decision::GoOn,
            ),
        ];
        for (case, log, moved, busy, expected) in table {
            assert_eq!(log.decide(moved, busy), expected, "{case}");
        }
    }
}
