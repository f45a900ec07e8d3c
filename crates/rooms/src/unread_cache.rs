//! How much of a room each user has not read, as it was counted last.
//!
//! A client that lets a thousand messages pass unread still syncs at each of them. Only what came since is
//! counted then.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use myelin_core::number::StreamPosition;
use myelin_storage::notifications::Unread;
use ruma::{OwnedUserId, UserId};

/// For how many users of a room counts are kept.
const MOST_USERS: usize = 1_000;

/// What was counted, by the root of the thread or [`MAIN`](myelin_storage::notifications::MAIN).
pub(crate) type Counts = BTreeMap<String, Unread>;

/// What was counted last in one room.
#[derive(Debug, Default)]
pub(crate) struct UnreadCache(Mutex<Cached>);

#[derive(Debug, Default)]
struct Cached {
    /// Up to where, and what.
    by_user: HashMap<OwnedUserId, (StreamPosition, Counts)>,
    /// Counts the times that something was forgotten: what was counted before such a time may be stale.
    changes: u64,
}

impl UnreadCache {
    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what a user has not read, because it has read on.
    pub(crate) fn forget(&self, user: &UserId) {
        let mut cached = self.lock();
        cached.changes += 1;
        cached.by_user.remove(user);
    }

    /// Forgets everything: users aren't told any more of something of which they were.
    pub(crate) fn forget_all(&self) {
        let mut cached = self.lock();
        cached.changes += 1;
        cached.by_user.clear();
    }

    /// What was counted up to there or before, and what to tell [`Self::put`].
    pub(crate) fn up_to(
        &self,
        user: &UserId,
        upto: StreamPosition,
    ) -> (StreamPosition, Counts, u64) {
        let cached = self.lock();
        let known = cached.by_user.get(user).filter(|(at, _)| *at <= upto);
        let (at, counts) = known.cloned().unwrap_or((StreamPosition(0), Counts::new()));
        (at, counts, cached.changes)
    }

    /// Keeps what was counted, unless something was forgotten since or more was counted.
    pub(crate) fn put(&self, user: &UserId, upto: StreamPosition, counts: &Counts, changes: u64) {
        let mut cached = self.lock();
        let known = cached.by_user.get(user);
        if cached.changes != changes || known.is_some_and(|(at, _)| *at >= upto) {
            return;
        }
        if cached.by_user.len() >= MOST_USERS {
            cached.by_user.clear();
        }
        cached
            .by_user
            .insert(user.to_owned(), (upto, counts.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, StreamPosition, Unread, UnreadCache};
    use ruma::user_id;

    fn counts(notifications: u64) -> Counts {
        let unread = Unread {
            notifications,
            ..Unread::NONE
        };
        [("main".to_owned(), unread)].into()
    }

    #[test]
    fn what_was_counted_before_a_user_read_on_does_not_come_after_it() {
        let (cache, user, other) = (UnreadCache::default(), user_id!("@a:x"), user_id!("@b:x"));
        let (_, _, changes) = cache.up_to(user, StreamPosition(5));
        cache.forget(user);
        cache.put(user, StreamPosition(5), &counts(3), changes);
        let (at, known, changes) = cache.up_to(user, StreamPosition(5));
        assert_eq!((at, known), (StreamPosition(0), Counts::new()));
        cache.put(user, StreamPosition(5), &counts(2), changes);
        cache.forget(other);
        let (at, known, _) = cache.up_to(user, StreamPosition(9));
        assert_eq!((at, known), (StreamPosition(5), counts(2)));
    }

    #[test]
    fn the_past_is_counted_anew() {
        let (cache, user) = (UnreadCache::default(), user_id!("@a:x"));
        cache.put(user, StreamPosition(5), &counts(2), 0);
        cache.put(user, StreamPosition(4), &counts(1), 0);
        assert_eq!(cache.up_to(user, StreamPosition(4)).0, StreamPosition(0));
        assert_eq!(cache.up_to(user, StreamPosition(5)).0, StreamPosition(5));
    }
}
