//! Moving committed pages from the log into the database file, beside the writer.
//!
//! A passive checkpoint never makes the writer wait, but while the writer keeps writing it also never
//! catches up with it, and only a log that was moved as a whole is begun anew. So beyond a bound the
//! committer holds still for the rest: what was committed during the last checkpoint.

use std::{
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
};

use rusqlite::{Connection, MAIN_DB, wal::CheckpointMode};

use crate::StorageError;

/// Log length in pages (of 4 KiB) from which it is moved.
const WORTH_MOVING: u32 = 2_000;

/// Log length in pages from which the writer waits.
const BOUND: u32 = 16_000;

/// The thread that moves pages.
#[derive(Debug)]
pub(super) struct Checkpoints {
    requests: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
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
    /// Length at the last request, so that not every commit asks again.
    asked: u32,
    /// The writer waits again from here on. Grows while an old read keeps the log from starting anew.
    bound: u32,
}

impl Checkpoints {
    pub(super) fn start(connection: Connection) -> Result<Self, StorageError> {
        let (requests, inbox) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("sqlite-checkpoints".to_owned())
            .spawn(move || serve(connection, &inbox))
            .map_err(|error| StorageError::Unavailable(error.to_string()))?;
        Ok(Self {
            requests: Mutex::new(Some(requests)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// To be called by the writer after a commit that left `pages` in the log.
    pub(super) fn after_commit(&self, pages: u32, log: &mut LogLength) {
        if pages < log.asked {
            // It was begun anew.
            *log = LogLength::default();
        }
        if pages >= log.bound.max(BOUND) {
            let (done, wait) = mpsc::channel();
            self.ask(Request::Pause(done));
            // An error means the thread has ended: the log grows, nothing is lost.
            wait.recv().ok();
            log.asked = pages;
            log.bound = pages.saturating_add(BOUND / 4);
        } else if pages >= log.asked.saturating_add(WORTH_MOVING) {
            self.ask(Request::Passive);
            log.asked = pages;
        }
    }

    /// Moves everything, closes the connection and waits for the thread's end.
    pub(super) fn close(&self) {
        drop(
            self.requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic was reported when it happened.
            thread.join().ok();
        }
    }

    fn ask(&self, request: Request) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = &*requests {
            requests.send(request).ok();
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(connection: Connection, inbox: &Receiver<Request>) {
    while let Ok(request) = inbox.recv() {
        checkpoint(&connection, CheckpointMode::PASSIVE);
        if let Request::Pause(done) = request {
            // The writer may have gone.
            done.send(()).ok();
        }
    }
    checkpoint(&connection, CheckpointMode::TRUNCATE);
}

fn checkpoint(connection: &Connection, mode: CheckpointMode) {
    match connection.wal_checkpoint_v2(Some(MAIN_DB), mode) {
        Ok((pages, moved)) => tracing::debug!(pages, moved, "checkpoint"),
        // The log keeps what could not be moved.
        Err(error) => tracing::warn!(%error, "checkpoint failed"),
    }
}
