//! What users report to the server's administrators. Client-server API, "Reporting content".

pub use myelin_storage::reports::ReportsWanted;
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
    /// An event of a room, and its sender.
    Event(OwnedRoomId, OwnedEventId, OwnedUserId),
    /// A user.
    User(OwnedUserId),
}

impl Users {
    /// What was reported, oldest first, `limit` at most.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn reports(&self, limit: usize) -> Result<Vec<Report>, UserError> {
        let found = self.database().look_up("reports", move |tx| {
            Box::pin(async move { reports::list(tx, limit).await })
        });
        Ok(found.await?)
    }

    /// A page of what was reported about events, and how many such reports there are.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn event_reports(
        &self,
        wanted: ReportsWanted,
    ) -> Result<(Vec<Report>, u64), UserError> {
        let found = self.database().read("event_reports", move |tx| {
            Box::pin(async move { reports::of_events(tx, &wanted).await })
        });
        Ok(found.await?)
    }

    /// One report about an event.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn event_report(&self, report: u64) -> Result<Report, UserError> {
        let found = self.database().look_up("event_report", move |tx| {
            Box::pin(async move { reports::of_event(tx, &report.to_string()).await })
        });
        found.await?.ok_or_else(no_such_report)
    }

    /// Removes it.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn remove_event_report(&self, report: u64) -> Result<(), UserError> {
        let removed =
            self.database()
                .write("remove_event_report", Priority::Interactive, move |tx| {
                    Box::pin(async move { reports::remove_of_event(tx, &report.to_string()).await })
                });
        match removed.await? {
            true => Ok(()),
            false => Err(no_such_report()),
        }
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
        // Tools want a number, and some of them cannot read larger ones than that.
        let report = self.env().random.below(1 << 53).to_string();
        let now_ms = self.env().clock.now_ms();
        let reporter = requester.user_id.clone();
        let written: Result<(), StorageError> = self
            .database()
            .write("report", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let (room_id, event_id, user_id) = match &what {
                        Reported::Room(room) => (Some(&**room), None, None),
                        Reported::Event(room, event, sender) => {
                            (Some(&**room), Some(&**event), Some(&**sender))
                        }
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

fn no_such_report() -> UserError {
    UserError::NotFound("Event report not found".to_owned())
}
