//! Tokens that let somebody register, as administrators make and change them.

use myelin_storage::{
    Priority,
    registration_tokens::{self, RegistrationToken},
};

use crate::{UserError, Users};

/// The most characters of a token.
const MAX_LENGTH: usize = 64;

/// The length of a token for which none is wished.
const USUAL_LENGTH: usize = 16;

/// A token that is wished for.
#[derive(Clone, Debug, Default)]
pub struct NewToken {
    /// What will have to be shown; none: the server chooses.
    pub token: Option<String>,
    /// How long the server makes it, in characters.
    pub length: Option<usize>,
    /// For how many accounts it is good; none: for any number.
    pub uses_allowed: Option<u64>,
    /// When it ends, in Unix milliseconds; none: never.
    pub expires_ms: Option<u64>,
}

impl Users {
    /// All tokens, the oldest first; only those that are good for another account, or only the others.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn registration_tokens(
        &self,
        valid: Option<bool>,
    ) -> Result<Vec<RegistrationToken>, UserError> {
        let now_ms = self.env().clock.now_ms();
        let all = self.database().look_up("registration_tokens", |tx| {
            Box::pin(async move { registration_tokens::all(tx).await })
        });
        let mut all = all.await?;
        all.retain(|token| valid.is_none_or(|valid| token.is_valid(now_ms) == valid));
        Ok(all)
    }

    /// One token.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn registration_token(&self, token: String) -> Result<RegistrationToken, UserError> {
        let wanted = token.clone();
        let found = self.database().look_up("registration_token", move |tx| {
            Box::pin(async move { registration_tokens::by_token(tx, &wanted).await })
        });
        found.await?.ok_or_else(|| no_such_token(&token))
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn make_registration_token(
        &self,
        wish: NewToken,
    ) -> Result<RegistrationToken, UserError> {
        let invalid = |why: &str| UserError::InvalidParam(why.to_owned());
        let length = wish.length.unwrap_or(USUAL_LENGTH);
        if !(1..=MAX_LENGTH).contains(&length) {
            let why = "length must be greater than zero and not greater than 64";
            return Err(invalid(why));
        }
        let text = match wish.token {
            None => self.env().random.alphanumeric(length),
            Some(text) if text.is_empty() || text.len() > MAX_LENGTH => {
                let why = "token must not be empty and must not be longer than 64 characters";
                return Err(invalid(why));
            }
            Some(text) => text,
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
        if !text.bytes().all(allowed) {
            let why = "token must consist only of characters matched by the regex [A-Za-z0-9-_]";
            return Err(invalid(why));
        }
        self.check_expiry(wish.expires_ms)?;
        let token = RegistrationToken {
            token: text,
            uses_left: wish.uses_allowed,
            completed: 0,
            expires_ms: wish.expires_ms,
        };
        let (made, now_ms) = (token.clone(), self.env().clock.now_ms());
        let put = self
            .database()
            .write("make_token", Priority::Interactive, move |tx| {
                Box::pin(async move { registration_tokens::put(tx, &token, false, now_ms).await })
            });
        match put.await? {
            true => Ok(made),
            false => Err(UserError::InvalidParam(format!(
                "Token already exists: {}",
                made.token
            ))),
        }
    }

    /// Changes for how many accounts a token is good in all, and until when; each only if it is given.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`], [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn change_registration_token(
        &self,
        token: String,
        uses_allowed: Option<Option<u64>>,
        expires_ms: Option<Option<u64>>,
    ) -> Result<RegistrationToken, UserError> {
        self.check_expiry(expires_ms.flatten())?;
        self.database()
            .write("change_token", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let found = registration_tokens::by_token(tx, &token).await?;
                    let mut found = found.ok_or_else(|| no_such_token(&token))?;
                    if let Some(allowed) = uses_allowed {
                        found.uses_left =
                            allowed.map(|allowed| allowed.saturating_sub(found.completed));
                    }
                    if let Some(expires_ms) = expires_ms {
                        found.expires_ms = expires_ms;
                    }
                    registration_tokens::update(tx, &found).await?;
                    Ok(found)
                })
            })
            .await
    }

    /// Removes a token.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn remove_registration_token(&self, token: String) -> Result<(), UserError> {
        let wanted = token.clone();
        let removed = self
            .database()
            .write("remove_token", Priority::Interactive, move |tx| {
                Box::pin(async move { registration_tokens::remove(tx, &wanted).await })
            });
        match removed.await? {
            true => Ok(()),
            false => Err(no_such_token(&token)),
        }
    }

    fn check_expiry(&self, expires_ms: Option<u64>) -> Result<(), UserError> {
        match expires_ms {
            Some(end) if end < self.env().clock.now_ms() => Err(UserError::InvalidParam(
                "expiry_time must not be in the past".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

fn no_such_token(token: &str) -> UserError {
    UserError::NotFound(format!("No such registration token: {token}"))
}
