//! This server's own signing keys, and the document that publishes them.

use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use myelin_core::keys::{KeyPair, SignatureError, encode_verifying_key};
use myelin_env::Random;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedServerName, OwnedServerSigningKeyId,
    OwnedServerSigningKeyVersion, ServerName,
};

/// For how long others may rely on the published keys before they ask again.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// A key that this server used to sign with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldKey {
    /// As in `ed25519:a_xYz1`.
    pub key_id: OwnedServerSigningKeyId,
    /// The public half.
    pub key: VerifyingKey,
    /// When its use ended (Unix milliseconds).
    pub expired_ms: u64,
}

/// The keys this server signs with, at least one.
#[derive(Clone, Debug)]
pub struct SigningKeys {
    pub(crate) active: KeyPair,
    pub(crate) further: Vec<KeyPair>,
    pub(crate) old: Vec<OldKey>,
}

impl SigningKeys {
    /// One new key.
    #[must_use]
    pub fn generate(server_name: OwnedServerName, random: &Random) -> Self {
        let mut seed = [0; 32];
        random.fill(&mut seed);
        let version =
            OwnedServerSigningKeyVersion::try_from(format!("a_{}", random.alphanumeric(4)));
        let version = version.expect("letters, digits and an underscore make a version");
        Self::from(KeyPair::new(server_name, &version, seed))
    }

    /// A new key in place of those in use, whose use ends at `now_ms` (Unix milliseconds): what they signed
    /// until then counts further on.
    #[must_use]
    pub fn rotate(self, now_ms: u64, random: &Random) -> Self {
        let ended = self.pairs().map(|pair| OldKey {
            key_id: pair.key_id().to_owned(),
            key: pair.verifying_key(),
            expired_ms: now_ms,
        });
        let old: Vec<OldKey> = ended.chain(self.old.iter().cloned()).collect();
        loop {
            // Others know a key by its ID: it must not be that of another one.
            let new = Self::generate(self.server_name().to_owned(), random);
            let key_id = new.active.key_id();
            if old.iter().all(|old| old.key_id != key_id) {
                return new.with_old(old);
            }
        }
    }

    /// Publishes `old` keys too, so that others can check what was signed with them.
    #[must_use]
    pub fn with_old(self, old: Vec<OldKey>) -> Self {
        Self { old, ..self }
    }

    /// The key that events and requests are signed with.
    #[must_use]
    pub fn active(&self) -> &KeyPair {
        &self.active
    }

    /// In whose name these keys sign.
    #[must_use]
    pub fn server_name(&self) -> &ServerName {
        self.active.server_name()
    }

    /// All keys that are in use.
    pub fn pairs(&self) -> impl Iterator<Item = &KeyPair> {
        std::iter::once(&self.active).chain(&self.further)
    }

    /// Keys that are not in use any more.
    #[must_use]
    pub fn old(&self) -> &[OldKey] {
        &self.old
    }

    /// Signs with the active key.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] if `signatures` is there and has a wrong shape.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<(), SignatureError> {
        self.active.sign_json(object)
    }

    /// The answer to `GET /_matrix/key/v2/server` at `now_ms` (Unix milliseconds), signed by all
    /// keys in use.
    #[must_use]
    pub fn document(&self, now_ms: u64) -> CanonicalJsonObject {
        let current = self.pairs().map(|pair| {
            let entry = [("key".to_owned(), key_text(&pair.verifying_key()))];
            (pair.key_id().to_string(), object(entry))
        });
        let old = self.old.iter().map(|old| {
            let entry = [
                ("key".to_owned(), key_text(&old.key)),
                ("expired_ts".to_owned(), timestamp(old.expired_ms)),
            ];
            (old.key_id.to_string(), object(entry))
        });
        let validity = u64::try_from(VALIDITY.as_millis()).unwrap_or(u64::MAX);
        let mut document = CanonicalJsonObject::from([
            (
                "server_name".to_owned(),
                CanonicalJsonValue::String(self.server_name().to_string()),
            ),
            (
                "valid_until_ts".to_owned(),
                timestamp(now_ms.saturating_add(validity)),
            ),
            ("verify_keys".to_owned(), object(current)),
            ("old_verify_keys".to_owned(), object(old)),
        ]);
        for pair in self.pairs() {
            let signed = pair.sign_json(&mut document);
            signed.expect("`signatures` is made by signing, so it has the right shape");
        }
        document
    }
}

