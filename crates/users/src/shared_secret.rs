//! Registration by whoever knows the server's shared secret, as Synapse has it, so that its tools work.
//!
//! The secret never travels: a nonce is asked for first, and the request carries an HMAC-SHA1 over the
//! nonce and what is wanted.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

use crate::{
    UserError, Users,
    expiring::Expiring,
    login::{Login, NewDevice},
    registration::NewAccount,
};

/// How long a nonce is good for.
const LIFETIME_MS: u64 = 60 * 1000;

/// When more nonces than this are open, the oldest is forgotten.
const MAX_NONCES: usize = 10_000;

/// What is sent to register.
#[derive(Debug)]
pub struct SharedSecretRegistration {
    /// The nonce that was given for it.
    pub nonce: String,
    /// The account that is wanted. It must have a password.
    pub account: NewAccount,
    /// A kind of user that takes part in the MAC. Only ordinary users can be made.
    pub user_type: Option<String>,
    /// The MAC in hexadecimal.
    pub mac: String,
}

/// The nonces that were given out and not used.
#[derive(Debug)]
pub(crate) struct Nonces(Expiring<()>);

impl Default for Nonces {
    fn default() -> Self {
        Self(Expiring::new(LIFETIME_MS, MAX_NONCES))
    }
}

impl Users {
    /// A nonce for one registration within the next minute.
    ///
    /// # Errors
    /// [`UserError::Unsupported`] if the server has no shared secret.
    pub fn registration_nonce(&self) -> Result<String, UserError> {
        self.shared_secret()?;
        let nonce = self.env().random.alphanumeric(64);
        self.nonces()
            .0
            .put(nonce.clone(), (), self.env().clock.now_ms());
        Ok(nonce)
    }

    /// Registers an account for whoever knows the shared secret, and logs it in.
    ///
    /// # Errors
    /// [`UserError::Unsupported`] if the server has no shared secret, [`UserError::Forbidden`] if the
    /// MAC is wrong, [`UserError::InvalidParam`] if the nonce is, and everything that can be wrong
    /// with the name or the password.
    pub async fn register_by_shared_secret(
        &self,
        request: SharedSecretRegistration,
    ) -> Result<Login, UserError> {
        let secret = self.shared_secret()?;
        let now_ms = self.env().clock.now_ms();
        if self.nonces().0.take(&request.nonce, now_ms).is_none() {
            return Err(UserError::InvalidParam("Unrecognised nonce".to_owned()));
        }
        let expected = mac_of(secret, &request);
        let proven =
            decode_hex(&request.mac).is_some_and(|mac| expected.verify_slice(&mac).is_ok());
        if !proven {
            return Err(UserError::Forbidden("HMAC incorrect".to_owned()));
        }
        if let Some(user_type) = &request.user_type {
            return Err(UserError::InvalidParam(format!(
                "Unknown user type {user_type:?}"
            )));
        }
        let user_id = self.create_account(request.account).await?;
        self.start_session(user_id, NewDevice::default()).await
    }

    fn shared_secret(&self) -> Result<&str, UserError> {
        self.config().shared_secret.as_deref().ok_or_else(|| {
            UserError::Unsupported("Shared secret registration is not enabled".to_owned())
        })
    }
}

/// The MAC that proves knowledge of the secret.
fn mac_of(secret: &str, request: &SharedSecretRegistration) -> Hmac<Sha1> {
    let account = &request.account;
    let mut mac =
        <Hmac<Sha1>>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    let role = if account.admin { "admin" } else { "notadmin" };
    let password = account.password.as_deref().unwrap_or_default();
    let fields = [&request.nonce, &account.username, password, role];
    for (index, field) in fields
        .into_iter()
        .chain(request.user_type.as_deref())
        .enumerate()
    {
        if index > 0 {
            mac.update(b"\0");
        }
        mac.update(field.as_bytes());
    }
    mac
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text
        .chars()
        .map(|digit| {
            digit
                .to_digit(16)
                .and_then(|value| u8::try_from(value).ok())
        })
        .collect::<Option<Vec<u8>>>()?;
    (digits.len() % 2 == 0).then(|| {
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::{SharedSecretRegistration, decode_hex, mac_of};
    use crate::registration::NewAccount;
    use hmac::Mac as _;

    #[test]
    fn the_mac_is_the_one_that_other_tools_compute() {
        // Computed with Python's hmac module, in the format of Synapse's documentation.
        let cases = [
            (false, None, "cf2391885316861a8e3871bfdcd223ab3913221d"),
            (true, None, "48715842ad67d5dc9a9ee938a3bda4fcfae8d7c7"),
            (
                false,
                Some("bot"),
                "b269635cb53e1adc15073ae7ffbd000b836b3105",
            ),
        ];
        for (admin, user_type, expected) in cases {
            let request = SharedSecretRegistration {
                nonce: "thisisanonce".to_owned(),
                account: NewAccount {
                    username: "pepper_roni".to_owned(),
                    password: Some("pizza".to_owned()),
                    admin,
                    display_name: None,
                },
                user_type: user_type.map(str::to_owned),
                mac: String::new(),
            };
            let expected = decode_hex(expected).unwrap();
            mac_of("shared_secret", &request)
                .verify_slice(&expected)
                .unwrap();
        }
    }

    #[test]
    fn hexadecimal_is_read_strictly() {
        assert_eq!(decode_hex("00fFa0"), Some(vec![0, 255, 160]));
        for wrong in ["0", "0g", "é", "+1"] {
            assert_eq!(decode_hex(wrong), None, "{wrong}");
        }
    }
}
