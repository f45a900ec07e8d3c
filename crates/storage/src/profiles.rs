//! Profiles of this server's users.

use ruma::UserId;

use crate::{StorageError, Tx};

statements! {
    /// What a user shows of itself.
    PROFILE = "SELECT display_name, avatar_url FROM accounts WHERE user_id = $1 AND NOT deactivated";
    /// A new display name, or none.
    SET_DISPLAY_NAME = "UPDATE accounts SET display_name = $2 WHERE user_id = $1";
    /// A new picture, or none.
    SET_AVATAR_URL = "UPDATE accounts SET avatar_url = $2 WHERE user_id = $1";
}

/// What a user shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The name.
    pub display_name: Option<String>,
    /// The picture, an `mxc://` address.
    pub avatar_url: Option<String>,
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
    tx.execute(SET_DISPLAY_NAME, values).await?;
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
    tx.execute(SET_AVATAR_URL, values).await?;
    Ok(())
}
