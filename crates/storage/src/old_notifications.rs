//! What becomes of rows that say of which events users are told, when they are old: those that were read go,
//! and so do those that are so many behind the newest that nobody counts them.

use myelin_core::number::{EventNr, RoomNr};

use crate::{StorageError, Tx, notifications::MOST_COUNTED};

/// In which order events came, by the clock: a line for each day with the time in Unix milliseconds and the
/// highest number of an event then.
const MARKS: &str = "notification_marks";

/// So many lists are looked at in one transaction.
const LISTS_AT_ONCE: usize = 50;

/// Marks are this far apart.
const MARK_EVERY_MS: u64 = 24 * 60 * 60 * 1000;

/// Up to where the common rows of a room may go: as far as all joined users of this server have read (`$3` is
/// false: threads, which only those have read who have read the whole room), or as far as nobody counts.
macro_rules! common_floor {
    ($threads:literal, $read:literal) => {
        concat!(
            "SELECT COALESCE((SELECT MIN(",
            $read,
            ") FROM local_memberships m
            LEFT JOIN read_positions w ON w.user_id = m.user_id AND w.room = m.room AND w.thread = ''
            LEFT JOIN read_positions t ON t.user_id = m.user_id AND t.room = m.room AND t.thread = 'main'
            WHERE m.room = $1 AND m.membership = 'join'), 9223372036854775807),
            COALESCE((SELECT position FROM notifications WHERE room = $1 AND user_id = '' AND ",
            $threads,
            " ORDER BY position DESC LIMIT 1 OFFSET $2), 0)"
        )
    };
}

/// The same for the rows of one user's own.
macro_rules! own_floor {
    ($threads:literal, $read:literal) => {
        concat!(
            "SELECT COALESCE((SELECT MAX(position) FROM read_positions
            WHERE user_id = $3 AND room = $1 AND thread IN (",
            $read,
            ")), 0), COALESCE((SELECT position FROM notifications WHERE room = $1 AND user_id = $3 AND ",
            $threads,
            " ORDER BY position DESC LIMIT 1 OFFSET $2), 0)"
        )
    };
}

/// Deletes up to `$5` rows of a list up to a position. A row of a user's own stays as long as the common one in
/// whose place it is.
macro_rules! delete {
    ($threads:literal) => {
        concat!(
            "DELETE FROM notifications WHERE room = $1 AND user_id = $2 AND (thread, position) IN (
            SELECT n.thread, n.position FROM notifications n WHERE n.room = $1 AND n.user_id = $2 AND n.",
            $threads,
            " AND n.position <= $3 AND n.event <= $4 AND ($2 = '' OR NOT EXISTS (
                SELECT 1 FROM notifications c WHERE c.room = $1 AND c.user_id = ''
                    AND c.thread = n.thread AND c.position = n.position)) LIMIT $5)"
        )
    };
}

statements! {
    /// The next list of rows: a room's common ones, or those of one of its users.
    NEXT_LIST = "SELECT room, user_id FROM notifications WHERE (room, user_id) > ($1, $2)
        ORDER BY room, user_id LIMIT 1";
    /// Main timeline, rows for all.
    COMMON_MAIN = common_floor!("thread = 'main'", "CASE WHEN COALESCE(t.position, 0) > COALESCE(w.position, 0)
            THEN t.position ELSE COALESCE(w.position, 0) END");
    /// Threads, rows for all.
    COMMON_THREADS = common_floor!("thread <> 'main'", "COALESCE(w.position, 0)");
    /// Main timeline, one user's rows.
    OWN_MAIN = own_floor!("thread = 'main'", "'', 'main'");
    /// Threads, one user's rows.
    OWN_THREADS = own_floor!("thread <> 'main'", "''");
    /// In the main timeline.
    DELETE_MAIN = delete!("thread = 'main'");
    /// In threads.
    DELETE_THREADS = delete!("thread <> 'main'");
    /// The newest event.
    NEWEST = "SELECT COALESCE(MAX(event), 0) FROM events";
}

/// A list of rows: a room's common ones (no user), or those of one of its users.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct List {
    /// The room.
    pub room: RoomNr,
    /// Empty for the common ones.
    pub user: String,
}

