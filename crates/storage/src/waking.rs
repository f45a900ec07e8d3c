//! Telling the users of this server that something is there for them. What is told is a position;
//! who listens reads the rest.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use myelin_core::number::StreamPosition;
use ruma::{OwnedUserId, UserId};
use tokio::sync::watch;

use crate::stream::Stream;

/// One channel for each user that somebody listens for.
#[derive(Debug, Default)]
pub struct Waking(Mutex<HashMap<OwnedUserId, watch::Sender<StreamPosition>>>);

impl Waking {
    /// Listens for a user's news. What came before the call is for the caller to read.
    pub fn listen(&self, user: &UserId) -> watch::Receiver<StreamPosition> {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channels
            .entry(user.to_owned())
            .or_insert_with(|| watch::channel(StreamPosition(0)).0)
            .subscribe()
    }

    /// Listens for a user's news in a stream. What came before the call is for the caller to read.
    pub fn news(&self, user: &UserId, stream: &Stream) -> News {
        News {
            told: self.listen(user),
            readable: stream.listen(),
        }
    }

    /// Wakes users. Their news up to `position` can be read.
    pub fn wake<'a>(&self, users: impl IntoIterator<Item = &'a UserId>, position: StreamPosition) {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for user in users {
            let Some(channel) = channels.get(user) else {
                continue;
            };
            if channel.receiver_count() == 0 {
                channels.remove(user);
            } else {
                channel.send_replace(position);
            }
        }
    }
}

/// What a user waits for: news in one stream.
#[derive(Debug)]
pub struct News {
    told: watch::Receiver<StreamPosition>,
    readable: watch::Receiver<StreamPosition>,
}

impl News {
    /// What was told until now is no news any more.
    pub fn pass(&mut self) {
        self.told.borrow_and_update();
    }

    /// Waits for news that can be read; `None` if there never will be any.
    pub async fn arrive(&mut self) -> Option<()> {
        self.told.changed().await.ok()?;
        let position = *self.told.borrow();
        // Something with a lower position may not have been finished yet.
        self.readable
            .wait_for(|readable| *readable >= position)
            .await
            .ok()?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::{StreamPosition, Waking};
    use ruma::user_id;

    #[test]
    fn only_those_who_listen_are_woken_and_others_are_forgotten() {
        let waking = Waking::default();
        let mut listener = waking.listen(user_id!("@a:x"));
        drop(waking.listen(user_id!("@b:x")));
        waking.wake(
            [user_id!("@a:x"), user_id!("@b:x"), user_id!("@c:x")],
            StreamPosition(7),
        );
        assert!(listener.has_changed().expect("open"));
        assert_eq!(*listener.borrow_and_update(), StreamPosition(7));
        assert_eq!(waking.0.lock().expect("lock").len(), 1);
    }
}
