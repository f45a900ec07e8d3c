//! Users whose accounts were closed leave all their rooms (client-server API, "Account deactivation").
//!
//! Who closes an account notes that in the same transaction. The note goes when the user is out of all
//! rooms that can be left; after a crash those that are left are gone through again.

use myelin_core::state::Membership;
use myelin_storage::{Priority, StorageError, accounts, rooms as room_table};
use ruma::{OwnedUserId, UserId};

use crate::{RoomError, Rooms, notes::READ_TOGETHER};

impl Rooms {
    /// An account was closed: its user leaves all rooms, in the background.
    pub fn account_closed(&self) {
        self.0.departure_news.notify_one();
    }

    /// Lets users leave from now on, beginning with those who were not done.
    pub(crate) fn start_departures(&self) {
        self.work_through_notes(
            "leave rooms",
            |rooms| &rooms.0.departure_news,
            |rooms| Box::pin(rooms.let_all_depart()),
        );
    }

    /// Goes through all notes once. Those over which the database fails stay.
    async fn let_all_depart(&self) -> Result<(), StorageError> {
        let mut after = String::new();
        let mut outcome = Ok(());
        loop {
            let place = after.clone();
            let page = self.database().look_up("departing users", move |tx| {
                Box::pin(async move { accounts::departing(tx, &place, READ_TOGETHER).await })
            });
            let page = page.await?;
            let Some(last) = page.last() else {
                return outcome;
            };
            after = last.to_string();
            for user in page {
                outcome = outcome.and(self.let_depart(user).await);
            }
        }
    }

    /// Takes one user out of all rooms: joins, invites and knocks.
    async fn let_depart(&self, user: OwnedUserId) -> Result<(), StorageError> {
        let wanted = user.clone();
        let memberships = self.database().look_up("rooms of a user", move |tx| {
            Box::pin(async move { room_table::memberships_of_user(tx, &wanted).await })
        });
        for membership in memberships.await? {
            let standing = Membership::from_name(&membership.membership);
            if let Some(Membership::Join | Membership::Invite | Membership::Knock) = standing {
                self.depart_from(&user, &membership.room_id).await?;
            }
        }
        self.database()
            .write("a user has left", Priority::Bulk, move |tx| {
                Box::pin(async move { accounts::forget_departure(tx, &user).await })
            })
            .await
    }

    async fn depart_from(&self, user: &UserId, room: &ruma::RoomId) -> Result<(), StorageError> {
        match self.leave(user, room, None).await {
            Ok(()) => Ok(()),
            Err(RoomError::Storage(error)) if !error.is_lasting() => Err(error),
            // What a room does not permit now it will not permit later.
            Err(error) => {
                tracing::warn!(%room, %user, %error, "a closed account stays in a room");
                Ok(())
            }
        }
    }
}
