//! Making accounts. Client-server API, "Account registration".

use myelin_storage::{
    Priority, StorageError, Tx, accounts,
    registration_tokens::{self, RegistrationToken},
};
use ruma::{OwnedUserId, UserId};

use crate::{
    UserError, Users,
    interactive::{AuthData, Purpose, Stage},
    login::{Login, NewDevice, NewSession},
    passwords, profiles,
};

/// What somebody asks for who wants an account.
#[derive(Debug, Default)]
pub struct Registration {
    /// The local part; none: the server chooses.
    pub username: Option<String>,
    /// Without one, nobody can log in with a password.
    pub password: Option<String>,
    /// The token of a guest who is to keep name and rooms: then `username` is the guest's.
    pub guest_access_token: Option<String>,
    /// What was shown for it.
    pub auth: Option<AuthData>,
    /// The device to log in.
    pub device: NewDevice,
    /// Makes only the account, no session.
    pub inhibit_login: bool,
}

/// What came of it.
#[derive(Debug)]
pub enum Registered {
    /// The account, with a session.
    LoggedIn(Login),
    /// The account only.
    Account(OwnedUserId),
}

/// An account to be made without further questions.
#[derive(Debug, Default)]
pub struct NewAccount {
    /// The local part.
    pub username: String,
    /// Without one, nobody can log in with a password.
    pub password: Option<String>,
    /// Whether the user will administer the server.
    pub admin: bool,
    /// What people see.
    pub display_name: Option<String>,
}

impl Users {
    /// Registers an account, if enough was shown for it.
    ///
    /// # Errors
    /// [`UserError::Challenge`] with what is missing, [`UserError::Forbidden`] if nobody can
    /// register, and everything that can be wrong with the name or the password.
    pub async fn register(&self, request: Registration) -> Result<Registered, UserError> {
        let user_id = self.name_of(&request).await?;
        let flows = self.registration_flows().await?;
        let passed = self.pass_stages(Purpose::Registration, flows, request.auth);
        let passed = passed.await?;
        let password_hash = match request.password {
            Some(password) => Some(passwords::hash(self.env(), password).await?),
            None => None,
        };
        let session = if request.inhibit_login {
            None
        } else {
            Some(self.new_session(user_id.clone(), request.device)?)
        };
        let login = session.as_ref().map(|session| session.login.clone());
        let session_id = passed.session;
        let account = AccountToStore {
            user_id: user_id.clone(),
            was_guest: request.guest_access_token.is_some(),
            password_hash,
            admin: false,
            display_name: None,
            now_ms: self.env().clock.now_ms(),
        };
        self.database()
            .write("register", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    account
                        .store_with(tx, passed.registration_token, session)
                        .await
                })
            })
            .await?;
        self.sessions().end(&session_id, self.env());
        tracing::info!(user = %user_id, "registered");
        Ok(login.map_or(Registered::Account(user_id), Registered::LoggedIn))
    }

    /// The ID of whoever registers.
    async fn name_of(&self, request: &Registration) -> Result<OwnedUserId, UserError> {
        let Some(token) = &request.guest_access_token else {
            return match &request.username {
                Some(username) => self.available(username).await,
                None => self.random_user_id(),
            };
        };
        let username = request.username.as_deref();
        let user_id = self.new_user_id(username.ok_or(UserError::MissingParam("username"))?)?;
        match self.authenticate(token).await? {
            Some(guest) if guest.guest && guest.user_id == user_id => Ok(user_id),
            _ => Err(UserError::Forbidden(
                "The token is not that of the guest of this name".to_owned(),
            )),
        }
    }

    fn random_user_id(&self) -> Result<OwnedUserId, UserError> {
        self.new_user_id(&self.env().random.alphanumeric(12))
    }

    /// Makes an account of a guest, with a session. Client-server API, "Guest access".
    ///
    /// # Errors
    /// [`UserError::NoGuests`], [`UserError::InvalidParam`] if the device can't be called so,
    /// [`UserError::Storage`].
    pub async fn register_guest(
        &self,
        device_display_name: Option<String>,
    ) -> Result<Login, UserError> {
        if !self.config().guests {
            return Err(UserError::NoGuests);
        }
        let user_id = self.random_user_id()?;
        let device = NewDevice {
            display_name: device_display_name,
            ..NewDevice::default()
        };
        let session = self.new_session(user_id.clone(), device)?;
        let login = session.login.clone();
        let now_ms = self.env().clock.now_ms();
        self.database()
            .write("register a guest", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    if !accounts::put_guest(tx, &user_id, now_ms).await? {
                        return Err(UserError::UserInUse);
                    }
                    Ok(session.store(tx).await?)
                })
            })
            .await?;
        tracing::info!(user = %login.user_id, "registered as a guest");
        Ok(login)
    }

    /// Makes an account on the operator's word.
    ///
    /// # Errors
    /// Everything that can be wrong with the name or the password.
    pub async fn create_account(&self, account: NewAccount) -> Result<OwnedUserId, UserError> {
        let user_id = self.new_user_id(&account.username)?;
        profiles::check_display_name(account.display_name.as_deref())?;
        let password_hash = match account.password {
            Some(password) => Some(passwords::hash(self.env(), password).await?),
            None => None,
        };
        let account = AccountToStore {
            user_id: user_id.clone(),
            was_guest: false,
            password_hash,
            admin: account.admin,
            display_name: account.display_name,
            now_ms: self.env().clock.now_ms(),
        };
        self.database()
            .write("create_account", Priority::Interactive, move |tx| {
                Box::pin(async move { account.store_with(tx, None, None).await })
            })
            .await?;
        tracing::info!(user = %user_id, "account created");
        Ok(user_id)
    }

    /// The ID that `username` stands for, if somebody could register it now.
    ///
    /// # Errors
    /// [`UserError::InvalidUsername`], [`UserError::UserInUse`], [`UserError::Storage`].
    pub async fn available(&self, username: &str) -> Result<OwnedUserId, UserError> {
        let user_id = self.new_user_id(username)?;
        match self.account(user_id.clone()).await? {
            Some(_) => Err(UserError::UserInUse),
            None => Ok(user_id),
        }
    }

    /// Whether a registration token is good for an account.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn is_valid_registration_token(&self, token: String) -> Result<bool, UserError> {
        let now_ms = self.env().clock.now_ms();
        let found = self.database().look_up("registration_token", move |tx| {
            Box::pin(async move { registration_tokens::valid(tx, &token, now_ms).await })
        });
        Ok(found.await?.is_some())
    }

    /// The one-time token for the first account, which will administer the server; `None` once there
    /// is an account. It stays the same until it is used.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn first_account_token(&self) -> Result<Option<String>, UserError> {
        let fresh = RegistrationToken {
            token: self.env().random.alphanumeric(32),
            uses_left: Some(1),
            completed: 0,
            expires_ms: None,
        };
        let now_ms = self.env().clock.now_ms();
        let token =
            self.database()
                .write("first_account_token", Priority::Interactive, move |tx| {
                    Box::pin(async move {
                        if accounts::any(tx).await? {
                            return Ok::<_, StorageError>(None);
                        }
                        if let Some(token) = registration_tokens::for_admin(tx).await? {
                            return Ok(Some(token));
                        }
                        registration_tokens::put(tx, &fresh, true, now_ms).await?;
                        Ok(Some(fresh.token))
                    })
                });
        Ok(token.await?)
    }

    /// The ID of a new user of this server. Capitals become small, as clients expect.
    pub(crate) fn new_user_id(&self, username: &str) -> Result<OwnedUserId, UserError> {
        let username = username.to_ascii_lowercase();
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte)
        };
        if username.is_empty() || !username.bytes().all(allowed) {
            return Err(UserError::InvalidUsername(
                "A user name consists of the characters a-z, 0-9, and . _ = - / +".to_owned(),
            ));
        }
        let user_id = format!("@{username}:{}", self.server_name());
        UserId::parse(user_id)
            .map_err(|_| UserError::InvalidUsername("This user name is too long".to_owned()))
    }

    /// How one can come by an account.
    async fn registration_flows(&self) -> Result<Vec<Vec<Stage>>, UserError> {
        let now_ms = self.env().clock.now_ms();
        let tokens = self
            .database()
            .look_up("any_registration_token", move |tx| {
                Box::pin(async move { registration_tokens::any_valid(tx, now_ms).await })
            });
        let by_token = tokens.await?.then(|| vec![Stage::RegistrationToken]);
        let freely = self
            .config()
            .registration_enabled
            .then(|| vec![Stage::Dummy]);
        let flows: Vec<_> = freely.into_iter().chain(by_token).collect();
        if flows.is_empty() {
            return Err(UserError::Forbidden(
                "Registration is closed on this server".to_owned(),
            ));
        }
        Ok(flows)
    }
}

