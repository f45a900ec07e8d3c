//! How much of a room a user has not read, counted on from the last count.

use myelin_core::number::StreamPosition;
use myelin_storage::{
    StorageError,
    notifications::{self, Unread},
};
use ruma::UserId;

use crate::{Rooms, room::Room, unread_cache::Counts};

impl Room {
    /// What a joined user has not read of what it was told of up to a position that is readable, by thread.
    ///
    /// # Errors
    /// Any [`StorageError`].
    pub async fn unread(
        &self,
        rooms: &Rooms,
        user: &UserId,
        upto: StreamPosition,
    ) -> Result<Counts, StorageError> {
        let (after, mut counts, changes) = self.unread_cache().up_to(user, upto);
        if after == upto {
            return Ok(counts);
        }
        let (nr, reader) = (self.key.room, user.to_owned());
        let read = rooms.database().read("unread", move |tx| {
            Box::pin(async move { notifications::unread(tx, nr, &reader, after, upto).await })
        });
        for (thread, more) in read.await? {
            let before = counts.entry(thread).or_insert(Unread::NONE);
            *before = before.and(more);
        }
        self.unread_cache().put(user, upto, &counts, changes);
        Ok(counts)
    }
}
