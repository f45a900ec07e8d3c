//! PDUs that were acknowledged to their origin and not judged yet, and the answers that were given.

use myelin_core::number::RoomNr;
use ruma::{OwnedEventId, OwnedServerName, ServerName};

use crate::{Param, StorageError, Tx, event_id, param::message};

statements! {
    /// One more staged PDU.
    PUT_STAGED = "INSERT INTO staged_pdus (staged, room, origin, event_id, json) VALUES ($1, $2, $3, $4, $5)";
    /// The oldest staged PDUs of a room, without some and without those that were set aside.
    STAGED = "SELECT staged, origin, event_id, json FROM staged_pdus
        WHERE room = $1 AND failure IS NULL AND staged NOT IN int_list($2) ORDER BY staged LIMIT $3";
    /// The PDUs were judged.
    DELETE_STAGED = "DELETE FROM staged_pdus WHERE staged IN int_list($1)";
    /// The PDU can't be judged.
    SET_ASIDE = "UPDATE staged_pdus SET failure = $2 WHERE staged = $1";
    /// What was set aside is judged again.
    TAKE_UP = "UPDATE staged_pdus SET failure = NULL WHERE failure IS NOT NULL";
    /// Rooms with staged PDUs.
    STAGED_ROOMS = "SELECT DISTINCT room FROM staged_pdus WHERE failure IS NULL ORDER BY room";
    /// How many PDUs of a room are staged.
    COUNT_STAGED = "SELECT COUNT(*) FROM staged_pdus WHERE room = $1 AND failure IS NULL";
    /// The highest number.
    LAST_STAGED = "SELECT COALESCE(MAX(staged), 0) FROM staged_pdus";
    /// The answer to a transaction.
    TRANSACTION = "SELECT response FROM received_transactions WHERE origin = $1 AND txn_id = $2";
    /// Keeps the answer to a transaction.
    PUT_TRANSACTION = "INSERT INTO received_transactions (origin, txn_id, response, received_ts)
        VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    /// Forgets old answers.
    DELETE_TRANSACTIONS = "DELETE FROM received_transactions WHERE received_ts < $1";
}

/// A staged PDU. Its signatures and hash were checked; it is kept as the checks left it.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Its number: the order of arrival.
    pub staged: i64,
    /// Who pushed it.
    pub origin: OwnedServerName,
    /// Its ID.
    pub event_id: OwnedEventId,
    /// Its canonical JSON.
    pub json: String,
}

/// Stages a PDU.
pub async fn put(tx: &mut Tx, room: RoomNr, pdu: &Staged) -> Result<(), StorageError> {
    let id = event_id::to_stored(&pdu.event_id);
    tx.run(
        PUT_STAGED,
        params![
            pdu.staged,
            room.0,
            pdu.origin.as_str(),
            &id[..],
            pdu.json.as_bytes()
        ],
    )
    .await?;
    Ok(())
}

/// The oldest staged PDUs of a room that wait to be judged, but for those whose numbers are `in_hand`.
pub async fn list(
    tx: &mut Tx,
    room: RoomNr,
    in_hand: Vec<i64>,
    limit: usize,
) -> Result<Vec<Staged>, StorageError> {
    let rows = tx
        .query(STAGED, params![room.0, in_hand, limit as i64])
        .await?;
    let corrupt = |error: &dyn std::fmt::Display| StorageError::Corrupt(error.to_string());
    rows.iter()
        .map(|row| {
            Ok(Staged {
                staged: row.int(0)?,
                origin: row.parsed(1)?,
                event_id: event_id::from_stored(row.blob(2)?)?,
                json: String::from_utf8(row.blob(3)?.to_vec()).map_err(|error| corrupt(&error))?,
            })
        })
        .collect()
}

/// Removes PDUs that were judged.
pub async fn delete(tx: &mut Tx, staged: &[i64]) -> Result<(), StorageError> {
    tx.run(DELETE_STAGED, params![Param::IntList(staged.into())])
        .await
}

/// Keeps a PDU that can't be judged out of the way, with the reason. It isn't listed any more.
pub async fn set_aside(tx: &mut Tx, staged: i64, failure: &str) -> Result<(), StorageError> {
    let failure = message(failure);
    tx.run(SET_ASIDE, params![staged, &failure[..]]).await?;
    Ok(())
}

/// Lists what was set aside again, and tells how many PDUs that are.
pub async fn take_up(tx: &mut Tx) -> Result<u64, StorageError> {
    tx.execute(TAKE_UP, params![]).await
}

/// The rooms that have staged PDUs which wait to be judged.
pub async fn rooms(tx: &mut Tx) -> Result<Vec<RoomNr>, StorageError> {
    let rows = tx.query(STAGED_ROOMS, params![]).await?;
    rows.iter().map(|row| Ok(RoomNr(row.int(0)?))).collect()
}

/// How many PDUs of a room wait to be judged.
pub async fn count(tx: &mut Tx, room: RoomNr) -> Result<u64, StorageError> {
    let row = tx.query_opt(COUNT_STAGED, params![room.0]).await?;
    Ok(row.map(|row| row.int(0)).transpose()?.unwrap_or(0) as u64)
}

/// The highest number that is in use.
pub async fn last_number(tx: &mut Tx) -> Result<i64, StorageError> {
    let row = tx.query_opt(LAST_STAGED, params![]).await?;
    Ok(row.map(|row| row.int(0)).transpose()?.unwrap_or(0))
}

/// The answer that a transaction got.
pub async fn transaction(
    tx: &mut Tx,
    origin: &ServerName,
    txn_id: &str,
) -> Result<Option<Vec<u8>>, StorageError> {
    let row = tx
        .query_opt(TRANSACTION, params![origin.as_str(), txn_id])
        .await?;
    row.map(|row| Ok(row.blob(0)?.to_vec())).transpose()
}

/// Keeps the answer to a transaction, so that a repetition gets the same (R35).
pub async fn put_transaction(
    tx: &mut Tx,
    origin: &ServerName,
    txn_id: &str,
    response: &[u8],
    now_ms: u64,
) -> Result<(), StorageError> {
    tx.run(
        PUT_TRANSACTION,
        params![origin.as_str(), txn_id, response, now_ms as i64],
    )
    .await?;
    Ok(())
}

/// Forgets the answers to transactions received before a time in milliseconds.
pub async fn delete_transactions(tx: &mut Tx, before_ms: u64) -> Result<u64, StorageError> {
    tx.execute(DELETE_TRANSACTIONS, params![before_ms as i64])
        .await
}
