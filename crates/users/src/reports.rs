//! What users report to the server's administrators. Client-server API, "Reporting content".

use myelin_storage::{
    Priority, StorageError,
    reports::{self, Report},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};

use crate::{Requester, UserError, Users, error::check_text};

/// The longest reason, in bytes.
const MAX_REASON: usize = 4096;

/// What is reported.
#[derive(Clone, Debug)]
pub enum Reported {
    /// A room.
    Room(OwnedRoomId),
    /// An event of a room.
    Event(OwnedRoomId, OwnedEventId),
    /// A user.
    User(OwnedUserId),
}

impl Users {
    /// What was reported, oldest first, `limit` at most.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn reports(&self, limit: usize) -> Result<Vec<Report>, UserError> {
        let found = self.database().read("reports", move |tx| {
            Box::pin(async move { reports::list(tx, limit).await })
        });
        Ok(found.await?)
    }

    /// Keeps a report for the administrators. That there is such a room or event is for the caller to see.
    ///
    /// # Errors
    /// [`UserError::NotFound`] for a user of this server who does not exist, [`UserError::InvalidParam`] for
    /// a reason that is too long, [`UserError::Storage`].
    pub async fn report(
        &self,
        requester: &Requester,
        what: Reported,
        reason: Option<String>,
    ) -> Result<(), UserError> {
        check_text("reason", reason.as_deref(), MAX_REASON)?;
        if let Reported::User(user) = &what
            && user.server_name() == self.server_name()
            && self.account(user.clone()).await?.is_none()
        {
            return Err(UserError::NotFound("No such user".to_owned()));
        }
        let report = self.env().random.alphanumeric(16);
        let now_ms = self.env().clock.now_ms();
        let reporter = requester.user_id.clone();
        let written: Result<(), StorageError> = self
            .database()
            .write("report", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let (room_id, event_id, user_id) = match &what {
                        Reported::Room(room) => (Some(&**room), None, None),
                        Reported::Event(room, event) => (Some(&**room), Some(&**event), None),
                        Reported::User(user) => (None, None, Some(&**user)),
                    };
                    let what = reports::Reported {
                        room_id,
                        event_id,
                        user_id,
                    };
                    reports::put(tx, &report, &reporter, what, reason.as_deref(), now_ms).await
                })
            })
            .await;
        tracing::info!(user = %requester.user_id, "something was reported");
        Ok(written?)
    }
}