impl From<KeyPair> for SigningKeys {
    fn from(active: KeyPair) -> Self {
        Self {
            active,
            further: Vec::new(),
            old: Vec::new(),
        }
    }
}

fn object(members: impl IntoIterator<Item = (String, CanonicalJsonValue)>) -> CanonicalJsonValue {
    CanonicalJsonValue::Object(members.into_iter().collect())
}

fn key_text(key: &VerifyingKey) -> CanonicalJsonValue {
    CanonicalJsonValue::String(encode_verifying_key(key))
}

/// Beyond what JSON can carry, the latest moment it can.
fn timestamp(ms: u64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(Int::try_from(ms).unwrap_or(Int::MAX))
}

#[cfg(test)]
mod tests {
    use myelin_core::keys::verify_json;
    use myelin_env::Random;
    use ruma::{owned_server_name, server_name};

    use super::{OldKey, SigningKeys};

    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";

    #[test]
    fn the_document_publishes_all_keys_and_is_signed_by_those_in_use() {
        let text = format!("ed25519 a {SEED}\ned25519 b {SEED}\n");
        let old = OldKey {
            key_id: "ed25519:old".try_into().unwrap(),
            key: SigningKeys::generate(owned_server_name!("x"), &Random::seeded(1))
                .active()
                .verifying_key(),
            expired_ms: 5,
        };
        let keys = SigningKeys::parse(server_name!("s.example"), &text).unwrap();
        let document = keys.with_old(vec![old]).document(1000);
        let value = serde_json::to_value(&document).unwrap();
        assert_eq!(value["valid_until_ts"], 86_401_000);
        assert_eq!(value["server_name"], "s.example");
        assert_eq!(value["old_verify_keys"]["ed25519:old"]["expired_ts"], 5);
        assert_eq!(value["verify_keys"].as_object().unwrap().len(), 2);
        let keys = SigningKeys::parse(server_name!("s.example"), &text).unwrap();
        for pair in keys.pairs() {
            let verified = verify_json(
                &document,
                pair.server_name(),
                pair.key_id(),
                &pair.verifying_key(),
            );
            assert_eq!(verified, Ok(()));
        }
    }

    #[test]
    fn a_rotation_ends_all_keys_in_use_and_keeps_those_that_had_ended() {
        let text = format!("ed25519 a {SEED}\ned25519 b {SEED}\n");
        let first = SigningKeys::parse(server_name!("s.example"), &text).unwrap();
        let random = Random::seeded(1);
        let second = first.clone().rotate(5, &random);
        let third = second.clone().rotate(9, &random);
        let old = |keys: &SigningKeys| {
            let old = keys.old().iter();
            let pairs: Vec<_> = old
                .map(|old| (old.key_id.to_string(), old.expired_ms))
                .collect();
            pairs
        };
        let (a, b) = ("ed25519:a".to_owned(), "ed25519:b".to_owned());
        assert_eq!(old(&second), [(a.clone(), 5), (b.clone(), 5)]);
        assert_eq!(second.old()[0].key, first.active().verifying_key());
        let between = second.active().key_id().to_string();
        assert_eq!(old(&third), [(between.clone(), 9), (a, 5), (b, 5)]);
        assert_eq!(third.pairs().count(), 1);
        assert_ne!(third.active().key_id().as_str(), between);
        // The same random numbers: another key of the same name is not made.
        let again = second.clone().rotate(9, &Random::seeded(1));
        assert_ne!(again.active().key_id(), second.active().key_id());
    }
}
