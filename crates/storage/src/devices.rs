//! Devices of this server's users, and the access tokens that speak for them.

use std::{collections::BTreeSet, net::IpAddr};

use myelin_core::number::StreamPosition;
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::{Row, StorageError, Tx, refresh_tokens, to_device};

statements! {
    /// A device; logging in again with the same ID keeps it, and its name unless a new one is given.
    PUT_DEVICE = "INSERT INTO devices (user_id, device_id, display_name, created_ms) VALUES ($1, $2, $3, $4)
        ON CONFLICT (user_id, device_id)
        DO UPDATE SET display_name = COALESCE(excluded.display_name, devices.display_name)";
    /// A user's devices.
    DEVICES = "SELECT device_id, display_name, keys, last_seen_ms, user_agent, last_seen_ip FROM devices
        WHERE user_id = $1 ORDER BY device_id";
    /// Who of some users has any.
    WITH_DEVICES = "SELECT DISTINCT user_id FROM devices WHERE user_id IN text_list($1)";
    /// One of them.
    DEVICE = "SELECT device_id, display_name, keys, last_seen_ms, user_agent, last_seen_ip FROM devices
        WHERE user_id = $1 AND device_id = $2";
    /// A device's new name; none is changed if there is no such device.
    RENAME_DEVICE = "UPDATE devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2";
    /// A device was used.
    SEE_DEVICE = "UPDATE devices SET last_seen_ms = $3, user_agent = $4, last_seen_ip = $5
        WHERE user_id = $1 AND device_id = $2";
    /// Something about the devices has changed.
    COUNT_CHANGE = "UPDATE accounts SET device_list = device_list + 1 WHERE user_id = $1";
    /// How often something has.
    DEVICE_LIST = "SELECT device_list FROM accounts WHERE user_id = $1";
    /// One device goes.
    DELETE_DEVICE = "DELETE FROM devices WHERE user_id = $1 AND device_id = $2";
    /// All devices go.
    DELETE_DEVICES = "DELETE FROM devices WHERE user_id = $1";
    /// A new token.
    PUT_TOKEN = "INSERT INTO access_tokens (token_hash, user_id, device_id, created_ms, expires_ms)
        VALUES ($1, $2, $3, $4, $5)";
    /// Whom a token speaks for.
    TOKEN = "SELECT t.user_id, t.device_id, a.admin, a.guest, t.expires_ms, t.renews FROM access_tokens t
        JOIN accounts a ON a.user_id = t.user_id WHERE t.token_hash = $1 AND NOT a.deactivated";
    /// A device's tokens go.
    DELETE_TOKENS_OF_DEVICE = "DELETE FROM access_tokens WHERE user_id = $1 AND device_id = $2";
    /// All tokens of a user go.
    DELETE_TOKENS = "DELETE FROM access_tokens WHERE user_id = $1";
    /// A device's one-time keys go with it.
    DELETE_KEYS_OF_DEVICE = "DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2";
    /// A device's fallback keys go with it.
    DELETE_FALLBACKS_OF_DEVICE = "DELETE FROM fallback_keys WHERE user_id = $1 AND device_id = $2";
    /// All one-time keys of a user go.
    DELETE_KEYS = "DELETE FROM one_time_keys WHERE user_id = $1";
    /// All fallback keys of a user go.
    DELETE_FALLBACKS = "DELETE FROM fallback_keys WHERE user_id = $1";
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Unique among the user's.
    pub device_id: OwnedDeviceId,
    /// What the client calls it.
    pub display_name: Option<String>,
    /// Its signed public keys as JSON, if it has uploaded any.
    pub keys: Option<Vec<u8>>,
    /// When it was last used, about, in Unix milliseconds.
    pub last_seen_ms: Option<u64>,
    /// What it called its program then.
    pub user_agent: Option<String>,
    /// From which address.
    pub last_seen_ip: Option<String>,
}

/// One use of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// What it calls its program.
    pub user_agent: Option<String>,
    /// From where, if that is known.
    pub address: Option<IpAddr>,
}

/// Whom an access token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenOwner {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device that logged in.
    pub device_id: OwnedDeviceId,
    /// Whether the user administers the server.
    pub admin: bool,
    /// Whether the user is a guest.
    pub guest: bool,
    /// When it ends, in Unix milliseconds.
    pub expires_ms: Option<u64>,
    /// The hash of the refresh token in whose place it came, if it was not used yet.
    pub renews: Option<Vec<u8>>,
}

/// Stores a device, or its new name.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    display_name: Option<&str>,
    now_ms: u64,
) -> Result<(), StorageError> {
    tx.run(
        PUT_DEVICE,
        params![user.as_str(), device_id, display_name, now_ms],
    )
    .await?;
    count_change(tx, user).await
}

/// A user's devices by ID.
///
/// # Errors
/// Any [`StorageError`].
pub async fn of_user(tx: &mut Tx, user: &UserId) -> Result<Vec<Device>, StorageError> {
    let rows = tx.query(DEVICES, params![user.as_str()]).await?;
    rows.iter().map(read_device).collect()
}

/// Those of some users who have devices.
///
/// # Errors
/// Any [`StorageError`].
pub async fn with_devices(
    tx: &mut Tx,
    users: &[OwnedUserId],
) -> Result<BTreeSet<OwnedUserId>, StorageError> {
    let users: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
    let rows = tx.query(WITH_DEVICES, params![users]).await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}

