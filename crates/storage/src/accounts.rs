//! Accounts of this server's users, and the tokens that let somebody make one.

use ruma::{OwnedUserId, UserId};

use crate::{Row, StorageError, Tx, devices, presence};

statements! {
    /// A new account; a name is taken only once.
    PUT_ACCOUNT = "INSERT INTO accounts (user_id, password_hash, admin, deactivated, created_ms, device_list)
        VALUES ($1, $2, $3, FALSE, $4, 0) ON CONFLICT DO NOTHING";
    /// What logging in needs to know.
    ACCOUNT = "SELECT password_hash, admin, deactivated FROM accounts WHERE user_id = $1";
    /// A new password.
    SET_PASSWORD = "UPDATE accounts SET password_hash = $2 WHERE user_id = $1";
    /// An account is closed. Its name stays taken.
    CLOSE = "UPDATE accounts SET deactivated = TRUE, password_hash = NULL WHERE user_id = $1";
    /// What a user showed of itself goes.
    ERASE_PROFILE = "UPDATE accounts SET display_name = NULL, avatar_url = NULL WHERE user_id = $1";
    /// The rest of it.
    ERASE_PROFILE_FIELDS = "DELETE FROM profile_fields WHERE user_id = $1";
    /// A user's filters go.
    ERASE_FILTERS = "DELETE FROM filters WHERE user_id = $1";
    /// What clients kept for a user goes; the rows stay, since their positions count in the stream.
    ERASE_ACCOUNT_DATA = "UPDATE account_data SET content = $2 WHERE user_id = $1";
    /// A user has to leave all rooms.
    NOTE_DEPARTURE = "INSERT INTO departures (user_id) VALUES ($1) ON CONFLICT DO NOTHING";
    /// Who has to.
    DEPARTING = "SELECT user_id FROM departures WHERE user_id > $1 ORDER BY user_id LIMIT $2";
    /// A user has left.
    FORGET_DEPARTURE = "DELETE FROM departures WHERE user_id = $1";
    /// Whether anybody has registered yet.
    ANY_ACCOUNT = "SELECT 1 FROM accounts LIMIT 1";
    /// A new token for registering.
    PUT_REGISTRATION_TOKEN = "INSERT INTO registration_tokens (token, uses_left, admin, created_ms)
        VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
    /// Whether a token is good for another account.
    REGISTRATION_TOKEN = "SELECT admin FROM registration_tokens
        WHERE token = $1 AND (uses_left IS NULL OR uses_left > 0)";
    /// Whether any token is good for another account.
    ANY_REGISTRATION_TOKEN = "SELECT 1 FROM registration_tokens
        WHERE uses_left IS NULL OR uses_left > 0 LIMIT 1";
    /// The token for the first account.
    ADMIN_REGISTRATION_TOKEN = "SELECT token FROM registration_tokens
        WHERE admin AND uses_left > 0 ORDER BY created_ms, token LIMIT 1";
    /// Uses a token up; none is changed if it was used up before.
    USE_REGISTRATION_TOKEN = "UPDATE registration_tokens SET uses_left = uses_left - 1
        WHERE token = $1 AND (uses_left IS NULL OR uses_left > 0)";
}

/// An account, as far as logging in needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The PHC string of the password; `None`: no password lets anybody in.
    pub password_hash: Option<String>,
    /// Whether the user administers the server.
    pub admin: bool,
    /// Whether the account was closed.
    pub deactivated: bool,
}

/// Stores a new account. False if the name is taken.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put(
    tx: &mut Tx,
    user: &UserId,
    password_hash: Option<&str>,
    admin: bool,
    now_ms: u64,
) -> Result<bool, StorageError> {
    let added = tx
        .execute(
            PUT_ACCOUNT,
            params![user.as_str(), password_hash, admin, now_ms],
        )
        .await?;
    Ok(added == 1)
}

/// An account.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_user(tx: &mut Tx, user: &UserId) -> Result<Option<Account>, StorageError> {
    let row = tx.query_opt(ACCOUNT, params![user.as_str()]).await?;
    row.map(|row| {
        Ok(Account {
            password_hash: row.opt_text(0)?.map(str::to_owned),
            admin: row.bool(1)?,
            deactivated: row.bool(2)?,
        })
    })
    .transpose()
}

