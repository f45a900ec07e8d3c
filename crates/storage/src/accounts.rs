//! Accounts of this server's users.

use ruma::{OwnedUserId, UserId};

use crate::{Row, StorageError, Tx, devices, presence, profiles};

statements! {
    /// A new account; a name is taken only once.
    PUT_ACCOUNT = "INSERT INTO accounts (user_id, password_hash, admin, deactivated, created_ms, device_list)
        VALUES ($1, $2, $3, FALSE, $4, 0) ON CONFLICT DO NOTHING";
    /// A new account of a guest.
    PUT_GUEST = "INSERT INTO accounts (user_id, admin, deactivated, created_ms, device_list, guest)
        VALUES ($1, FALSE, FALSE, $2, 0, TRUE) ON CONFLICT DO NOTHING";
    /// A guest's account becomes one like any other.
    UPGRADE = "UPDATE accounts SET guest = FALSE, password_hash = $2, admin = $3
        WHERE user_id = $1 AND guest AND NOT deactivated";
    /// What logging in needs to know.
    ACCOUNT = "SELECT password_hash, admin, deactivated FROM accounts WHERE user_id = $1";
    /// A new password.
    SET_PASSWORD = "UPDATE accounts SET password_hash = $2 WHERE user_id = $1";
    /// An account is closed. Its name stays taken.
    CLOSE = "UPDATE accounts SET deactivated = TRUE, password_hash = NULL WHERE user_id = $1";
    /// What a user showed of itself goes.
    ERASE_PROFILE = "UPDATE accounts SET display_name = NULL, avatar_url = NULL, erased = TRUE
        WHERE user_id = $1";
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
    ANY_ACCOUNT = "SELECT 1 FROM accounts WHERE NOT guest LIMIT 1";
    /// Whether an account administers the server.
    SET_ADMIN = "UPDATE accounts SET admin = $2 WHERE user_id = $1";
    /// Who of some users asked for everything to be erased.
    ERASED = "SELECT user_id FROM accounts WHERE erased AND user_id IN text_list($1)";
    /// A closed account opens again.
    REOPEN = "UPDATE accounts SET deactivated = FALSE, erased = FALSE WHERE user_id = $1";
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

/// Stores a new account of a guest. False if the name is taken.
///
/// # Errors
/// Any [`StorageError`].
pub async fn put_guest(tx: &mut Tx, user: &UserId, now_ms: u64) -> Result<bool, StorageError> {
    let values = params![user.as_str(), now_ms];
    Ok(tx.execute(PUT_GUEST, values).await? == 1)
}

/// Makes a guest's account one like any other: the guest's sessions end, and it is noted that the user's rooms
/// have to be told. False if it is no guest's (any more).
///
/// # Errors
/// Any [`StorageError`].
pub async fn upgrade(
    tx: &mut Tx,
    user: &UserId,
    password_hash: Option<&str>,
    admin: bool,
) -> Result<bool, StorageError> {
    let values = params![user.as_str(), password_hash, admin];
    if tx.execute(UPGRADE, values).await? == 0 {
        return Ok(false);
    }
    devices::remove_all(tx, user).await?;
    profiles::note_change(tx, user).await?;
    Ok(true)
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
    tx.run(SET_PASSWORD, params![user.as_str(), password_hash])
        .await?;
    Ok(())
}

/// Closes an account for good, and notes that its user has to leave all rooms. With `erase`, what belongs to
/// the user and to no room goes too.
///
/// # Errors
/// Any [`StorageError`].
pub async fn close(tx: &mut Tx, user: &UserId, erase: bool) -> Result<(), StorageError> {
    tx.run(CLOSE, params![user.as_str()]).await?;
    tx.run(NOTE_DEPARTURE, params![user.as_str()]).await?;
    if erase {
        tx.run(ERASE_PROFILE, params![user.as_str()]).await?;
        tx.run(ERASE_PROFILE_FIELDS, params![user.as_str()]).await?;
        tx.run(ERASE_FILTERS, params![user.as_str()]).await?;
        tx.run(ERASE_ACCOUNT_DATA, params![user.as_str(), b"{}"])
            .await?;
    }
    presence::set_status(tx, user, None).await?;
    devices::remove_all(tx, user).await
}

/// Opens a closed account again. Nobody can log in before it has a password.
///
/// # Errors
/// Any [`StorageError`].
pub async fn reopen(tx: &mut Tx, user: &UserId) -> Result<(), StorageError> {
    tx.run(REOPEN, params![user.as_str()]).await?;
    forget_departure(tx, user).await
}

/// Makes an account an administrator's, or no administrator's any more.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set_admin(tx: &mut Tx, user: &UserId, admin: bool) -> Result<(), StorageError> {
    tx.run(SET_ADMIN, params![user.as_str(), admin]).await?;
    Ok(())
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
    tx.run(FORGET_DEPARTURE, params![user.as_str()]).await?;
    Ok(())
}

/// Of some users, those who wanted to be forgotten when their accounts were closed.
///
/// # Errors
/// Any [`StorageError`].
pub async fn erased_among(
    tx: &mut Tx,
    users: &[OwnedUserId],
) -> Result<Vec<OwnedUserId>, StorageError> {
    let users: Vec<&str> = users.iter().map(|user| user.as_str()).collect();
    let rows = tx.query(ERASED, params![users]).await?;
    rows.iter().map(|row| row.parsed(0)).collect()
}

/// Whether there is any account beside those of guests.
///
/// # Errors
/// Any [`StorageError`].
pub async fn any(tx: &mut Tx) -> Result<bool, StorageError> {
    Ok(tx.query_opt(ANY_ACCOUNT, params![]).await?.is_some())
}
