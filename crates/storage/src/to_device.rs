//! Messages that wait for devices of this server, and which messages were taken before.

use myelin_core::number::StreamPosition;
use ruma::UserId;

use crate::{StorageError, Tx};

statements! {
    /// One more message for a device.
    PUT_MESSAGE = "INSERT INTO to_device_inbox (user_id, device_id, position, event) VALUES ($1, $2, $3, $4)";
    /// Those beyond the newest `$3` go.
    TRIM_MESSAGES = "DELETE FROM to_device_inbox WHERE user_id = $1 AND device_id = $2 AND position <= (
        SELECT position FROM to_device_inbox WHERE user_id = $1 AND device_id = $2
        ORDER BY position DESC LIMIT 1 OFFSET $3)";
    /// What waits for a device in a span of the stream.
    MESSAGES = "SELECT position, event FROM to_device_inbox
        WHERE user_id = $1 AND device_id = $2 AND position > $3 AND position <= $4
        ORDER BY position LIMIT $5";
    /// The newest message for a device up to a position.
    NEWEST_UPTO = "SELECT MAX(position) FROM to_device_inbox
        WHERE user_id = $1 AND device_id = $2 AND position <= $3";
    /// The device has them.
    DELETE_MESSAGES = "DELETE FROM to_device_inbox WHERE user_id = $1 AND device_id = $2 AND position <= $3";
    /// The highest position in use.
    LAST_POSITION = "SELECT MAX(position) FROM (SELECT MAX(position) AS position FROM to_device_inbox
        UNION ALL SELECT MAX(position) FROM account_data
        UNION ALL SELECT MAX(position) FROM edu_outbox) AS used";
    /// The highest position of a row that was deleted. Big-endian numbers sort as blobs.
    NOTE_DELETED = "INSERT INTO settings (name, value) VALUES ('to_device_deleted', $1)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE excluded.value > settings.value";
    /// See above.
    DELETED = "SELECT value FROM settings WHERE name = 'to_device_deleted'";
    /// A message is taken once.
    TAKE = "INSERT INTO to_device_taken (source, message_id, taken_ms) VALUES ($1, $2, $3)
        ON CONFLICT DO NOTHING";
    /// Forgets which messages were taken long ago.
    DELETE_TAKEN = "DELETE FROM to_device_taken WHERE taken_ms < $1";
}

/// How many messages wait for one device at most. If it is away for longer, the oldest are lost.
pub const MOST_WAITING: usize = 100_000;

/// A message that waits for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingMessage {
    /// In the stream of messages.
    pub position: StreamPosition,
    /// The event as JSON.
    pub event: Vec<u8>,
}

/// Notes that a message is taken; false if it was before. `source` chose the ID: a server, or a user's
/// device.
///
/// # Errors
/// Any [`StorageError`].
pub async fn take(
    tx: &mut Tx,
    source: &str,
    message_id: &str,
    now_ms: u64,
) -> Result<bool, StorageError> {
    let new = tx
        .execute(TAKE, params![source, message_id, now_ms])
        .await?;
    Ok(new > 0)
}

/// Forgets which messages were taken before a time in milliseconds.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete_taken(tx: &mut Tx, before_ms: u64) -> Result<u64, StorageError> {
    tx.execute(DELETE_TAKEN, params![before_ms]).await
}

/// Queues a message for a device, and answers how many older ones had to go for it.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    position: StreamPosition,
    event: &[u8],
) -> Result<u64, StorageError> {
    tx.run(
        PUT_MESSAGE,
        params![user.as_str(), device_id, position, event],
    )
    .await?;
    let device = params![user.as_str(), device_id, MOST_WAITING];
    tx.execute(TRIM_MESSAGES, device).await
}

/// The oldest messages for a device after a position, and up to another, in order.
///
/// # Errors
/// Any [`StorageError`].
pub async fn waiting(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    (after, upto): (StreamPosition, StreamPosition),
    limit: usize,
) -> Result<Vec<WaitingMessage>, StorageError> {
    let rows = tx
        .query(
            MESSAGES,
            params![user.as_str(), device_id, after, upto, limit],
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingMessage {
                position: StreamPosition(row.int(0)?),
                event: row.blob(1)?.to_vec(),
            })
        })
        .collect()
}

