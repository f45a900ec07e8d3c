//! Tokens by which users prove to third parties who they are. Client-server API and server-server API,
//! "OpenID".

use myelin_storage::{Priority, StorageError, openid_tokens};
use ruma::OwnedUserId;

use crate::{Requester, UserError, Users, tokens};

/// How long such a token is good for.
pub const OPENID_LIFETIME_MS: u64 = 60 * 60 * 1000;

impl Users {
    /// A token that proves to others who has asked for it, for [`OPENID_LIFETIME_MS`].
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn openid_token(&self, requester: &Requester) -> Result<String, UserError> {
        let token = tokens::generate(&self.env().random);
        let (user, hash) = (requester.user_id.clone(), tokens::hash(&token));
        let now_ms = self.env().clock.now_ms();
        let written: Result<(), StorageError> = self
            .database()
            .write("openid_token", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    openid_tokens::put(tx, &user, &hash, now_ms + OPENID_LIFETIME_MS, now_ms).await
                })
            })
            .await;
        written?;
        Ok(token)
    }

    /// Whom such a token proves; `None` if it is not known, or has ended.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn openid_user(&self, token: &str) -> Result<Option<OwnedUserId>, UserError> {
        let (hash, now_ms) = (tokens::hash(token), self.env().clock.now_ms());
        let found = self.database().look_up("openid_user", move |tx| {
            Box::pin(async move { openid_tokens::owner(tx, &hash, now_ms).await })
        });
        Ok(found.await?)
    }
}
