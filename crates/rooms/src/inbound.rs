//! The pushed events of one room that wait to be judged.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use myelin_storage::staged::Staged;
use ruma::{OwnedUserId, UserId};

use crate::trace::{self, Trace};

/// The figure for all rooms together.
const BACKLOG: &str = "myelin_events_waiting";

/// The pushed events of a room that wait. Those that are staged and not in hand are the worker's: it
/// looks for all of them each time, since transactions of two servers can be committed in another
/// order than they were numbered in.
#[derive(Debug, Default)]
pub(crate) struct Inbound(Mutex<Waiting>);

/// What waits, and who works on it.
#[derive(Debug, Default)]
struct Waiting {
    working: bool,
    /// More was staged since the worker last looked.
    more: bool,
    /// What waits for other servers, in order.
    parked: VecDeque<Staged>,
    /// The numbers of what is parked or being settled: staged, but no matter of the worker.
    in_hand: BTreeSet<i64>,
    settling: bool,
    backlog: usize,
    traces: trace::Waiting,
    /// Our users who are about to bring this server into the room: what arrives waits for them (R42).
    joining: BTreeSet<OwnedUserId>,
}

impl Inbound {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There may be more to do. Whether a worker has to be started for it.
    pub(crate) fn begin_work(&self) -> bool {
        let mut waiting = self.lock();
        waiting.more = true;
        waiting.joining.is_empty() && !std::mem::replace(&mut waiting.working, true)
    }

    /// What the worker, which is about to look for staged events, has to pass over.
    pub(crate) fn look(&self) -> Vec<i64> {
        let mut waiting = self.lock();
        waiting.more = false;
        waiting.in_hand.iter().copied().collect()
    }

    /// The worker found nothing. Whether it is done, because nothing came since it looked.
    pub(crate) fn end_work(&self) -> bool {
        let mut waiting = self.lock();
        waiting.working = waiting.more;
        !waiting.working
    }

    /// Puts events aside until other servers were asked for what they lack. Whether a task has to be
    /// started that settles them.
    pub(crate) fn park(&self, events: Vec<Staged>) -> bool {
        let mut waiting = self.lock();
        waiting
            .in_hand
            .extend(events.iter().map(|event| event.staged));
        waiting.parked.extend(events);
        !waiting.parked.is_empty() && !std::mem::replace(&mut waiting.settling, true)
    }

    /// The next event to be settled; it stays in hand. `None`: the settling is over.
    pub(crate) fn next_parked(&self) -> Option<Staged> {
        let mut waiting = self.lock();
        let next = waiting.parked.pop_front();
        waiting.settling = next.is_some();
        next
    }

    /// An event was settled: it isn't staged any more.
    pub(crate) fn settled(&self, staged: i64) {
        self.lock().in_hand.remove(&staged);
    }

    /// How many acknowledged events are to be judged, about.
    pub(crate) fn backlog(&self) -> usize {
        self.lock().backlog
    }

    /// That many more are about to be staged.
    pub(crate) fn add_to_backlog(&self, count: usize) {
        self.lock().backlog += count;
        metrics::gauge!(BACKLOG).increment(count as f64);
    }

    /// That many were judged, or not staged after all.
    pub(crate) fn take_from_backlog(&self, count: usize) {
        let mut waiting = self.lock();
        // What was staged before a restart isn't counted.
        let counted = count.min(waiting.backlog);
        waiting.backlog -= counted;
        metrics::gauge!(BACKLOG).decrement(counted as f64);
    }

    /// Keeps the trace of an event that is staged, or going to be.
    pub(crate) fn put_trace(&self, staged: i64, trace: Trace) {
        self.lock().traces.put(staged, trace);
    }

    /// The trace of an event that is taken up, or was not staged after all.
    pub(crate) fn take_trace(&self, staged: i64) -> Trace {
        self.lock().traces.take(staged)
    }

    /// A join through another server is under way.
    pub(crate) fn begin_join(&self, user: &UserId) {
        self.lock().joining.insert(user.to_owned());
    }

    /// It came to nothing; others may be under way.
    pub(crate) fn end_join(&self, user: &UserId) {
        self.lock().joining.remove(user);
    }

    /// This server is in the room: nothing has to wait any more, whatever becomes of other joins.
    pub(crate) fn end_joins(&self) {
        self.lock().joining.clear();
    }

    /// Whether a join is under way.
    pub(crate) fn is_joining(&self) -> bool {
        !self.lock().joining.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Inbound, Staged};
    use ruma::{event_id, server_name, user_id};

    fn staged(number: i64) -> Staged {
        Staged {
            staged: number,
            origin: server_name!("y.example").to_owned(),
            event_id: event_id!("$e").to_owned(),
            json: String::new(),
        }
    }

    #[test]
    fn what_is_parked_or_being_settled_is_passed_over_by_the_worker() {
        let inbound = Inbound::default();
        assert!(inbound.begin_work());
        assert!(inbound.look().is_empty());
        assert!(inbound.park(vec![staged(5), staged(7)]));
        // Somebody settles them already.
        assert!(!inbound.park(vec![staged(6)]));
        assert_eq!(inbound.look(), [5, 6, 7]);
        assert_eq!(inbound.next_parked().map(|event| event.staged), Some(5));
        assert_eq!(inbound.look(), [5, 6, 7]);
        inbound.settled(5);
        assert_eq!(inbound.look(), [6, 7]);
    }

    #[test]
    fn a_worker_looks_again_for_what_came_while_it_looked() {
        let inbound = Inbound::default();
        assert!(inbound.begin_work());
        inbound.look();
        assert!(!inbound.begin_work());
        assert!(!inbound.end_work());
        inbound.look();
        assert!(inbound.end_work());
        assert!(inbound.begin_work());
    }

    #[test]
    fn settling_begins_anew_after_its_end() {
        let inbound = Inbound::default();
        assert!(!inbound.park(Vec::new()));
        assert!(inbound.park(vec![staged(1)]));
        assert!(inbound.next_parked().is_some());
        inbound.settled(1);
        assert!(inbound.next_parked().is_none());
        assert!(inbound.park(vec![staged(2)]));
    }

    #[test]
    fn joins_keep_the_worker_from_starting_until_one_succeeds_or_all_have_failed() {
        let inbound = Inbound::default();
        let (alice, bob) = (user_id!("@alice:x.example"), user_id!("@bob:x.example"));
        inbound.begin_join(alice);
        inbound.begin_join(bob);
        assert!(!inbound.begin_work());
        inbound.end_join(alice);
        assert!(!inbound.begin_work(), "the other may still succeed");
        inbound.begin_join(alice);
        inbound.end_joins();
        assert!(inbound.begin_work());
    }
}
