//! What users want the server's administrators to look at.

use ruma::{EventId, RoomId, UserId};

use crate::{Row, StorageError, Tx};

statements! {
    /// A new report.
    PUT_REPORT = "INSERT INTO reports (report, reporter, room_id, event_id, user_id, reason, created_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    /// All reports, oldest first.
    REPORTS = "SELECT report, reporter, room_id, event_id, user_id, reason, created_ms FROM reports
        ORDER BY created_ms, report LIMIT $1";
    /// A page of the reports about events.
    EVENT_REPORTS = "SELECT report, reporter, room_id, event_id, user_id, reason, created_ms FROM reports
        WHERE event_id IS NOT NULL AND (CAST($1 AS TEXT) IS NULL OR reporter = $1) AND (CAST($2 AS TEXT) IS NULL OR room_id = $2)
            AND (CAST($3 AS TEXT) IS NULL OR user_id = $3)
        ORDER BY CASE WHEN $4 THEN 0 ELSE created_ms END, CASE WHEN $4 THEN created_ms ELSE 0 END DESC, report
        LIMIT $5 OFFSET $6";
    /// How many there are.
    COUNT_EVENT_REPORTS = "SELECT COUNT(*) FROM reports
        WHERE event_id IS NOT NULL AND (CAST($1 AS TEXT) IS NULL OR reporter = $1) AND (CAST($2 AS TEXT) IS NULL OR room_id = $2)
            AND (CAST($3 AS TEXT) IS NULL OR user_id = $3)";
    /// One report about an event.
    EVENT_REPORT = "SELECT report, reporter, room_id, event_id, user_id, reason, created_ms FROM reports
        WHERE report = $1 AND event_id IS NOT NULL";
    /// A report about an event goes.
    DELETE_EVENT_REPORT = "DELETE FROM reports WHERE report = $1 AND event_id IS NOT NULL";
}

/// What is reported.
#[derive(Clone, Copy, Debug)]
pub struct Reported<'a> {
    /// The room, or the event's.
    pub room_id: Option<&'a RoomId>,
    /// The event.
    pub event_id: Option<&'a EventId>,
    /// The user, or the event's sender.
    pub user_id: Option<&'a UserId>,
}

/// Which reports about events are wanted, and in which order.
#[derive(Clone, Debug, Default)]
pub struct ReportsWanted {
    /// Only those of this user.
    pub reporter: Option<String>,
    /// Only those about events of this room.
    pub room_id: Option<String>,
    /// Only those about events of this sender.
    pub sender: Option<String>,
    /// Whether the newest come first.
    pub newest_first: bool,
    /// How many are left out at the beginning.
    pub skip: u64,
    /// How many are wanted at most.
    pub limit: u64,
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
    tx.run(PUT_REPORT, values).await?;
    Ok(())
}

/// A report as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its name: the digits of a number.
    pub report: String,
    /// Who reported it.
    pub reporter: String,
    /// The room.
    pub room_id: Option<String>,
    /// The event.
    pub event_id: Option<String>,
    /// The user, or the event's sender.
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
    rows.iter().map(read).collect()
}

/// A page of the reports about events, and how many there are of that kind.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_events(
    tx: &mut Tx,
    wanted: &ReportsWanted,
) -> Result<(Vec<Report>, u64), StorageError> {
    let reporter = wanted.reporter.as_deref();
    let (room, sender) = (wanted.room_id.as_deref(), wanted.sender.as_deref());
    let (down, limit, skip) = (wanted.newest_first, wanted.limit, wanted.skip);
    let values = params![reporter, room, sender, down, limit, skip];
    let rows = tx.query(EVENT_REPORTS, values).await?;
    let values = params![reporter, room, sender];
    let total = tx.query_opt(COUNT_EVENT_REPORTS, values).await?;
    let total = total.map_or(Ok(0), |row| row.int(0))?.unsigned_abs();
    Ok((rows.iter().map(read).collect::<Result<_, _>>()?, total))
}

/// One report about an event.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_event(tx: &mut Tx, report: &str) -> Result<Option<Report>, StorageError> {
    let row = tx.query_opt(EVENT_REPORT, params![report]).await?;
    row.as_ref().map(read).transpose()
}

/// Removes a report about an event. False if there was none.
///
/// # Errors
/// Any [`StorageError`].
pub async fn remove_of_event(tx: &mut Tx, report: &str) -> Result<bool, StorageError> {
    Ok(tx.execute(DELETE_EVENT_REPORT, params![report]).await? == 1)
}

fn read(row: &Row) -> Result<Report, StorageError> {
    let text = |column| -> Result<Option<String>, StorageError> {
        Ok(row.opt_text(column)?.map(str::to_owned))
    };
    Ok(Report {
        report: row.text(0)?.to_owned(),
        reporter: row.text(1)?.to_owned(),
        room_id: text(2)?,
        event_id: text(3)?,
        user_id: text(4)?,
        reason: text(5)?,
        created_ms: row.int(6)?.unsigned_abs(),
    })
}
