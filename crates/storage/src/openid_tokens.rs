//! Tokens by which this server's users prove to third parties who they are.

use ruma::{OwnedUserId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// A new token.
    PUT_OPENID_TOKEN = "INSERT INTO openid_tokens (token_hash, user_id, expires_ms) VALUES ($1, $2, $3)";
    /// Whom a token proves, as long as there is such an account.
    OPENID_TOKEN = "SELECT t.user_id FROM openid_tokens t JOIN accounts a ON a.user_id = t.user_id
        WHERE t.token_hash = $1 AND t.expires_ms > $2 AND NOT a.deactivated";
    /// Those that have ended go.
    DELETE_ENDED = "DELETE FROM openid_tokens WHERE expires_ms <= $1";
}

/// Stores a token, and forgets those that have ended.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    user: &UserId,
    token_hash: &[u8; 32],
    expires_ms: u64,
    now_ms: u64,
) -> Result<(), StorageError> {
    tx.run(DELETE_ENDED, params![now_ms]).await?;
    let values = params![token_hash, user.as_str(), expires_ms];
    tx.run(PUT_OPENID_TOKEN, values).await?;
    Ok(())
}

/// Whom a token proves.
///
/// # Errors
/// Any [`StorageError`].
pub async fn owner(
    tx: &mut Tx,
    token_hash: &[u8; 32],
    now_ms: u64,
) -> Result<Option<OwnedUserId>, StorageError> {
    let row = tx
        .query_opt(OPENID_TOKEN, params![token_hash, now_ms])
        .await?;
    row.map(|row| {
        OwnedUserId::try_from(row.text(0)?)
            .map_err(|error| StorageError::Corrupt(format!("OpenID token: {error}")))
    })
    .transpose()
}
