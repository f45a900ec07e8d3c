//! Logging in and out. Client-server API, "Login".

use myelin_storage::{Priority, StorageError, Tx, accounts, devices, refresh_tokens};
use ruma::{OwnedUserId, UserId};

use crate::{
    AuthData, Limit, LimitExceeded, Requester, UserError, Users, Who, error::check_text,
    expiring::Expiring, passwords, tokens,
};

/// How long a login token is good for.
pub const LOGIN_TOKEN_MS: u64 = 2 * 60 * 1000;

/// When more of them than this are open, the oldest is forgotten.
const MAX_LOGIN_TOKENS: usize = 10_000;

/// The login tokens that were given out and not used. A restart may forget them.
#[derive(Debug)]
pub(crate) struct LoginTokens(Expiring<OwnedUserId>);

impl Default for LoginTokens {
    fn default() -> Self {
        Self(Expiring::new(LOGIN_TOKEN_MS, MAX_LOGIN_TOKENS))
    }
}

/// How a new session is to be called.
#[derive(Clone, Debug, Default)]
pub struct NewDevice {
    /// The device to log in again, or the ID a new one shall have; none: the server chooses.
    pub device_id: Option<String>,
    /// What people see; kept from before if none.
    pub display_name: Option<String>,
    /// Whether the client can renew its session: then the access token ends after a time.
    pub renewable: bool,
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
    /// Renews the session; none: it does not end by itself.
    pub refresh_token: Option<String>,
}

impl Users {
    /// Logs in by password. `user` is a local part or a whole ID.
    ///
    /// # Errors
    /// [`UserError::Forbidden`] if user or password is wrong, [`UserError::LimitExceeded`] if that was
    /// tried too often, [`UserError::Deactivated`], [`UserError::InvalidParam`], [`UserError::Storage`].
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
        let matches = self.is_password(user_id.as_deref(), password, hash).await?;
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

    /// Whether a password is the one behind `hash`. Wrong ones count against the account that they are tried
    /// with, whether it exists or not.
    pub(crate) async fn is_password(
        &self,
        user_id: Option<&UserId>,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, LimitExceeded> {
        let who = user_id.map(|user_id| Who::User(user_id.to_owned()));
        if let Some(who) = who.clone() {
            self.rate_limits().check(Limit::WrongPasswords, who)?;
        }
        let matches = passwords::verify(self.env(), password, hash).await;
        if let Some(who) = who.filter(|_| !matches) {
            self.rate_limits().take(Limit::WrongPasswords, who, 1)?;
        }
        Ok(matches)
    }

    /// A token by which whoever asks can log in on another device, within [`LOGIN_TOKEN_MS`] and once.
    ///
    /// # Errors
    /// [`UserError::Challenge`], [`UserError::Storage`].
    pub async fn login_token(
        &self,
        requester: &Requester,
        auth: Option<AuthData>,
    ) -> Result<String, UserError> {
        self.confirm(requester, "log another device in", Vec::new(), auth)
            .await?;
        let token = tokens::generate(&self.env().random);
        let now_ms = self.env().clock.now_ms();
        let user = requester.user_id.clone();
        self.login_tokens().0.put(token.clone(), user, now_ms);
        Ok(token)
    }

    /// Logs in by such a token, which is used up.
    ///
    /// # Errors
    /// [`UserError::Forbidden`] if the token is not good (any more), [`UserError::Deactivated`],
    /// [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn log_in_by_token(
        &self,
        token: &str,
        device: NewDevice,
    ) -> Result<Login, UserError> {
        let now_ms = self.env().clock.now_ms();
        let user = self.login_tokens().0.take(token, now_ms);
        let unknown = || UserError::Forbidden("The login token is not valid (any more)".to_owned());
        let user = user.ok_or_else(unknown)?;
        match self.account(user.clone()).await? {
            Some(account) if !account.deactivated => self.start_session(user, device).await,
            Some(_) => Err(UserError::Deactivated),
            None => Err(unknown()),
        }
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
                refresh_token: device.renewable.then(|| tokens::generate(random)),
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
        let account = self.database().look_up("account", move |tx| {
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
        let refresh = self.login.refresh_token.as_deref().map(tokens::hash);
        let expires_ms = refresh.map(|_| self.now_ms + tokens::LIFETIME_MS);
        devices::replace_token(tx, user, device_id, &hash, self.now_ms, expires_ms).await?;
        match refresh {
            None => Ok(()),
            Some(refresh) => refresh_tokens::put(tx, user, device_id, &refresh, self.now_ms).await,
        }
    }
}