/// One of a user's devices.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_id(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
) -> Result<Option<Device>, StorageError> {
    let device = params![user.as_str(), device_id];
    let row = tx.query_opt(DEVICE, device).await?;
    row.as_ref().map(read_device).transpose()
}

/// Gives a device another name. False if there is no such device.
///
/// # Errors
/// Any [`StorageError`].
pub async fn rename(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    display_name: &str,
) -> Result<bool, StorageError> {
    let values = params![user.as_str(), device_id, display_name];
    if tx.execute(RENAME_DEVICE, values).await? == 0 {
        return Ok(false);
    }
    count_change(tx, user).await?;
    Ok(true)
}

/// Notes that a device was used.
///
/// # Errors
/// Any [`StorageError`].
pub async fn see(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    used: &Use,
) -> Result<(), StorageError> {
    let address = used.address.map(|address| address.to_string());
    let values = params![
        user.as_str(),
        device_id,
        used.at_ms,
        used.user_agent.as_deref(),
        address.as_deref(),
    ];
    tx.run(SEE_DEVICE, values).await?;
    Ok(())
}

/// Notes that a user's devices or their keys have changed.
///
/// # Errors
/// Any [`StorageError`].
pub async fn count_change(tx: &mut Tx, user: &UserId) -> Result<(), StorageError> {
    tx.run(COUNT_CHANGE, params![user.as_str()]).await?;
    Ok(())
}

/// How often a user's devices or their keys have changed; `None` if there is no such user.
///
/// # Errors
/// Any [`StorageError`].
pub async fn list_version(tx: &mut Tx, user: &UserId) -> Result<Option<u64>, StorageError> {
    let row = tx.query_opt(DEVICE_LIST, params![user.as_str()]).await?;
    row.map(|row| Ok(row.int(0)?.unsigned_abs())).transpose()
}

/// Removes a device with its tokens and keys, and the messages that wait for it.
///
/// # Errors
/// Any [`StorageError`].
pub async fn remove(tx: &mut Tx, user: &UserId, device_id: &str) -> Result<(), StorageError> {
    for statement in [
        DELETE_TOKENS_OF_DEVICE,
        DELETE_KEYS_OF_DEVICE,
        DELETE_FALLBACKS_OF_DEVICE,
        DELETE_DEVICE,
    ] {
        tx.run(statement, params![user.as_str(), device_id]).await?;
    }
    refresh_tokens::delete_of_device(tx, user, device_id).await?;
    to_device::delete_upto(tx, user, device_id, StreamPosition(i64::MAX)).await?;
    count_change(tx, user).await
}

/// Removes all of a user's devices with their tokens and keys, and the messages that wait for them.
///
/// # Errors
/// Any [`StorageError`].
pub async fn remove_all(tx: &mut Tx, user: &UserId) -> Result<(), StorageError> {
    for device in of_user(tx, user).await? {
        let device_id = device.device_id.as_str();
        to_device::delete_upto(tx, user, device_id, StreamPosition(i64::MAX)).await?;
    }
    refresh_tokens::delete_of_user(tx, user).await?;
    for statement in [DELETE_TOKENS, DELETE_KEYS, DELETE_FALLBACKS, DELETE_DEVICES] {
        tx.run(statement, params![user.as_str()]).await?;
    }
    count_change(tx, user).await
}

/// Stores the hash of the only token of a device: earlier ones end, and can't be renewed.
///
/// # Errors
/// Any [`StorageError`].
pub async fn replace_token(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    token_hash: &[u8; 32],
    now_ms: u64,
    expires_ms: Option<u64>,
) -> Result<(), StorageError> {
    let device = params![user.as_str(), device_id];
    tx.run(DELETE_TOKENS_OF_DEVICE, device).await?;
    refresh_tokens::delete_of_device(tx, user, device_id).await?;
    let values = params![token_hash, user.as_str(), device_id, now_ms, expires_ms];
    tx.run(PUT_TOKEN, values).await?;
    Ok(())
}

/// Whom a token speaks for, if for anybody.
///
/// # Errors
/// Any [`StorageError`].
pub async fn owner_of_token(
    tx: &mut Tx,
    token_hash: &[u8; 32],
) -> Result<Option<TokenOwner>, StorageError> {
    let row = tx.query_opt(TOKEN, params![token_hash]).await?;
    row.map(|row| {
        Ok(TokenOwner {
            user_id: row.parsed(0)?,
            device_id: row.text(1)?.into(),
            admin: row.bool(2)?,
            guest: row.bool(3)?,
            expires_ms: row.opt_int(4)?.map(i64::unsigned_abs),
            renews: row.opt_blob(5)?.map(<[u8]>::to_vec),
        })
    })
    .transpose()
}

fn read_device(row: &Row) -> Result<Device, StorageError> {
    Ok(Device {
        device_id: row.text(0)?.into(),
        display_name: row.opt_text(1)?.map(str::to_owned),
        keys: row.opt_blob(2)?.map(<[u8]>::to_vec),
        last_seen_ms: row.opt_int(3)?.map(i64::unsigned_abs),
        user_agent: row.opt_text(4)?.map(str::to_owned),
        last_seen_ip: row.opt_text(5)?.map(str::to_owned),
    })
}
