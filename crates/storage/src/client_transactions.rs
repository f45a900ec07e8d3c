//! Which event a client's transaction made, so that a repeated request makes no second one.

use ruma::{EventId, OwnedEventId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// The event that a transaction made.
    CLIENT_TRANSACTION = "SELECT event_id FROM client_transactions
        WHERE user_id = $1 AND device_id = $2 AND path = $3";
    /// The transaction behind an event of one device.
    TRANSACTION_OF_EVENT = "SELECT path FROM client_transactions
        WHERE event_id = $1 AND user_id = $2 AND device_id = $3";
    /// Keeps which event a transaction made.
    PUT_CLIENT_TRANSACTION = "INSERT INTO client_transactions (user_id, device_id, path, event_id, created_ts)
        VALUES ($1, $2, $3, $4, $5)";
    /// Forgets old transactions.
    DELETE_CLIENT_TRANSACTIONS = "DELETE FROM client_transactions WHERE created_ts < $1";
}

/// A request that a client may repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTransaction {
    /// The device that sent it.
    pub device_id: String,
    /// What the client made unique: the path of the request with its transaction ID at the end.
    pub path: String,
}

impl ClientTransaction {
    /// The client's transaction ID.
    pub fn id(path: &str) -> &str {
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// The event that a transaction made earlier.
pub async fn event(
    tx: &mut Tx,
    user: &UserId,
    transaction: &ClientTransaction,
) -> Result<Option<OwnedEventId>, StorageError> {
    let row = tx
        .query_opt(
            CLIENT_TRANSACTION,
            params![
                user.as_str(),
                &transaction.device_id[..],
                &transaction.path[..]
            ],
        )
        .await?;
    row.map(|row| row.parsed(0)).transpose()
}

/// The transaction ID with which a device made an event, for `unsigned.transaction_id`.
pub async fn id_of_event(
    tx: &mut Tx,
    event: &EventId,
    user: &UserId,
    device_id: &str,
) -> Result<Option<String>, StorageError> {
    let row = tx
        .query_opt(
            TRANSACTION_OF_EVENT,
            params![event.as_str(), user.as_str(), device_id],
        )
        .await?;
    row.map(|row| Ok(ClientTransaction::id(row.text(0)?).to_owned()))
        .transpose()
}

/// Keeps which event a transaction made. Fails with a constraint error if it made one already.
pub async fn put(
    tx: &mut Tx,
    user: &UserId,
    transaction: &ClientTransaction,
    event: &EventId,
    now_ms: u64,
) -> Result<(), StorageError> {
    tx.run(
        PUT_CLIENT_TRANSACTION,
        params![
            user.as_str(),
            &transaction.device_id[..],
            &transaction.path[..],
            event.as_str(),
            now_ms as i64
        ],
    )
    .await?;
    Ok(())
}

/// Forgets transactions of before a time in milliseconds.
pub async fn delete_before(tx: &mut Tx, before_ms: u64) -> Result<u64, StorageError> {
    tx.execute(DELETE_CLIENT_TRANSACTIONS, params![before_ms as i64])
        .await
}
