//! Up to where users have read in rooms.

use myelin_core::number::{RoomNr, StreamPosition};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{Row, StorageError, Tx, rooms};

statements! {
    /// A receipt takes the place of an earlier one, unless it is for an older event.
    PUT_RECEIPT = "INSERT INTO receipts
            (room, receipt_type, user_id, thread, event_id, event_position, read_ms, position)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (room, receipt_type, user_id, thread) DO UPDATE SET
            event_id = excluded.event_id, event_position = excluded.event_position,
            read_ms = excluded.read_ms, position = excluded.position
        WHERE receipts.event_id <> excluded.event_id AND (receipts.event_position IS NULL
            OR excluded.event_position IS NULL OR excluded.event_position > receipts.event_position)";
    /// Those of a user for threads of a room go, but for the newest.
    FORGET_THREADS = "DELETE FROM receipts
        WHERE room = $1 AND receipt_type = $2 AND user_id = $3 AND thread <> '' AND position <= (
            SELECT position FROM receipts
            WHERE room = $1 AND receipt_type = $2 AND user_id = $3 AND thread <> ''
            ORDER BY position DESC LIMIT 1 OFFSET $4)";
    /// The newest receipts of a room that a user may see, in a span of the stream.
    RECEIPTS = "SELECT receipt_type, user_id, thread, event_id, read_ms FROM receipts
        WHERE room = $1 AND (receipt_type = 'm.read' OR user_id = $2) AND position > $3 AND position <= $4
        ORDER BY position DESC LIMIT $5";
    /// The joined rooms of a user with receipts that it may see, in a span of the stream.
    ROOMS_WITH_RECEIPTS = "SELECT DISTINCT r.room_id FROM receipts c
        JOIN local_memberships m ON m.room = c.room AND m.user_id = $1 AND m.membership = 'join'
        JOIN rooms r ON r.room = c.room
        WHERE c.position > $2 AND c.position <= $3 AND (c.receipt_type = 'm.read' OR c.user_id = $1)";
    /// Up to where a user says to have read a room.
    FULLY_READ = "SELECT c.event_id FROM receipts c JOIN rooms r ON r.room = c.room
        WHERE r.room_id = $1 AND c.receipt_type = 'm.fully_read' AND c.user_id = $2 AND c.thread = ''";
    /// The last position in use.
    LAST_RECEIPT = "SELECT MAX(position) FROM receipts";
}

/// The setting for the last position of receipts that may be gone.
const KEPT_POSITION: &str = "last_receipt";

/// What a receipt is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptType {
    /// `m.read`: everybody in the room sees it.
    Read,
    /// `m.read.private`: only the user sees it.
    PrivateRead,
    /// `m.fully_read`: a mark for the user itself.
    FullyRead,
}

impl ReceiptType {
    /// The specification's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "m.read",
            Self::PrivateRead => "m.read.private",
            Self::FullyRead => "m.fully_read",
        }
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let all = [Self::Read, Self::PrivateRead, Self::FullyRead];
        all.into_iter()
            .find(|receipt_type| receipt_type.name() == name)
    }
}

/// Up to where a user has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What it is for.
    pub receipt_type: ReceiptType,
    /// Who has read.
    pub user_id: OwnedUserId,
    /// The root of a thread, or `main`; none: the room as a whole.
    pub thread: Option<String>,
    /// The last event that was read.
    pub event_id: OwnedEventId,
    /// When (Unix milliseconds).
    pub read_ms: u64,
}

/// Stores a receipt, and answers whether that changed anything: one for an event that was read before,
/// or for an older one, does not. `event_position` is that of its event, if it is held.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    room: RoomNr,
    receipt: &Receipt,
    event_position: Option<StreamPosition>,
    position: StreamPosition,
) -> Result<bool, StorageError> {
    let changed = tx
        .execute(
            PUT_RECEIPT,
            params![
                room,
                receipt.receipt_type.name(),
                receipt.user_id.as_str(),
                receipt.thread.as_deref().unwrap_or_default(),
                receipt.event_id.as_str(),
                event_position,
                receipt.read_ms,
                position,
            ],
        )
        .await?;
    Ok(changed > 0)
}

/// Of the receipts of a receipt's type and user for threads of a room, so many stay: the newest.
///
/// # Errors
/// Any [`StorageError`].
pub async fn forget_threads(
    tx: &mut Tx,
    room: RoomNr,
    receipt: &Receipt,
    stay: usize,
) -> Result<(), StorageError> {
    let (receipt_type, user) = (receipt.receipt_type.name(), receipt.user_id.as_str());
    tx.execute(FORGET_THREADS, params![room, receipt_type, user, stay])
        .await
        .map(drop)
}

/// The newest receipts of a room after a position and up to another, newest first: those for everybody
/// and the viewer's own.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_room(
    tx: &mut Tx,
    room: RoomNr,
    viewer: &UserId,
    (after, upto): (StreamPosition, StreamPosition),
    limit: usize,
) -> Result<Vec<Receipt>, StorageError> {
    let rows = tx
        .query(RECEIPTS, params![room, viewer.as_str(), after, upto, limit])
        .await?;
    rows.iter().map(read).collect()
}

