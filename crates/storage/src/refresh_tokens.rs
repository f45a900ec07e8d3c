//! Tokens that renew a session. A pair of an access token and a refresh token takes the place of the one
//! before it when it is first used, and not when it is given out: the answer may have been lost.

use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// A new refresh token.
    PUT_REFRESH_TOKEN = "INSERT INTO refresh_tokens (token_hash, user_id, device_id, renews, created_ms)
        VALUES ($1, $2, $3, $4, $5)";
    /// What a refresh token renews.
    REFRESH_TOKEN = "SELECT user_id, device_id, renews FROM refresh_tokens WHERE token_hash = $1";
    /// A new access token beside the one it is to take the place of.
    PUT_RENEWED_TOKEN = "INSERT INTO access_tokens (token_hash, user_id, device_id, created_ms, expires_ms, renews)
        VALUES ($1, $2, $3, $4, $5, $6)";
    /// Access tokens that came for a refresh token and were not used go.
    RETRACT_ACCESS = "DELETE FROM access_tokens WHERE user_id = $1 AND device_id = $2 AND renews = $3";
    /// Refresh tokens that did go too.
    RETRACT_REFRESH = "DELETE FROM refresh_tokens WHERE user_id = $1 AND device_id = $2 AND renews = $3";
    /// The access tokens of a device but the one that was used.
    END_OTHER_ACCESS = "DELETE FROM access_tokens
        WHERE user_id = $1 AND device_id = $2 AND (renews IS NULL OR renews <> $3)";
    /// The refresh token that was renewed goes.
    END_RENEWED = "DELETE FROM refresh_tokens WHERE token_hash = $1";
    /// The access token that was used stands by itself now.
    SETTLE_ACCESS = "UPDATE access_tokens SET renews = NULL WHERE user_id = $1 AND device_id = $2";
    /// The refresh token that came with it does too.
    SETTLE_REFRESH = "UPDATE refresh_tokens SET renews = NULL WHERE user_id = $1 AND device_id = $2";
    /// A device's refresh tokens go.
    DELETE_OF_DEVICE = "DELETE FROM refresh_tokens WHERE user_id = $1 AND device_id = $2";
    /// All refresh tokens of a user go.
    DELETE_OF_USER = "DELETE FROM refresh_tokens WHERE user_id = $1";
}

/// A refresh token, as far as it can be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    /// Whose session it renews.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// The hash of the refresh token in whose place it came, as long as nobody used either it or the access
    /// token that came with it.
    pub renews: Option<Vec<u8>>,
}

/// A pair of tokens for a device, by their hashes.
#[derive(Clone, Debug)]
pub struct TokenPair {
    /// Of the access token.
    pub access_hash: [u8; 32],
    /// Of the refresh token.
    pub refresh_hash: [u8; 32],
    /// When the access token ends, in Unix milliseconds.
    pub expires_ms: u64,
}

/// Stores a refresh token of a new session.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    token_hash: &[u8; 32],
    now_ms: u64,
) -> Result<(), StorageError> {
    let values = params![token_hash, user.as_str(), device_id, None::<&[u8]>, now_ms];
    tx.run(PUT_REFRESH_TOKEN, values).await?;
    Ok(())
}

/// A refresh token by its hash.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_hash(
    tx: &mut Tx,
    token_hash: &[u8; 32],
) -> Result<Option<RefreshToken>, StorageError> {
    let row = tx.query_opt(REFRESH_TOKEN, params![token_hash]).await?;
    row.map(|row| {
        Ok(RefreshToken {
            user_id: OwnedUserId::try_from(row.text(0)?)
                .map_err(|error| StorageError::Corrupt(format!("refresh token: {error}")))?,
            device_id: row.text(1)?.into(),
            renews: row.opt_blob(2)?.map(<[u8]>::to_vec),
        })
    })
    .transpose()
}

/// Stores a pair that is to take the place of the one of the refresh token with the hash `renews`, and
/// forgets what was given out for that before.
///
/// # Errors
/// Any [`StorageError`].
pub async fn renew(
    tx: &mut Tx,
    known: &RefreshToken,
    renews: &[u8; 32],
    pair: &TokenPair,
    now_ms: u64,
) -> Result<(), StorageError> {
    let (user, device_id) = (known.user_id.as_str(), known.device_id.as_str());
    for statement in [RETRACT_ACCESS, RETRACT_REFRESH] {
        tx.run(statement, params![user, device_id, renews]).await?;
    }
    let (access, refresh) = (&pair.access_hash, &pair.refresh_hash);
    let values = params![access, user, device_id, now_ms, pair.expires_ms, renews];
    tx.run(PUT_RENEWED_TOKEN, values).await?;
    let values = params![refresh, user, device_id, renews, now_ms];
    tx.run(PUT_REFRESH_TOKEN, values).await?;
    Ok(())
}

/// A pair that came in place of the refresh token with the hash `renews` was used: the pair before it ends.
///
/// # Errors
/// Any [`StorageError`].
pub async fn settle(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
    renews: &[u8],
) -> Result<(), StorageError> {
    let user = user.as_str();
    tx.run(END_OTHER_ACCESS, params![user, device_id, renews])
        .await?;
    tx.run(END_RENEWED, params![renews]).await?;
    for statement in [SETTLE_ACCESS, SETTLE_REFRESH] {
        tx.run(statement, params![user, device_id]).await?;
    }
    Ok(())
}

/// Forgets the refresh tokens of a device.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete_of_device(
    tx: &mut Tx,
    user: &UserId,
    device_id: &str,
) -> Result<(), StorageError> {
    tx.run(DELETE_OF_DEVICE, params![user.as_str(), device_id])
        .await?;
    Ok(())
}

/// Forgets the refresh tokens of a user.
///
/// # Errors
/// Any [`StorageError`].
pub async fn delete_of_user(tx: &mut Tx, user: &UserId) -> Result<(), StorageError> {
    tx.run(DELETE_OF_USER, params![user.as_str()]).await?;
    Ok(())
}
