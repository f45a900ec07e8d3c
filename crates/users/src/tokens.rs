//! Access tokens: opaque secrets of which the database holds only hashes.

use myelin_env::Random;
use myelin_storage::{
    Priority, StorageError, devices,
    refresh_tokens::{self, TokenPair},
};
use ruma::{OwnedDeviceId, OwnedUserId};
use sha2::{Digest as _, Sha256};

use crate::{UserError, Users};

/// Who is asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device that logged in.
    pub device_id: OwnedDeviceId,
    /// Whether the user administers the server.
    pub admin: bool,
    /// Whether the user is a guest.
    pub guest: bool,
}

impl Users {
    /// Whom an access token speaks for; `None` if for nobody (any more). Its first use ends the token in
    /// whose place it came.
    ///
    /// # Errors
    /// [`UserError::SessionEnded`] if its time is over, [`UserError::Storage`].
    pub async fn authenticate(&self, token: &str) -> Result<Option<Requester>, UserError> {
        let hash = hash(token);
        let owner = self
            .database()
            .look_up("authenticate", move |tx| {
                Box::pin(async move { devices::owner_of_token(tx, &hash).await })
            })
            .await?;
        let Some(owner) = owner else {
            return Ok(None);
        };
        let now_ms = self.env().clock.now_ms();
        if owner.expires_ms.is_some_and(|ends_ms| ends_ms <= now_ms) {
            return Err(UserError::SessionEnded);
        }
        let requester = Requester {
            user_id: owner.user_id,
            device_id: owner.device_id,
            admin: owner.admin,
            guest: owner.guest,
        };
        if let Some(renews) = owner.renews {
            let Requester {
                user_id, device_id, ..
            } = requester.clone();
            self.database()
                .write("renewed token used", Priority::Interactive, move |tx| {
                    Box::pin(async move {
                        refresh_tokens::settle(tx, &user_id, device_id.as_str(), &renews).await
                    })
                })
                .await
                .map_err(UserError::Storage)?;
        }
        Ok(Some(requester))
    }

    /// Renews a session: a new pair of tokens, which takes the place of the one before it when it is first
    /// used.
    ///
    /// # Errors
    /// [`UserError::SessionEnded`] if the refresh token is not known (any more), [`UserError::Storage`].
    pub async fn refresh(&self, refresh_token: &str) -> Result<Renewed, UserError> {
        let renewed = Renewed {
            access_token: generate(&self.env().random),
            refresh_token: generate(&self.env().random),
        };
        let now_ms = self.env().clock.now_ms();
        let pair = TokenPair {
            access_hash: hash(&renewed.access_token),
            refresh_hash: hash(&renewed.refresh_token),
            expires_ms: now_ms + LIFETIME_MS,
        };
        let old = hash(refresh_token);
        let known = self
            .database()
            .write("refresh", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let Some(known) = refresh_tokens::by_hash(tx, &old).await? else {
                        return Ok::<_, StorageError>(false);
                    };
                    if let Some(renews) = &known.renews {
                        let device_id = known.device_id.as_str();
                        refresh_tokens::settle(tx, &known.user_id, device_id, renews).await?;
                    }
                    refresh_tokens::renew(tx, &known, &old, &pair, now_ms).await?;
                    Ok(true)
                })
            });
        match known.await? {
            true => Ok(renewed),
            false => Err(UserError::SessionEnded),
        }
    }
}

/// How long the access token of a session that can be renewed is good for.
pub const LIFETIME_MS: u64 = 60 * 60 * 1000;

/// The tokens of a renewed session. The access token is good for [`LIFETIME_MS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// Speaks for the user and the device.
    pub access_token: String,
    /// Renews the session the next time.
    pub refresh_token: String,
}

/// A new token, of 256 bits. The prefix lets scanners for leaked secrets recognise it.
pub(crate) fn generate(random: &Random) -> String {
    format!("myt_{}", random.alphanumeric(43))
}

/// What the database knows of a token. It needs no salt, since it can't be guessed.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
