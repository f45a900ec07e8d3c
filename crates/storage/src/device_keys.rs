//! Public keys that devices have uploaded.

use std::collections::{BTreeMap, BTreeSet};

use ruma::UserId;

use crate::{StorageError, Tx};

statements! {
    /// The keys of a device itself.
    SET_DEVICE_KEYS = "UPDATE devices SET keys = $3 WHERE user_id = $1 AND device_id = $2";
    /// A key that was uploaded before.
    ONE_TIME_KEY = "SELECT content FROM one_time_keys
        WHERE user_id = $1 AND device_id = $2 AND algorithm = $3 AND key_id = $4";
    /// The next place in the queue.
    NEXT_ONE_TIME_KEY = "SELECT COALESCE(MAX(number), 0) + 1 FROM one_time_keys
        WHERE user_id = $1 AND device_id = $2 AND algorithm = $3";
    /// A new key at the end of the queue.
    PUT_ONE_TIME_KEY = "INSERT INTO one_time_keys (user_id, device_id, algorithm, number, key_id, content)
        VALUES ($1, $2, $3, $4, $5, $6)";
    /// How many keys are left, and for which algorithms there is a fallback key that nobody has.
    KEYS_LEFT = "SELECT FALSE, algorithm, COUNT(*) FROM one_time_keys
            WHERE user_id = $1 AND device_id = $2 GROUP BY algorithm
        UNION ALL SELECT TRUE, algorithm, 1 FROM fallback_keys
            WHERE user_id = $1 AND device_id = $2 AND NOT used";
    /// A new fallback key has not been used.
    PUT_FALLBACK_KEY = "INSERT INTO fallback_keys (user_id, device_id, algorithm, key_id, content, used)
        VALUES ($1, $2, $3, $4, $5, FALSE)
        ON CONFLICT (user_id, device_id, algorithm)
        DO UPDATE SET key_id = excluded.key_id, content = excluded.content, used = FALSE";
}

/// A device of this server.
#[derive(Clone, Copy, Debug)]
pub struct DeviceOf<'a> {
    /// Whose it is.
    pub user: &'a UserId,
    /// Unique among the user's.
    pub device_id: &'a str,
}

/// A one-time or fallback key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadedKey {
    /// For instance `signed_curve25519`.
    pub algorithm: String,
    /// Unique among the device's keys of the algorithm.
    pub key_id: String,
    /// The key as JSON.
    pub content: Vec<u8>,
}

/// What became of a one-time key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is in the queue now.
    New,
    /// It was uploaded before, exactly so.
    Same,
    /// Another key has this ID; nothing was changed.
    Different,
}

/// Sets the keys of the device itself.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set(tx: &mut Tx, device: DeviceOf<'_>, keys: &[u8]) -> Result<(), StorageError> {
    let values = params![device.user.as_str(), device.device_id, keys];
    tx.run(SET_DEVICE_KEYS, values).await?;
    Ok(())
}

/// Adds a one-time key.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put_one_time_key(
    tx: &mut Tx,
    device: DeviceOf<'_>,
    key: &UploadedKey,
) -> Result<Stored, StorageError> {
    let (user, device_id) = (device.user.as_str(), device.device_id);
    let id = params![user, device_id, &key.algorithm, &key.key_id];
    if let Some(row) = tx.query_opt(ONE_TIME_KEY, id).await? {
        return Ok(if row.blob(0)? == key.content {
            Stored::Same
        } else {
            Stored::Different
        });
    }
    let queue = params![user, device_id, &key.algorithm];
    let next = tx.query_opt(NEXT_ONE_TIME_KEY, queue).await?;
    let number = next.map_or(Ok(1), |row| row.int(0))?;
    tx.run(
        PUT_ONE_TIME_KEY,
        params![
            user,
            device_id,
            &key.algorithm,
            number,
            &key.key_id,
            &key.content
        ],
    )
    .await?;
    Ok(Stored::New)
}

/// What is left of a device's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysLeft {
    /// How many one-time keys, by algorithm.
    pub one_time: BTreeMap<String, u64>,
    /// The algorithms with a fallback key that nobody was given.
    pub unused_fallback: BTreeSet<String>,
}

/// What is left of a device's keys.
///
/// # Errors
/// Any [`StorageError`].
pub async fn left(tx: &mut Tx, device: DeviceOf<'_>) -> Result<KeysLeft, StorageError> {
    let mut left = KeysLeft::default();
    let values = params![device.user.as_str(), device.device_id];
    for row in tx.query(KEYS_LEFT, values).await? {
        let algorithm = row.text(1)?.to_owned();
        match row.bool(0)? {
            true => drop(left.unused_fallback.insert(algorithm)),
            false => drop(left.one_time.insert(algorithm, row.int(2)?.unsigned_abs())),
        }
    }
    Ok(left)
}

/// Sets the fallback key of an algorithm.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put_fallback_key(
    tx: &mut Tx,
    device: DeviceOf<'_>,
    key: &UploadedKey,
) -> Result<(), StorageError> {
    let (user, device_id) = (device.user.as_str(), device.device_id);
    tx.run(
        PUT_FALLBACK_KEY,
        params![user, device_id, &key.algorithm, &key.key_id, &key.content],
    )
    .await?;
    Ok(())
}