/// Which rows may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Those of events up to this one.
    pub upto: EventNr,
    /// So many of the newest of each list stay, unless they were read.
    pub unread: usize,
    /// So many rows at once.
    pub at_once: usize,
}

impl Bounds {
    /// Rows of events up to this one; the newest unread ones stay as far as they are counted.
    #[must_use]
    pub fn up_to(upto: EventNr) -> Self {
        Self {
            upto,
            unread: MOST_COUNTED,
            at_once: 1_000,
        }
    }
}

/// How far the lists were gone through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// To the end.
    Done,
    /// There is more after this one.
    GoOn(Option<List>),
}

/// Goes through some of the lists after one, and deletes rows that may go.
///
/// # Errors
/// Any [`StorageError`].
pub async fn prune_some(
    tx: &mut Tx,
    after: Option<List>,
    bounds: Bounds,
) -> Result<Progress, StorageError> {
    let mut done = after;
    let mut left = bounds.at_once;
    for _ in 0..LISTS_AT_ONCE {
        let Some(list) = next_list(tx, done.as_ref()).await? else {
            return Ok(Progress::Done);
        };
        let at_once = left;
        let deleted = prune(tx, &list, Bounds { at_once, ..bounds }).await?;
        left = left.saturating_sub(usize::try_from(deleted).unwrap_or(usize::MAX));
        if left == 0 {
            break;
        }
        done = Some(list);
    }
    Ok(Progress::GoOn(done))
}

/// The list after another one.
async fn next_list(tx: &mut Tx, after: Option<&List>) -> Result<Option<List>, StorageError> {
    let (room, user) = after.map_or((RoomNr(0), ""), |after| (after.room, &*after.user));
    let row = tx.query_opt(NEXT_LIST, params![room, user]).await?;
    row.map(|row| {
        Ok(List {
            room: RoomNr(row.int(0)?),
            user: row.text(1)?.to_owned(),
        })
    })
    .transpose()
}

/// Deletes some of the rows of a list that may go. Returns how many that were: fewer than allowed at once if
/// it has no more.
async fn prune(tx: &mut Tx, list: &List, bounds: Bounds) -> Result<u64, StorageError> {
    let is_common = list.user.is_empty();
    let statements = match is_common {
        true => [(COMMON_MAIN, DELETE_MAIN), (COMMON_THREADS, DELETE_THREADS)],
        false => [(OWN_MAIN, DELETE_MAIN), (OWN_THREADS, DELETE_THREADS)],
    };
    let mut deleted = 0;
    for (floor, delete) in statements {
        let (room, user) = (list.room, &*list.user);
        let values: &[_] = match is_common {
            true => params![room, bounds.unread],
            false => params![room, bounds.unread, user],
        };
        let Some(row) = tx.query_opt(floor, values).await? else {
            continue;
        };
        let upto = row.int(0)?.max(row.int(1)?);
        let left = (bounds.at_once as u64).saturating_sub(deleted);
        let values = params![room, user, upto, bounds.upto, left];
        deleted += tx.execute(delete, values).await?;
    }
    Ok(deleted)
}

