//! This server's users: accounts, logging in, access tokens, devices and their keys, messages between
//! devices, profiles, filters, push rules.
//!
//! Nothing here knows rooms, and nothing knows how an answer travels.

mod account_data;
mod accounts;
mod administration;
mod authentication;
mod device_management;
mod devices;
mod error;
mod expiring;
mod filters;
mod interactive;
mod keys;
mod login;
mod openid;
mod passwords;
mod profiles;
mod push_rules;
mod rate_limits;
mod registration;
mod registration_tokens;
mod reports;
mod shared_secret;
mod to_device;
mod tokens;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use myelin_env::Env;
use myelin_federation::Federation;
use myelin_storage::{Database, stream::Stream, waking::Waking};
use ruma::{OwnedServerName, ServerName};

pub use administration::AccountChange;
pub use devices::{DeviceList, QueriedKeys, uploaded_keys};
pub use error::{LimitExceeded, UserError};
pub use interactive::{AuthData, Challenge, Stage, UserIdentifier};
pub use keys::KeyUpload;
pub use login::{LOGIN_TOKEN_MS, Login, NewDevice};
pub use openid::OPENID_LIFETIME_MS;
pub use profiles::{CustomField, Profile, ProfileField, ProfileFields, shown_in_rooms};
pub use push_rules::{PushRuleChange, RuleName};
pub use rate_limits::{Limit, Override, Quota, Quotas, RateLimits, Who};
pub use registration::{NewAccount, Registered, Registration};
pub use registration_tokens::NewToken;
pub use reports::{Reported, ReportsWanted};
pub use shared_secret::SharedSecretRegistration;
pub use to_device::{DIRECT_TO_DEVICE, Inbox, Messages};
pub use tokens::{LIFETIME_MS as ACCESS_TOKEN_LIFETIME_MS, Renewed, Requester};

use device_management::Seen;
use interactive::Sessions;
use login::LoginTokens;
use shared_secret::Nonces;
use to_device::EmptyInboxes;

/// What the operator decides about users.
#[derive(Clone, Debug)]
pub struct UsersConfig {
    /// The name that user IDs end with.
    pub server_name: OwnedServerName,
    /// Whether anybody may register without a token.
    pub registration_enabled: bool,
    /// Whether anybody may be a guest.
    pub guests: bool,
    /// Lets tools register accounts; none: they can't.
    pub shared_secret: Option<String>,
    /// How often things may be done; none: as often as anybody likes.
    pub quotas: Option<Quotas>,
}

/// The users of one server. Clones share everything.
#[derive(Clone)]
pub struct Users(Arc<Inner>);

struct Inner {
    config: UsersConfig,
    env: Env,
    database: Database,
    federation: Federation,
    sessions: Mutex<Sessions>,
    nonces: Mutex<Nonces>,
    seen: Mutex<Seen>,
    login_tokens: Mutex<LoginTokens>,
    rate_limits: RateLimits,
    /// Of messages to devices and of account data.
    to_device: Stream,
    empty_inboxes: Mutex<EmptyInboxes>,
    /// Who waits for these.
    waking: Waking,
}

impl Users {
    /// The users whose accounts are in `database`.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn open(
        config: UsersConfig,
        env: Env,
        database: Database,
        federation: Federation,
    ) -> Result<Self, UserError> {
        let to_device = database
            .read("to-device position", |tx| {
                Box::pin(myelin_storage::to_device::last_position(tx))
            })
            .await?;
        let overrides = database
            .look_up("rate limits", |tx| {
                Box::pin(myelin_storage::rate_limit_overrides::all(tx))
            })
            .await?;
        let overrides = overrides.into_iter().collect();
        let rate_limits = RateLimits::new(env.clock.clone(), config.quotas.clone(), overrides);
        Ok(Self(Arc::new(Inner {
            config,
            rate_limits,
            env,
            database,
            federation,
            sessions: Mutex::default(),
            nonces: Mutex::default(),
            seen: Mutex::default(),
            login_tokens: Mutex::default(),
            to_device: Stream::new(to_device),
            empty_inboxes: Mutex::default(),
            waking: Waking::default(),
        })))
    }

    /// The name that user IDs end with.
    #[must_use]
    pub fn server_name(&self) -> &ServerName {
        &self.0.config.server_name
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`UserError::Storage`] if it does not.
    pub async fn check(&self) -> Result<(), UserError> {
        let answer = self.database().read("check", |tx| {
            Box::pin(async move { myelin_storage::accounts::any(tx).await })
        });
        answer.await?;
        Ok(())
    }

    /// How often users, addresses and other servers may do things.
    #[must_use]
    pub fn rate_limits(&self) -> &RateLimits {
        &self.0.rate_limits
    }

    fn config(&self) -> &UsersConfig {
        &self.0.config
    }

    fn env(&self) -> &Env {
        &self.0.env
    }

    fn database(&self) -> &Database {
        &self.0.database
    }

    fn federation(&self) -> &Federation {
        &self.0.federation
    }

    /// The stream of messages to devices and of account data.
    #[must_use]
    pub fn to_device_stream(&self) -> &Stream {
        &self.0.to_device
    }

    /// Who waits for news in [`Users::to_device_stream`].
    #[must_use]
    pub fn waking(&self) -> &Waking {
        &self.0.waking
    }

    /// The locks guard plain maps, whole at every point where a panic could strike.
    fn empty_inboxes(&self) -> MutexGuard<'_, EmptyInboxes> {
        let inboxes = self.0.empty_inboxes.lock();
        inboxes.unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0
            .sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn login_tokens(&self) -> MutexGuard<'_, LoginTokens> {
        self.0
            .login_tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn nonces(&self) -> MutexGuard<'_, Nonces> {
        self.0.nonces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