/// The newest message for a device up to a position, if one waits.
///
/// # Errors
/// Any [`StorageError`].
pub async fn newest_upto(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    upto: StreamPosition,
) -> Result<Option<StreamPosition>, StorageError> {
    let row = tx
        .query_opt(NEWEST_UPTO, params![user.as_str(), device_id, upto])
        .await?;
    let newest = row.map_or(Ok(None), |row| row.opt_int(0))?;
    Ok(newest.map(StreamPosition))
}

/// Removes a device's messages up to a position. Their positions are not given out again.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete_upto(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    upto: StreamPosition,
) -> Result<(), StorageError> {
    let Some(newest) = newest_upto(tx, user, device_id, upto).await? else {
        return Ok(());
    };
    tx.run(NOTE_DELETED, params![&newest.0.to_be_bytes()])
        .await?;
    tx.run(DELETE_MESSAGES, params![user.as_str(), device_id, upto])
        .await?;
    Ok(())
}

/// Notes how far positions have come, before rows that hold some are deleted.
pub(crate) async fn note_deleted(tx: &mut Tx) -> Result<(), StorageError> {
    let last = last_position(tx).await?;
    tx.execute(NOTE_DELETED, params![&last.0.to_be_bytes()])
        .await
        .map(drop)
}

/// The highest position that was ever given out.
///
/// # Errors
/// Any [`StorageError`].
pub async fn last_position(tx: &mut Tx) -> Result<StreamPosition, StorageError> {
    let used = match tx.query_opt(LAST_POSITION, params![]).await? {
        Some(row) => row.opt_int(0)?.unwrap_or(0),
        None => 0,
    };
    let deleted = match tx.query_opt(DELETED, params![]).await? {
        Some(row) => <[u8; 8]>::try_from(row.blob(0)?)
            .map(i64::from_be_bytes)
            .map_err(|_| StorageError::Corrupt("the position of deleted messages".into()))?,
        None => 0,
    };
    Ok(StreamPosition(used.max(deleted)))
}

#[cfg(test)]
mod tests {
    use super::{StreamPosition, delete_upto, last_position, put, take, waiting};
    use crate::{Priority, StorageError, testing::on_each_engine};
    use ruma::user_id;

    const ALL: (StreamPosition, StreamPosition) = (StreamPosition(0), StreamPosition(i64::MAX));

    #[tokio::test]
    async fn a_devices_messages_go_when_it_has_them_and_their_positions_with_them() {
        on_each_engine(|fresh| async move {
            let alice = user_id!("@alice:x.example");
            let write = fresh.database.write::<_, StorageError, _>(
                "messages",
                Priority::Interactive,
                move |tx| {
                    Box::pin(async move {
                        assert_eq!(last_position(tx).await?, StreamPosition(0));
                        for (device, position) in [("A", 255), ("A", 256), ("B", 257)] {
                            put(tx, alice, device, StreamPosition(position), b"{}").await?;
                        }
                        delete_upto(tx, alice, "A", StreamPosition(255)).await?;
                        let of_a = waiting(tx, alice, "A", ALL, 10).await?;
                        let nothing = (StreamPosition(256), StreamPosition(999));
                        assert!(waiting(tx, alice, "A", nothing, 10).await?.is_empty());
                        delete_upto(tx, alice, "B", StreamPosition(300)).await?;
                        delete_upto(tx, alice, "A", StreamPosition(300)).await?;
                        assert!(waiting(tx, alice, "A", ALL, 10).await?.is_empty());
                        Ok((of_a, last_position(tx).await?))
                    })
                },
            );
            let (of_a, last) = write.await.unwrap();
            assert_eq!(of_a.len(), 1);
            assert_eq!(of_a[0].position, StreamPosition(256));
            assert_eq!(last, StreamPosition(257));
        })
        .await;
    }

    #[tokio::test]
    async fn a_message_is_taken_once() {
        on_each_engine(|fresh| async move {
            let write = fresh.database.write::<_, StorageError, _>(
                "take",
                Priority::Interactive,
                move |tx| {
                    Box::pin(async move {
                        Ok([
                            take(tx, "a.example", "1", 10).await?,
                            take(tx, "a.example", "1", 20).await?,
                            take(tx, "b.example", "1", 30).await?,
                        ])
                    })
                },
            );
            assert_eq!(write.await.unwrap(), [true, false, true]);
        })
        .await;
    }
}