/// Notes how far events have come, once a day, and says how far they had come at an earlier time: `None` if
/// nothing is known of that.
///
/// # Errors
/// Any [`StorageError`].
pub async fn newest_at(
    tx: &mut Tx,
    now_ms: u64,
    then_ms: u64,
) -> Result<Option<EventNr>, StorageError> {
    let stored = crate::rooms::setting(tx, MARKS).await?.unwrap_or_default();
    let stored = String::from_utf8_lossy(&stored).into_owned();
    let mut marks: Vec<(u64, i64)> = stored.lines().filter_map(read_mark).collect();
    if marks
        .last()
        .is_none_or(|(at_ms, _)| now_ms.saturating_sub(*at_ms) >= MARK_EVERY_MS)
    {
        let row = tx.query_opt(NEWEST, params![]).await?;
        marks.push((now_ms, row.map_or(Ok(0), |row| row.int(0))?));
    }
    let known = marks.iter().rposition(|(at_ms, _)| *at_ms <= then_ms);
    // Those before it will never be asked for again.
    marks.drain(..known.unwrap_or(0));
    let lines: Vec<String> = marks
        .iter()
        .map(|(at_ms, event)| format!("{at_ms} {event}"))
        .collect();
    crate::rooms::set_setting(tx, MARKS, lines.join("\n").as_bytes()).await?;
    Ok(known.map(|_| EventNr(marks[0].1)))
}

