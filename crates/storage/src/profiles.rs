//! Profiles of this server's users.

use ruma::{OwnedUserId, UserId};

use crate::{StorageError, Tx};

statements! {
    /// What a user shows of itself.
    PROFILE = "SELECT display_name, avatar_url, guest FROM accounts WHERE user_id = $1 AND NOT deactivated";
    /// A new display name, or none.
    SET_DISPLAY_NAME = "UPDATE accounts SET display_name = $2 WHERE user_id = $1";
    /// A new picture, or none.
    SET_AVATAR_URL = "UPDATE accounts SET avatar_url = $2 WHERE user_id = $1";
    /// What else a user shows of itself.
    FIELDS = "SELECT field, value FROM profile_fields WHERE user_id = $1 ORDER BY field";
    /// A field's new value.
    SET_FIELD = "INSERT INTO profile_fields (user_id, field, value) VALUES ($1, $2, $3)
        ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value";
    /// A field goes.
    REMOVE_FIELD = "DELETE FROM profile_fields WHERE user_id = $1 AND field = $2";
    /// The rooms of a user have to be told of a change.
    NOTE_CHANGE = "INSERT INTO profile_changes (user_id, change) VALUES ($1, 1)
        ON CONFLICT (user_id) DO UPDATE SET change = profile_changes.change + 1";
    /// Whose rooms have to be told.
    CHANGED = "SELECT user_id, change FROM profile_changes WHERE user_id > $1 ORDER BY user_id LIMIT $2";
    /// The rooms know it now, unless it changed again.
    FORGET_CHANGE = "DELETE FROM profile_changes WHERE user_id = $1 AND change = $2";
}

/// What a user shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The name.
    pub display_name: Option<String>,
    /// The picture, an `mxc://` address.
    pub avatar_url: Option<String>,
    /// Whether it is a guest, which rooms are told too.
    pub guest: bool,
}

/// A user's profile; `None` if there is no such user.
///
/// # Errors
/// Any [`StorageError`].
pub async fn by_user(tx: &mut Tx, user: &UserId) -> Result<Option<Profile>, StorageError> {
    let row = tx.query_opt(PROFILE, params![user.as_str()]).await?;
    row.map(|row| {
        Ok(Profile {
            display_name: row.opt_text(0)?.map(str::to_owned),
            avatar_url: row.opt_text(1)?.map(str::to_owned),
            guest: row.bool(2)?,
        })
    })
    .transpose()
}

/// Sets or removes a user's name.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set_display_name(
    tx: &mut Tx,
    user: &UserId,
    display_name: Option<&str>,
) -> Result<(), StorageError> {
    let values = params![user.as_str(), display_name];
    tx.run(SET_DISPLAY_NAME, values).await?;
    Ok(())
}

/// Sets or removes a user's picture.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set_avatar_url(
    tx: &mut Tx,
    user: &UserId,
    avatar_url: Option<&str>,
) -> Result<(), StorageError> {
    let values = params![user.as_str(), avatar_url];
    tx.run(SET_AVATAR_URL, values).await?;
    Ok(())
}

/// What a user shows of itself beside name and picture: the JSON of each field, by the fields' names.
///
/// # Errors
/// Any [`StorageError`].
pub async fn fields(tx: &mut Tx, user: &UserId) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
    let rows = tx.query(FIELDS, params![user.as_str()]).await?;
    let field = |row: &crate::Row| Ok((row.text(0)?.to_owned(), row.blob(1)?.to_vec()));
    rows.iter().map(field).collect()
}

/// Sets such a field to a JSON value, or removes it.
///
/// # Errors
/// Any [`StorageError`].
pub async fn set_field(
    tx: &mut Tx,
    user: &UserId,
    field: &str,
    value: Option<&[u8]>,
) -> Result<(), StorageError> {
    match value {
        Some(value) => {
            tx.execute(SET_FIELD, params![user.as_str(), field, value])
                .await?
        }
        None => {
            tx.execute(REMOVE_FIELD, params![user.as_str(), field])
                .await?
        }
    };
    Ok(())
}

/// A user whose rooms have to be told of a new profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileChange {
    /// The user.
    pub user: OwnedUserId,
    /// How many changes are to be told.
    pub change: i64,
}

/// Notes that a user's rooms have to be told of a change.
///
/// # Errors
/// Any [`StorageError`].
pub async fn note_change(tx: &mut Tx, user: &UserId) -> Result<(), StorageError> {
    tx.run(NOTE_CHANGE, params![user.as_str()]).await?;
    Ok(())
}

/// The next users whose rooms have to be told, `limit` at most, in order of their IDs.
///
/// # Errors
/// Any [`StorageError`].
pub async fn changed(
    tx: &mut Tx,
    after: &str,
    limit: usize,
) -> Result<Vec<ProfileChange>, StorageError> {
    let rows = tx.query(CHANGED, params![after, limit as i64]).await?;
    let change = |row: &crate::Row| {
        let user = row.parsed(0)?;
        let change = row.int(1)?;
        Ok(ProfileChange { user, change })
    };
    rows.iter().map(change).collect()
}

/// A user's rooms know of a change. One that came meanwhile stays noted.
///
/// # Errors
/// Any [`StorageError`].
pub async fn forget_change(tx: &mut Tx, told: &ProfileChange) -> Result<(), StorageError> {
    let values = params![told.user.as_str(), told.change];
    tx.run(FORGET_CHANGE, values).await?;
    Ok(())
}