/// The rooms of a user with receipts for it after a position and up to another.
///
/// # Errors
/// Any [`StorageError`].
pub async fn rooms_with_news(
    tx: &mut Tx,
    user: &UserId,
    (after, upto): (StreamPosition, StreamPosition),
) -> Result<Vec<OwnedRoomId>, StorageError> {
    let rows = tx
        .query(ROOMS_WITH_RECEIPTS, params![user.as_str(), after, upto])
        .await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}

/// The event up to which a user says to have read a room (`m.fully_read`).
///
/// # Errors
/// Any [`StorageError`].
pub async fn fully_read(
    tx: &mut Tx,
    room_id: &RoomId,
    user: &UserId,
) -> Result<Option<OwnedEventId>, StorageError> {
    let values = params![room_id.as_str(), user.as_str()];
    let row = tx.query_opt(FULLY_READ, values).await?;
    row.map(|row| row.parsed(0)).transpose()
}

/// The last position that was given out. A receipt is replaced by a later one, or goes with its room.
///
/// # Errors
/// Any [`StorageError`].
pub async fn last_position(tx: &mut Tx) -> Result<StreamPosition, StorageError> {
    let row = tx.query_opt(LAST_RECEIPT, params![]).await?;
    let last = row.map_or(Ok(None), |row| row.opt_int(0))?;
    let kept = rooms::cursor(tx, KEPT_POSITION).await?;
    Ok(StreamPosition(last.unwrap_or(0)).max(kept))
}

/// Keeps in mind how far positions have come, before rows that hold some are deleted.
pub(crate) async fn keep_position(tx: &mut Tx) -> Result<(), StorageError> {
    let last = last_position(tx).await?;
    rooms::set_cursor(tx, KEPT_POSITION, last).await
}

fn read(row: &Row) -> Result<Receipt, StorageError> {
    let receipt_type = ReceiptType::from_name(row.text(0)?);
    let thread = row.text(2)?;
    Ok(Receipt {
        receipt_type: receipt_type.ok_or_else(|| corrupt(&"its type"))?,
        user_id: row.parsed(1)?,
        thread: (!thread.is_empty()).then(|| thread.to_owned()),
        event_id: row.parsed(3)?,
        read_ms: row.int(4)?.unsigned_abs(),
    })
}

fn corrupt(error: &dyn std::fmt::Display) -> StorageError {
    StorageError::Corrupt(format!("receipt: {error}"))
}

#[cfg(test)]
mod tests {
    use super::{Receipt, ReceiptType, RoomNr, StreamPosition, last_position, of_room, put};
    use crate::{Priority, StorageError, testing::on_each_engine};
    use ruma::{OwnedEventId, OwnedUserId, UserId, user_id};

    fn receipt(user: &UserId, receipt_type: ReceiptType, thread: &str, event: &str) -> Receipt {
        Receipt {
            receipt_type,
            user_id: OwnedUserId::from(user),
            thread: (!thread.is_empty()).then(|| thread.to_owned()),
            event_id: OwnedEventId::try_from(event).expect("an event ID"),
            read_ms: 5,
        }
    }

    #[tokio::test]
    async fn receipts_move_forward_only_and_private_ones_are_the_users_own() {
        on_each_engine(|fresh| async move {
            let (alice, bob) = (user_id!("@alice:x.example"), user_id!("@bob:x.example"));
            let write = fresh.database.write::<_, StorageError, _>(
                "receipts",
                Priority::Interactive,
                move |tx| {
                    Box::pin(async move {
                        let read = |event| receipt(alice, ReceiptType::Read, "", event);
                        let room = RoomNr(1);
                        let mut changed = Vec::new();
                        // The event's position; none: it is not held.
                        for (number, (event, at)) in [
                            ("$b", Some(20)),
                            ("$a", Some(10)),
                            ("$b", Some(20)),
                            ("$unknown", None),
                            ("$unknown", None),
                            ("$c", Some(30)),
                        ]
                        .into_iter()
                        .enumerate()
                        {
                            let position = StreamPosition(number as i64 + 1);
                            let at = at.map(StreamPosition);
                            changed.push(put(tx, room, &read(event), at, position).await?);
                        }
                        let private = receipt(bob, ReceiptType::PrivateRead, "main", "$a");
                        put(tx, room, &private, None, StreamPosition(7)).await?;
                        let all = (StreamPosition(0), StreamPosition(100));
                        let of_alice = of_room(tx, room, alice, all, 10).await?;
                        let of_bob = of_room(tx, room, bob, all, 10).await?;
                        assert_eq!(of_alice, [read("$c")]);
                        assert_eq!(of_bob, [private, read("$c")]);
                        let newer = (StreamPosition(6), StreamPosition(100));
                        assert!(of_room(tx, room, alice, newer, 10).await?.is_empty());
                        assert_eq!(last_position(tx).await?, StreamPosition(7));
                        Ok(changed)
                    })
                },
            );
            let changed = write.await.unwrap();
            assert_eq!(changed, [true, false, false, true, false, true]);
        })
        .await;
    }
}
