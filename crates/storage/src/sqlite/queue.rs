//! The writes that wait for the committer.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::committer::Job;
use crate::{Priority, StorageError};

/// How many interactive writes may wait; further callers wait for a place.
const INTERACTIVE_PLACES: usize = 1_024;

/// The same for bulk writes, each of which may hold megabytes.
const BULK_PLACES: usize = 16;

/// How many interactive transactions go before a bulk write that waits.
const PATIENCE: u32 = 16;

/// Two bounded queues with a waiting room in front.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Wakes the writer where it is a thread.
    arrived: Condvar,
    /// Wakes the writer where it is a task.
    arrival: Notify,
    interactive_places: Arc<Semaphore>,
    bulk_places: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    interactive: VecDeque<Job>,
    bulk: VecDeque<Job>,
    closed: bool,
    /// Interactive transactions since the last bulk write.
    overtaken: u32,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            arrival: Notify::new(),
            interactive_places: Arc::new(Semaphore::new(INTERACTIVE_PLACES)),
            bulk_places: Arc::new(Semaphore::new(BULK_PLACES)),
        }
    }

    /// Waits for a place. Giving up the future or the permit gives it back.
    pub(super) async fn place(
        &self,
        priority: Priority,
    ) -> Result<OwnedSemaphorePermit, StorageError> {
        let places = match priority {
            Priority::Interactive => &self.interactive_places,
            Priority::Bulk => &self.bulk_places,
        };
        Arc::clone(places)
            .acquire_owned()
            .await
            .map_err(|_| StorageError::Closed)
    }

    pub(super) fn push(&self, priority: Priority, job: Job) -> Result<(), StorageError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(StorageError::Closed);
        }
        waiting.of(priority).push_back(job);
        drop(waiting);
        self.arrived.notify_one();
        self.arrival.notify_one();
        Ok(())
    }

    /// Blocks until there is work; false once the queue is closed and empty.
    pub(super) fn wait(&self) -> bool {
        let mut waiting = self.lock();
        loop {
            if let Some(has_work) = waiting.has_work() {
                return has_work;
            }
            waiting = self
                .arrived
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The same for a writer that is a task.
    pub(super) async fn work(&self) -> bool {
        loop {
            // What arrives after the look leaves a permit.
            if let Some(has_work) = self.lock().has_work() {
                return has_work;
            }
            self.arrival.notified().await;
        }
    }

    /// Which writes the next transaction is for. Interactive ones go first, but not for ever; the two
    /// never share one, so that nobody interactive waits for bulk work to be written.
    pub(super) fn next_group(&self) -> Priority {
        let mut waiting = self.lock();
        let bulk = !waiting.bulk.is_empty()
            && (waiting.interactive.is_empty() || waiting.overtaken >= PATIENCE);
        if bulk {
            waiting.overtaken = 0;
            return Priority::Bulk;
        }
        waiting.overtaken += 1;
        Priority::Interactive
    }

    /// The next write for a transaction of `group`. Bulk ones stop as soon as anybody interactive
    /// waits; `begun` says that the transaction has one already.
    pub(super) fn take(&self, group: Priority, begun: bool) -> Option<Job> {
        let mut waiting = self.lock();
        if group == Priority::Bulk && begun && !waiting.interactive.is_empty() {
            return None;
        }
        waiting.of(group).pop_front()
    }

    /// Refuses what comes from now on. What waits is still done.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.interactive_places.close();
        self.bulk_places.close();
        self.arrived.notify_all();
        self.arrival.notify_one();
    }

    /// Closes the queue, and drops what waits, when the guard is dropped.
    pub(super) fn close_on_drop(self: &Arc<Self>) -> CloseOnDrop {
        CloseOnDrop(Arc::clone(self))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether anything is to be done; `None` if that can still come.
    fn has_work(&self) -> Option<bool> {
        let is_empty = self.interactive.is_empty() && self.bulk.is_empty();
        (!is_empty || self.closed).then_some(!is_empty)
    }

    fn of(&mut self, priority: Priority) -> &mut VecDeque<Job> {
        match priority {
            Priority::Interactive => &mut self.interactive,
            Priority::Bulk => &mut self.bulk,
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.lock();
        formatter
            .debug_struct("Queue")
            .field("interactive", &waiting.interactive.len())
            .field("bulk", &waiting.bulk.len())
            .finish()
    }
}

/// See [`Queue::close_on_drop`].
pub(super) struct CloseOnDrop(Arc<Queue>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
        let mut waiting = self.0.lock();
        let dropped = (
            std::mem::take(&mut waiting.interactive),
            std::mem::take(&mut waiting.bulk),
        );
        // Dropping a write runs foreign code.
        drop(waiting);
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::{PATIENCE, Queue};
    use crate::{Priority, StorageError, database::Work, sqlite::committer::Job};
    use futures_util::FutureExt as _;

    /// A write that never runs.
    fn job(queue: &Queue, priority: Priority) -> Job {
        let place = queue.place(priority).now_or_never();
        let place = place.expect("there is a place").unwrap();
        let work: Work = Box::new(|_| unreachable!("these tests run nothing"));
        Job::new("never", work, place).0
    }

    fn push(queue: &Queue, priority: Priority) {
        queue.push(priority, job(queue, priority)).unwrap();
    }

    #[test]
    fn a_bulk_write_gets_its_turn_however_many_interactive_ones_come() {
        let queue = Queue::new();
        push(&queue, Priority::Bulk);
        for _ in 0..PATIENCE {
            push(&queue, Priority::Interactive);
            assert_eq!(queue.next_group(), Priority::Interactive);
        }
        assert_eq!(queue.next_group(), Priority::Bulk);
        assert!(queue.take(Priority::Bulk, false).is_some());
        assert_eq!(queue.next_group(), Priority::Interactive);
    }

    #[test]
    fn a_bulk_transaction_ends_when_anybody_interactive_waits() {
        let queue = Queue::new();
        for _ in 0..3 {
            push(&queue, Priority::Bulk);
        }
        assert_eq!(queue.next_group(), Priority::Bulk);
        assert!(queue.take(Priority::Bulk, false).is_some());
        assert!(queue.take(Priority::Bulk, true).is_some());
        push(&queue, Priority::Interactive);
        assert!(queue.take(Priority::Bulk, true).is_none());
        assert_eq!(queue.next_group(), Priority::Interactive);
    }

    #[test]
    fn a_closed_queue_takes_nothing_more_and_gives_out_what_it_has() {
        let queue = Queue::new();
        push(&queue, Priority::Interactive);
        let late = job(&queue, Priority::Interactive);
        queue.close();
        let refused = queue.push(Priority::Interactive, late);
        assert_eq!(refused, Err(StorageError::Closed));
        assert!(queue.wait());
        assert!(queue.take(Priority::Interactive, false).is_some());
        assert!(!queue.wait());
    }

    #[tokio::test]
    async fn a_full_queue_makes_callers_wait_and_each_priority_has_its_own() {
        let queue = Queue::new();
        let mut places = Vec::new();
        while let Ok(place) = queue.bulk_places.clone().try_acquire_owned() {
            places.push(place);
        }
        let mut waits = Box::pin(queue.place(Priority::Bulk));
        tokio::select! {
            biased;
            _ = &mut waits => unreachable!("there is no place"),
            _ = queue.place(Priority::Interactive) => {}
        }
        places.pop();
        assert!(waits.await.is_ok());
    }
}
