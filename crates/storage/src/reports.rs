//! What users want the server's administrators to look at.

use ruma::{EventId, RoomId, UserId};

use crate::{Row, StorageError, Tx};

statements! {
    /// A new report.
    PUT_REPORT = "INSERT INTO reports (report, reporter, room_id, event_id, user_id, reason, created_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    /// All reports, oldest first.
    REPORTS = "SELECT reporter, room_id, event_id, user_id, reason, created_ms FROM reports
        ORDER BY created_ms, report LIMIT $1";
}

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// The room, or the event's.
    pub room_id: Option<&'a RoomId>,
    /// The event.
    pub event_id: Option<&'a EventId>,
    /// The user.
    pub user_id: Option<&'a UserId>,
}

/// Stores a report under a new name.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    report: &str,
    reporter: &UserId,
    what: Reported<'_>,
    reason: Option<&str>,
    now_ms: u64,
) -> Result<(), StorageError> {
    let (room, event) = (
        what.room_id.map(RoomId::as_str),
        what.event_id.map(EventId::as_str),
    );
    let user = what.user_id.map(UserId::as_str);
    let values = params![report, reporter.as_str(), room, event, user, reason, now_ms];
    tx.execute(PUT_REPORT, values).await?;
    Ok(())
}

/// A report as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who reported it.
    pub reporter: String,
    /// The room.
    pub room_id: Option<String>,
    /// The event.
    pub event_id: Option<String>,
    /// The user.
    pub user_id: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// When, in Unix milliseconds.
    pub created_ms: u64,
}

/// The first reports, oldest first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn list(tx: &mut Tx, limit: usize) -> Result<Vec<Report>, StorageError> {
    let rows = tx.query(REPORTS, params![limit]).await?;
    let text = |row: &Row, column| -> Result<Option<String>, StorageError> {
        Ok(row.opt_text(column)?.map(str::to_owned))
    };
    let report = |row: &Row| {
        Ok(Report {
            reporter: row.text(0)?.to_owned(),
            room_id: text(row, 1)?,
            event_id: text(row, 2)?,
            user_id: text(row, 3)?,
            reason: text(row, 4)?,
            created_ms: row.int(5)?.unsigned_abs(),
        })
    };
    rows.iter().map(report).collect()
}
