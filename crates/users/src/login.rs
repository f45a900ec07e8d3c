//! Logging in and out. Client-server API, "Login".

use myelin_storage::{Priority, StorageError, Tx, accounts, devices};
use ruma::{OwnedUserId, UserId};

use crate::{Requester, UserError, Users, error::check_text, passwords, tokens};

/// How a new session is to be called.
#[derive(Clone, Debug, Default)]
pub struct NewDevice {
    /// The device to log in again, or the ID a new one shall have; none: the server chooses.
    pub device_id: Option<String>,
    /// What people see; kept from before if none.
    pub display_name: Option<String>,
}

/// A session: a device of a user with its access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: String,
    /// The secret that speaks for both. It can't be read again.
    pub access_token: String,
}

impl Users {
    /// Logs in by password. `user` is a local part or a whole ID.
    ///
    /// # Errors
    /// [`UserError::Forbidden`] if user or password is wrong, [`UserError::Deactivated`],
    /// [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn log_in(
        &self,
        user: &str,
        password: String,
        device: NewDevice,
    ) -> Result<Login, UserError> {
        let wrong = || UserError::Forbidden("Wrong user or password".to_owned());
        // Users of other servers, and names that nobody can have, are as unknown as any other.
        let user_id = self.local_user(user);
        let account = match user_id.clone() {
            Some(user_id) => self.account(user_id).await?,
            None => None,
        };
        let hash = account
            .as_ref()
            .and_then(|account| account.password_hash.clone());
        let matches = passwords::verify(self.env(), password, hash).await;
        let (Some(user_id), Some(account)) = (user_id, account) else {
            return Err(wrong());
        };
        // A closed account has no password any more.
        if account.deactivated {
            return Err(UserError::Deactivated);
        }
        if !matches {
            return Err(wrong());
        }
        self.start_session(user_id, device).await
    }

    /// Gives a user a new session. The caller has made sure that it is for the user.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn start_session(
        &self,
        user_id: OwnedUserId,
        device: NewDevice,
    ) -> Result<Login, UserError> {
        let session = self.new_session(user_id, device)?;
        let login = session.login.clone();
        self.database()
            .write("log_in", Priority::Interactive, move |tx| {
                Box::pin(async move { session.store(tx).await })
            })
            .await
            .map_err(UserError::Storage)?;
        Ok(login)
    }

    /// A session that has yet to be stored.
    pub(crate) fn new_session(
        &self,
        user_id: OwnedUserId,
        device: NewDevice,
    ) -> Result<NewSession, UserError> {
        check_text("device_id", device.device_id.as_deref(), 255)?;
        let name = device.display_name.as_deref();
        check_text("initial_device_display_name", name, 255)?;
        let random = &self.env().random;
        let device_id = device
            .device_id
            .unwrap_or_else(|| random.alphanumeric(10).to_uppercase());
        Ok(NewSession {
            login: Login {
                user_id,
                device_id,
                access_token: tokens::generate(random),
            },
            display_name: device.display_name,
            now_ms: self.env().clock.now_ms(),
        })
    }

    /// Ends a session: the device goes with its token and keys.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn log_out(&self, requester: Requester) -> Result<(), UserError> {
        let left: Result<(), StorageError> = self
            .database()
            .write("log_out", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    devices::remove(tx, &requester.user_id, requester.device_id.as_str()).await
                })
            })
            .await;
        left.map_err(UserError::Storage)
    }

    /// Ends all sessions of a user.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn log_out_everywhere(&self, user: OwnedUserId) -> Result<(), UserError> {
        let left: Result<(), StorageError> = self
            .database()
            .write("log_out_everywhere", Priority::Interactive, move |tx| {
                Box::pin(async move { devices::remove_all(tx, &user).await })
            })
            .await;
        left.map_err(UserError::Storage)
    }

    /// The ID of one of this server's users from a local part or a whole ID; `None` if it can't be
    /// one. Local parts in the historical, wider form pass, for accounts that came from elsewhere.
    pub(crate) fn local_user(&self, user: &str) -> Option<OwnedUserId> {
        let user_id = if user.starts_with('@') {
            UserId::parse(user).ok()?
        } else {
            UserId::parse(format!("@{user}:{}", self.server_name())).ok()?
        };
        (user_id.server_name() == self.server_name()).then_some(user_id)
    }

    pub(crate) async fn account(
        &self,
        user: OwnedUserId,
    ) -> Result<Option<accounts::Account>, UserError> {
        let account = self.database().read("account", move |tx| {
            Box::pin(async move { accounts::by_user(tx, &user).await })
        });
        Ok(account.await?)
    }
}

/// A session that has yet to be stored.
pub(crate) struct NewSession {
    pub(crate) login: Login,
    display_name: Option<String>,
    now_ms: u64,
}

impl NewSession {
    /// Stores the device and its token, which ends earlier tokens of the device.
    pub(crate) async fn store(&self, tx: &mut Tx) -> Result<(), StorageError> {
        let user = &self.login.user_id;
        let device_id = self.login.device_id.as_str();
        devices::put(
            tx,
            user,
            device_id,
            self.display_name.as_deref(),
            self.now_ms,
        )
        .await?;
        let hash = tokens::hash(&self.login.access_token);
        devices::replace_token(tx, user, device_id, &hash, self.now_ms).await
    }
}
