//! Tokens that let somebody register.

use crate::{Row, StorageError, Tx};

statements! {
    /// A new token.
    PUT_REGISTRATION_TOKEN = "INSERT INTO registration_tokens (token, uses_left, admin, created_ms, expires_ms)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    /// Whether a token is good for another account.
    VALID_TOKEN = "SELECT admin FROM registration_tokens WHERE token = $1
        AND (uses_left IS NULL OR uses_left > 0) AND (expires_ms IS NULL OR expires_ms > $2)";
    /// Whether any token is good for another account.
    ANY_VALID_TOKEN = "SELECT 1 FROM registration_tokens
        WHERE (uses_left IS NULL OR uses_left > 0) AND (expires_ms IS NULL OR expires_ms > $1) LIMIT 1";
    /// The token for the first account.
    ADMIN_TOKEN = "SELECT token FROM registration_tokens
        WHERE admin AND uses_left > 0 ORDER BY created_ms, token LIMIT 1";
    /// Counts a use; none is changed if the token was used up before.
    USE_TOKEN = "UPDATE registration_tokens SET uses_left = uses_left - 1, completed = completed + 1
        WHERE token = $1 AND (uses_left IS NULL OR uses_left > 0)";
    /// All tokens.
    TOKENS = "SELECT token, uses_left, completed, expires_ms FROM registration_tokens
        ORDER BY created_ms, token";
    /// One of them.
    TOKEN = "SELECT token, uses_left, completed, expires_ms FROM registration_tokens WHERE token = $1";
    /// A token is good for more or fewer uses, or for another time.
    UPDATE_TOKEN = "UPDATE registration_tokens SET uses_left = $2, expires_ms = $3 WHERE token = $1";
    /// A token goes.
    DELETE_TOKEN = "DELETE FROM registration_tokens WHERE token = $1";
}

/// A token, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistrationToken {
    /// What is shown to register.
    pub token: String,
    /// How many more accounts it is good for; `None`: for any number.
    pub uses_left: Option<u64>,
    /// How many accounts were made with it.
    pub completed: u64,
    /// When it ends, in Unix milliseconds; `None`: never.
    pub expires_ms: Option<u64>,
}

impl RegistrationToken {
    /// Whether it is good for another account.
    #[must_use]
    pub fn is_valid(&self, now_ms: u64) -> bool {
        self.uses_left != Some(0) && self.expires_ms.is_none_or(|end| end > now_ms)
    }
}

/// Stores a token. False if there is one like it.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    token: &RegistrationToken,
    admin: bool,
    now_ms: u64,
) -> Result<bool, StorageError> {
    let (text, uses_left) = (&token.token[..], token.uses_left);
    let values = params![text, uses_left, admin, now_ms, token.expires_ms];
    Ok(tx.execute(PUT_REGISTRATION_TOKEN, values).await? == 1)
}

/// Whether a token is good for another account, and if so, whether for an administrator's.
///
/// # Errors
/// Any [`StorageError`].
pub async fn valid(tx: &mut Tx, token: &str, now_ms: u64) -> Result<Option<bool>, StorageError> {
    let row = tx.query_opt(VALID_TOKEN, params![token, now_ms]).await?;
    row.as_ref().map(|row| row.bool(0)).transpose()
}

/// Whether any token is good for another account.
///
/// # Errors
/// Any [`StorageError`].
pub async fn any_valid(tx: &mut Tx, now_ms: u64) -> Result<bool, StorageError> {
    let row = tx.query_opt(ANY_VALID_TOKEN, params![now_ms]).await?;
    Ok(row.is_some())
}

/// The oldest token for an administrator's account that is not used up.
///
/// # Errors
/// Any [`StorageError`].
pub async fn for_admin(tx: &mut Tx) -> Result<Option<String>, StorageError> {
    let row = tx.query_opt(ADMIN_TOKEN, params![]).await?;
    row.map(|row| Ok(row.text(0)?.to_owned())).transpose()
}

/// Takes one use from a token. False if none was left.
///
/// # Errors
/// Any [`StorageError`].
pub async fn use_once(tx: &mut Tx, token: &str) -> Result<bool, StorageError> {
    Ok(tx.execute(USE_TOKEN, params![token]).await? == 1)
}

/// All tokens, the oldest first.
///
/// # Errors
/// Any [`StorageError`].
pub async fn all(tx: &mut Tx) -> Result<Vec<RegistrationToken>, StorageError> {
    let rows = tx.query(TOKENS, params![]).await?;
    rows.iter().map(read).collect()
}

/// One token.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_token(tx: &mut Tx, token: &str) -> Result<Option<RegistrationToken>, StorageError> {
    let row = tx.query_opt(TOKEN, params![token]).await?;
    row.as_ref().map(read).transpose()
}

/// Changes how long and for how many accounts a token is good.
///
/// # Errors
/// Any [`StorageError`].
pub async fn update(tx: &mut Tx, token: &RegistrationToken) -> Result<(), StorageError> {
    let values = params![&token.token[..], token.uses_left, token.expires_ms];
    tx.run(UPDATE_TOKEN, values).await?;
    Ok(())
}

/// Removes a token. False if there was none.
///
/// # Errors
/// Any [`StorageError`].
pub async fn remove(tx: &mut Tx, token: &str) -> Result<bool, StorageError> {
    Ok(tx.execute(DELETE_TOKEN, params![token]).await? == 1)
}

fn read(row: &Row) -> Result<RegistrationToken, StorageError> {
    Ok(RegistrationToken {
        token: row.text(0)?.to_owned(),
        uses_left: row.opt_int(1)?.map(i64::unsigned_abs),
        completed: row.int(2)?.unsigned_abs(),
        expires_ms: row.opt_int(3)?.map(i64::unsigned_abs),
    })
}
