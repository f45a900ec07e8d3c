//! What administrators see of accounts and do to them, without a question to the accounts' users.

use myelin_storage::{
    Priority, StorageError, Tx,
    account_list::{self, AccountDetails, AccountsWanted},
    accounts, devices,
};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use crate::{ProfileField, UserError, Users, passwords, tokens};

/// What is to become of an account; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct AccountChange {
    /// A new password.
    pub password: Option<String>,
    /// Whether all sessions end with the old password.
    pub log_out: bool,
    /// A new name, or none any more.
    pub display_name: Option<Option<String>>,
    /// A new picture, or none any more.
    pub avatar_url: Option<Option<String>>,
    /// Whether the user administers the server.
    pub admin: Option<bool>,
    /// Whether the account is closed.
    pub deactivated: Option<bool>,
}

/// What was checked of an [`AccountChange`].
struct Checked {
    password_hash: Option<String>,
    fields: Vec<(ProfileField, Option<Value>)>,
    change: AccountChange,
    now_ms: u64,
}

impl Users {
    /// A page of accounts, and how many there are of that kind.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn accounts(
        &self,
        wanted: AccountsWanted,
    ) -> Result<(Vec<AccountDetails>, u64), UserError> {
        let found = self.database().read("accounts", move |tx| {
            Box::pin(async move { account_list::list(tx, &wanted).await })
        });
        Ok(found.await?)
    }

    /// What is known of an account.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn account_details(&self, user: &UserId) -> Result<AccountDetails, UserError> {
        let user = user.to_owned();
        let found = self.database().look_up("account_details", move |tx| {
            Box::pin(async move { account_list::by_user(tx, &user).await })
        });
        found.await?.ok_or_else(no_such_account)
    }

    /// Makes an account, or changes one, and says whether it was made. What its user's rooms have to know of
    /// it is noted.
    ///
    /// # Errors
    /// [`UserError::InvalidUsername`], [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn put_account(
        &self,
        user: OwnedUserId,
        change: AccountChange,
    ) -> Result<bool, UserError> {
        let mut fields = Vec::new();
        for (field, value) in [
            (ProfileField::DisplayName, &change.display_name),
            (ProfileField::AvatarUrl, &change.avatar_url),
        ] {
            if let Some(value) = value {
                let value = field.change(value.clone().map(Value::from))?;
                fields.push((field, value));
            }
        }
        let password_hash = match &change.password {
            Some(password) => Some(passwords::hash(self.env(), password.clone()).await?),
            None => None,
        };
        let checked = Checked {
            password_hash,
            fields,
            change,
            now_ms: self.env().clock.now_ms(),
        };
        // Accounts from elsewhere may have names that cannot be had here any more.
        let can_be_made = self.new_user_id(user.localpart()).and_then(|new| {
            let why = "Names of new users have no capitals";
            let differs = || UserError::InvalidUsername(why.to_owned());
            (new == user).then_some(()).ok_or_else(differs)
        });
        self.database()
            .write("put_account", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let is_new = accounts::by_user(tx, &user).await?.is_none();
                    if is_new {
                        can_be_made?;
                    }
                    checked.store(tx, &user, is_new).await?;
                    Ok::<_, UserError>(is_new)
                })
            })
            .await
    }

    /// Makes a user an administrator, or no administrator any more.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn set_admin(&self, user: OwnedUserId, admin: bool) -> Result<(), UserError> {
        self.database()
            .write("set_admin", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    existing(tx, &user).await?;
                    Ok::<_, UserError>(accounts::set_admin(tx, &user, admin).await?)
                })
            })
            .await
    }

    /// Sets a user's password. With `log_out`, all sessions end.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`], [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn reset_password(
        &self,
        user: OwnedUserId,
        password: String,
        log_out: bool,
    ) -> Result<(), UserError> {
        let hash = passwords::hash(self.env(), password).await?;
        self.database()
            .write("reset_password", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    existing(tx, &user).await?;
                    Ok::<_, UserError>(set_password(tx, &user, &hash, log_out).await?)
                })
            })
            .await
    }

    /// A token that speaks for a user, until a time in Unix milliseconds. It belongs to no device that the user
    /// or others would see, and ends when the user logs out everywhere.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Deactivated`], [`UserError::Storage`].
    pub async fn log_in_as(
        &self,
        user: OwnedUserId,
        expires_ms: Option<u64>,
    ) -> Result<String, UserError> {
        let random = &self.env().random;
        let token = tokens::generate(random);
        let (hash, device_id) = (tokens::hash(&token), random.alphanumeric(10).to_uppercase());
        let now_ms = self.env().clock.now_ms();
        self.database()
            .write("log_in_as", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let account = accounts::by_user(tx, &user).await?;
                    if account.ok_or_else(no_such_account)?.deactivated {
                        return Err(UserError::Deactivated);
                    }
                    devices::replace_token(tx, &user, &device_id, &hash, now_ms, expires_ms)
                        .await?;
                    Ok(())
                })
            })
            .await?;
        Ok(token)
    }
}

impl Checked {
    async fn store(self, tx: &mut Tx, user: &UserId, is_new: bool) -> Result<(), StorageError> {
        let hash = self.password_hash.as_deref();
        let Self { change, .. } = &self;
        if is_new {
            let admin = change.admin == Some(true);
            accounts::put(tx, user, hash, admin, self.now_ms).await?;
        } else {
            if let Some(admin) = change.admin {
                accounts::set_admin(tx, user, admin).await?;
            }
            if let Some(hash) = hash {
                set_password(tx, user, hash, change.log_out).await?;
            }
        }
        for (field, value) in &self.fields {
            field.store(tx, user, value.as_ref()).await?;
        }
        let known = accounts::by_user(tx, user).await?;
        let is_closed = known.is_some_and(|account| account.deactivated);
        match change.deactivated {
            Some(true) if !is_closed => accounts::close(tx, user, false).await,
            Some(false) if is_closed => accounts::reopen(tx, user).await,
            _ => Ok(()),
        }
    }
}

async fn set_password(
    tx: &mut Tx,
    user: &UserId,
    hash: &str,
    log_out: bool,
) -> Result<(), StorageError> {
    accounts::set_password(tx, user, hash).await?;
    match log_out {
        true => devices::remove_all(tx, user).await,
        false => Ok(()),
    }
}

async fn existing(tx: &mut Tx, user: &UserId) -> Result<(), UserError> {
    let account = accounts::by_user(tx, user).await?;
    account.map(drop).ok_or_else(no_such_account)
}

pub(crate) fn no_such_account() -> UserError {
    UserError::NotFound("User not found".to_owned())
}