/// Sets a user's password.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set_password(
    tx: &mut Tx,
    user: &UserId,
    password_hash: &str,
) -> Result<(), StorageError> {
    tx.execute(SET_PASSWORD, params![user.as_str(), password_hash])
        .await?;
    Ok(())
}

/// Closes an account for good, and notes that its user has to leave all rooms. With `erase`, what belongs to
/// the user and to no room goes too.
///
/// # Errors
/// Any [`StorageError`].
pub async fn close(tx: &mut Tx, user: &UserId, erase: bool) -> Result<(), StorageError> {
    tx.execute(CLOSE, params![user.as_str()]).await?;
    tx.execute(NOTE_DEPARTURE, params![user.as_str()]).await?;
    if erase {
        tx.execute(ERASE_PROFILE, params![user.as_str()]).await?;
        tx.execute(ERASE_PROFILE_FIELDS, params![user.as_str()])
            .await?;
        tx.execute(ERASE_FILTERS, params![user.as_str()]).await?;
        tx.execute(ERASE_ACCOUNT_DATA, params![user.as_str(), b"{}"])
            .await?;
    }
    presence::set_status(tx, user, None).await?;
    devices::remove_all(tx, user).await
}

/// The next users who have to leave all rooms, `limit` at most, in order of their IDs.
///
/// # Errors
/// Any [`StorageError`].
pub async fn departing(
    tx: &mut Tx,
    after: &str,
    limit: usize,
) -> Result<Vec<OwnedUserId>, StorageError> {
    let rows = tx.query(DEPARTING, params![after, limit]).await?;
    let user = |row: &Row| row.parsed(0);
    rows.iter().map(user).collect()
}

/// A user has left all rooms.
///
/// # Errors
/// Any [`StorageError`].
pub async fn forget_departure(tx: &mut Tx, user: &UserId) -> Result<(), StorageError> {
    tx.execute(FORGET_DEPARTURE, params![user.as_str()]).await?;
    Ok(())
}

/// Whether there is any account.
///
/// # Errors
/// Any [`StorageError`].
pub async fn any(tx: &mut Tx) -> Result<bool, StorageError> {
    Ok(tx.query_opt(ANY_ACCOUNT, params![]).await?.is_some())
}

/// Stores a token that is good for `uses` accounts; `None`: for any number.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put_registration_token(
    tx: &mut Tx,
    token: &str,
    uses: Option<u32>,
    admin: bool,
    now_ms: u64,
) -> Result<(), StorageError> {
    tx.execute(PUT_REGISTRATION_TOKEN, params![token, uses, admin, now_ms])
        .await?;
    Ok(())
}

/// Whether a token is good for another account, and if so, whether for an administrator's.
///
/// # Errors
/// Any [`StorageError`].
pub async fn registration_token(tx: &mut Tx, token: &str) -> Result<Option<bool>, StorageError> {
    let row = tx.query_opt(REGISTRATION_TOKEN, params![token]).await?;
    row.as_ref().map(|row| row.bool(0)).transpose()
}

/// Whether any token is good for another account.
///
/// # Errors
/// Any [`StorageError`].
pub async fn any_registration_token(tx: &mut Tx) -> Result<bool, StorageError> {
    let row = tx.query_opt(ANY_REGISTRATION_TOKEN, params![]).await?;
    Ok(row.is_some())
}

/// The oldest token for an administrator's account that is not used up.
///
/// # Errors
/// Any [`StorageError`].
pub async fn admin_registration_token(tx: &mut Tx) -> Result<Option<String>, StorageError> {
    let row = tx.query_opt(ADMIN_REGISTRATION_TOKEN, params![]).await?;
    row.as_ref().map(text).transpose()
}

/// Takes one use from a token. False if none was left.
///
/// # Errors
/// Any [`StorageError`].
pub async fn use_registration_token(tx: &mut Tx, token: &str) -> Result<bool, StorageError> {
    let used = tx.execute(USE_REGISTRATION_TOKEN, params![token]).await?;
    Ok(used == 1)
}

fn text(row: &Row) -> Result<String, StorageError> {
    Ok(row.text(0)?.to_owned())
}
