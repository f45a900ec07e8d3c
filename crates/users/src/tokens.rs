//! Access tokens: opaque secrets of which the database holds only hashes.

use myelin_env::Random;
use myelin_storage::devices;
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
}

impl Users {
    /// Whom an access token speaks for; `None` if for nobody (any more).
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn authenticate(&self, token: &str) -> Result<Option<Requester>, UserError> {
        let hash = hash(token);
        let owner = self
            .database()
            .read("authenticate", move |tx| {
                Box::pin(async move { devices::owner_of_token(tx, &hash).await })
            })
            .await?;
        Ok(owner.map(|owner| Requester {
            user_id: owner.user_id,
            device_id: owner.device_id,
            admin: owner.admin,
        }))
    }
}

/// A new token, of 256 bits. The prefix lets scanners for leaked secrets recognise it.
pub(crate) fn generate(random: &Random) -> String {
    format!("myt_{}", random.alphanumeric(43))
}

/// What the database knows of a token. It needs no salt, since it can't be guessed.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
