//! Passwords: kept as argon2id hashes, computed off the asynchronous threads.

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use myelin_env::Env;

use crate::UserError;

/// Longer ones would only cost time to hash.
const MAX_BYTES: usize = 512;

/// What a password is compared with if there is no account, so that the answer takes as long as if
/// there were one. It is the hash of nothing anybody could type.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$\
                      AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The PHC string of a new password.
///
/// # Errors
/// [`UserError::InvalidParam`] if it is empty or longer than 512 bytes.
pub(crate) async fn hash(env: &Env, password: String) -> Result<String, UserError> {
    check(&password)?;
    let mut salt = [0; 16];
    env.random.fill(&mut salt);
    let hashed = env
        .tasks
        .cpu("hash_password", move || {
            Argon2::default()
                .hash_password_with_salt(password.as_bytes(), &salt)
                .map(|hash: PasswordHash| hash.to_string())
        })
        .await;
    hashed.map_err(|error| UserError::InvalidParam(format!("Password: {error}")))
}

/// Whether it can be a password.
///
/// # Errors
/// [`UserError::InvalidParam`] if it is empty or longer than 512 bytes.
pub(crate) fn check(password: &str) -> Result<(), UserError> {
    if password.is_empty() || password.len() > MAX_BYTES {
        let why = format!("A password has 1 to {MAX_BYTES} bytes");
        return Err(UserError::InvalidParam(why));
    }
    Ok(())
}

/// Whether `password` is the one behind `hash`; never, if there is no hash.
pub(crate) async fn verify(env: &Env, password: String, hash: Option<String>) -> bool {
    if password.len() > MAX_BYTES {
        return false;
    }
    let known = hash.is_some();
    let hash = hash.unwrap_or_else(|| NOBODY.to_owned());
    let matches = env.tasks.cpu("verify_password", move || {
        PasswordHash::new(&hash).is_ok_and(|hash| {
            let verified = Argon2::default().verify_password(password.as_bytes(), &hash);
            verified.is_ok()
        })
    });
    matches.await && known
}

#[cfg(test)]
mod tests {
    use super::{NOBODY, hash, verify};
    use argon2::password_hash::phc::PasswordHash;
    use myelin_env::Env;

    #[tokio::test]
    async fn only_the_password_itself_matches_its_hash() {
        let env = Env::manual(0, 1);
        let stored = hash(&env, "correct horse".to_owned()).await.unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(verify(&env, "correct horse".to_owned(), Some(stored.clone())).await);
        assert!(!verify(&env, "correct hors".to_owned(), Some(stored.clone())).await);
        assert!(!verify(&env, "correct horse".to_owned(), None).await);
        let again = hash(&env, "correct horse".to_owned()).await.unwrap();
        assert_ne!(stored, again, "each hash has its own salt");
    }

    #[tokio::test]
    async fn passwords_have_a_limit() {
        let env = Env::manual(0, 1);
        assert!(hash(&env, String::new()).await.is_err());
        assert!(hash(&env, "x".repeat(513)).await.is_err());
        assert!(!verify(&env, "x".repeat(1 << 20), None).await);
    }

    #[test]
    fn a_missing_account_costs_a_whole_verification() {
        assert!(PasswordHash::new(NOBODY).is_ok());
    }
}