/// An account that has yet to be stored.
struct AccountToStore {
    user_id: OwnedUserId,
    /// The account is there, as a guest's.
    was_guest: bool,
    password_hash: Option<String>,
    admin: bool,
    display_name: Option<String>,
    now_ms: u64,
}

impl AccountToStore {
    /// Stores the account, uses up the token, and begins the session: all or nothing.
    async fn store_with(
        self,
        tx: &mut Tx,
        token: Option<String>,
        session: Option<NewSession>,
    ) -> Result<(), UserError> {
        let mut admin = self.admin;
        if let Some(token) = token {
            // It was valid a moment ago, but somebody else may have been faster.
            let kind = registration_tokens::valid(tx, &token, self.now_ms).await?;
            if kind.is_none() || !registration_tokens::use_once(tx, &token).await? {
                return Err(UserError::Forbidden(
                    "The registration token has been used up".to_owned(),
                ));
            }
            admin |= kind == Some(true);
        }
        let hash = self.password_hash.as_deref();
        let is_stored = match self.was_guest {
            true => accounts::upgrade(tx, &self.user_id, hash, admin).await?,
            false => accounts::put(tx, &self.user_id, hash, admin, self.now_ms).await?,
        };
        if !is_stored {
            return Err(UserError::UserInUse);
        }
        if self.display_name.is_some() {
            let name = self.display_name.as_deref();
            myelin_storage::profiles::set_display_name(tx, &self.user_id, name).await?;
        }
        if let Some(session) = session {
            session.store(tx).await?;
        }
        Ok(())
    }
}