fn read_mark(line: &str) -> Option<(u64, i64)> {
    let (at_ms, event) = line.split_once(' ')?;
    Some((at_ms.parse().ok()?, event.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use myelin_core::{
        number::{EventNr, RoomNr, StreamPosition},
        push_rules::Notification,
    };
    use ruma::{UserId, user_id};

    use super::{Bounds, MARK_EVERY_MS, Progress, newest_at, next_list, prune, prune_some};
    use crate::{
        BoxFuture, Priority, StorageError, Tx,
        notifications::{self, MAIN, NewNotification, Unread},
        testing::on_each_engine,
    };

    const ROOM: RoomNr = RoomNr(1);
    const EVERYTHING: Bounds = Bounds {
        upto: EventNr(i64::MAX),
        unread: 100,
        at_once: 100,
    };

    fn users() -> [&'static UserId; 2] {
        [user_id!("@alice:x"), user_id!("@bob:x")]
    }

    async fn tell(
        tx: &mut Tx,
        position: i64,
        user: Option<&UserId>,
        thread: &str,
        told: bool,
    ) -> Result<(), StorageError> {
        let new = NewNotification {
            user: user.map(UserId::to_owned),
            thread: thread.to_owned(),
            position: StreamPosition(position),
            event: EventNr(position),
            author: None,
            notification: told.then(|| Notification {
                actions: "[\"notify\"]".to_owned(),
                highlight: user.is_some(),
            }),
        };
        notifications::put(tx, ROOM, &new).await
    }

    /// Alice and bob are told of ten messages and of three in a thread; bob of one otherwise, and of another
    /// not at all.
    async fn fill(tx: &mut Tx) -> Result<(), StorageError> {
        for user in users() {
            let sql = "INSERT INTO local_memberships (user_id, room, membership, event, position, forgotten)
                VALUES ($1, 1, 'join', 1, 1, FALSE)";
            tx.run(sql, params![user.as_str()]).await?;
        }
        for position in 1..=10 {
            tell(tx, position, None, MAIN, true).await?;
        }
        for position in 11..=13 {
            tell(tx, position, None, "$root", true).await?;
        }
        tell(tx, 3, Some(users()[1]), MAIN, false).await?;
        tell(tx, 8, Some(users()[1]), MAIN, true).await
    }

    async fn read_to(
        tx: &mut Tx,
        user: usize,
        thread: Option<&str>,
        position: i64,
    ) -> Result<(), StorageError> {
        let position = StreamPosition(position);
        notifications::read_up_to(tx, ROOM, users()[user], thread, position).await
    }

    async fn counts(tx: &mut Tx) -> Result<Vec<BTreeMap<String, Unread>>, StorageError> {
        let mut counts = Vec::new();
        for user in users() {
            let (from, to) = (StreamPosition(0), StreamPosition(i64::MAX));
            counts.push(notifications::unread(tx, ROOM, user, from, to).await?);
        }
        Ok(counts)
    }

    /// How many rows go of each list.
    async fn prune_all(tx: &mut Tx, bounds: Bounds) -> Result<Vec<u64>, StorageError> {
        let (mut deleted, mut list) = (Vec::new(), next_list(tx, None).await?);
        while let Some(of) = list {
            deleted.push(prune(tx, &of, bounds).await?);
            list = next_list(tx, Some(&of)).await?;
        }
        Ok(deleted)
    }

    async fn on_filled(test: fn(&mut Tx) -> BoxFuture<'_, Result<(), StorageError>>) {
        on_each_engine(|fresh| async move {
            let done = fresh.database.write("prune", Priority::Bulk, move |tx| {
                Box::pin(async move {
                    fill(tx).await?;
                    test(tx).await
                })
            });
            done.await.unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn rows_go_that_all_have_read_and_counts_stay_as_they_are() {
        on_filled(|tx| {
            Box::pin(async move {
                read_to(tx, 0, Some(MAIN), 6).await?;
                read_to(tx, 1, Some(MAIN), 4).await?;
                let before = counts(tx).await?;
                let young = Bounds {
                    upto: EventNr(2),
                    ..EVERYTHING
                };
                assert_eq!(prune_all(tx, young).await?, [2, 0]);
                assert_eq!(prune_all(tx, EVERYTHING).await?, [2, 1]);
                assert_eq!(prune_all(tx, EVERYTHING).await?, [0, 0]);
                assert_eq!(counts(tx).await?, before);
                // Threads are read by who has read the room.
                for user in [0, 1] {
                    read_to(tx, user, None, 12).await?;
                }
                let before = counts(tx).await?;
                assert_eq!(prune_all(tx, EVERYTHING).await?, [6 + 2, 1]);
                assert_eq!(counts(tx).await?, before);
                Ok(())
            })
        })
        .await;
    }

    #[tokio::test]
    async fn a_row_of_a_users_own_stays_as_long_as_the_common_one() {
        on_filled(|tx| {
            Box::pin(async move {
                read_to(tx, 1, None, 13).await?;
                let before = counts(tx).await?;
                assert_eq!(
                    prune_all(tx, EVERYTHING).await?,
                    [0, 0],
                    "alice has not read"
                );
                assert_eq!(counts(tx).await?, before);
                Ok(())
            })
        })
        .await;
    }

    #[tokio::test]
    async fn of_what_nobody_reads_as_much_stays_as_is_counted() {
        on_filled(|tx| {
            Box::pin(async move {
                let few = Bounds {
                    unread: 4,
                    at_once: 5,
                    ..EVERYTHING
                };
                let after = prune_some(tx, None, few).await?;
                assert_eq!(after, Progress::GoOn(None), "five rows at once");
                let after = prune_some(tx, None, few).await?;
                assert_eq!(after, Progress::Done);
                let unread = counts(tx).await?;
                let count =
                    |user: usize, thread| unread[user].get(thread).map(|of| of.notifications);
                assert_eq!((count(0, MAIN), count(0, "$root")), (Some(4), Some(3)));
                assert_eq!((count(1, MAIN), count(1, "$root")), (Some(4), Some(3)));
                Ok(())
            })
        })
        .await;
    }

    #[tokio::test]
    async fn how_far_events_had_come_is_known_to_the_day() {
        on_filled(|tx| {
            Box::pin(async move {
                let insert = "INSERT INTO events (event, event_id, room, verdict, depth, partial)
                    VALUES ($1, $2, 1, 1, 1, FALSE)";
                let mut known = Vec::new();
                for day in 1..=5_u64 {
                    let id = day.to_be_bytes();
                    tx.run(insert, params![day * 10, &id[..]]).await?;
                    let now_ms = day * MARK_EVERY_MS;
                    known.push(
                        newest_at(tx, now_ms, now_ms.saturating_sub(2 * MARK_EVERY_MS)).await?,
                    );
                    // Within the day no other mark is made.
                    newest_at(tx, now_ms + 1, 0).await?;
                }
                let expected = [None, None, Some(10), Some(20), Some(30)];
                assert_eq!(known, expected.map(|event| event.map(EventNr)));
                Ok(())
            })
        })
        .await;
    }
}
