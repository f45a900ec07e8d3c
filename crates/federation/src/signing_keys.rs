//! This server's own signing keys: their file, and the document that publishes them.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use ed25519_dalek::VerifyingKey;
use myelin_core::keys::{KeyPair, SignatureError, decode_seed, encode_seed, encode_verifying_key};
use myelin_env::Random;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedServerName, OwnedServerSigningKeyId,
    OwnedServerSigningKeyVersion, ServerName,
};

/// For how long others may rely on the published keys before they ask again.
const VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// Why a key file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It can't be read or written.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: io::Error,
    },
    /// A line is not `ed25519 VERSION SEED`.
    #[error("line {0} is not `ed25519 VERSION SEED`")]
    Line(usize),
    /// There is no key in it.
    #[error("there is no key in it")]
    Empty,
}

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
    active: KeyPair,
    further: Vec<KeyPair>,
    old: Vec<OldKey>,
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

    /// Reads the lines of a key file, `ed25519 VERSION SEED` each, as Synapse writes them. Events
    /// are signed with the first key; all are published.
    ///
    /// # Errors
    /// [`KeyFileError::Line`] or [`KeyFileError::Empty`].
    pub fn parse(server_name: &ServerName, text: &str) -> Result<Self, KeyFileError> {
        let mut pairs = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let pair = parse_line(server_name, line);
            pairs.push(pair.ok_or(KeyFileError::Line(index + 1))?);
        }
        let mut pairs = pairs.into_iter();
        Ok(Self {
            active: pairs.next().ok_or(KeyFileError::Empty)?,
            further: pairs.collect(),
            old: Vec::new(),
        })
    }

    /// The text of a key file with these keys.
    #[must_use]
    pub fn to_file(&self) -> String {
        let line = |pair: &KeyPair| {
            let version = pair.key_id().key_name().as_str();
            format!("ed25519 {version} {}\n", encode_seed(&pair.seed()))
        };
        self.pairs().map(line).collect()
    }

    /// Reads the key file, or makes one that only its owner can read.
    ///
    /// # Errors
    /// Any [`KeyFileError`].
    pub fn load_or_create(
        path: &Path,
        server_name: &ServerName,
        random: &Random,
    ) -> Result<Self, KeyFileError> {
        let failure = |why| KeyFileError::File {
            path: path.to_owned(),
            why,
        };
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(server_name, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = Self::generate(server_name.to_owned(), random);
                write_new(path, &keys.to_file()).map_err(failure)?;
                Ok(keys)
            }
            Err(error) => Err(failure(error)),
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

fn parse_line(server_name: &ServerName, line: &str) -> Option<KeyPair> {
    let mut words = line.split_whitespace();
    let (algorithm, version, seed) = (words.next()?, words.next()?, words.next()?);
    if algorithm != "ed25519" || words.next().is_some() {
        return None;
    }
    let version = version.try_into().ok()?;
    Some(KeyPair::new(
        server_name.to_owned(),
        version,
        decode_seed(seed)?,
    ))
}

/// Writes a file that was not there, durably, readable by its owner only: losing the key means
/// losing the server's name.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
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
    use ruma::{owned_server_name, server_name};

    use super::*;

    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";

    #[test]
    fn a_key_file_is_read_and_written_as_synapse_does() {
        let text = format!("ed25519 a_xYz1 {SEED}\n\ned25519 2 {SEED}\n");
        let keys = SigningKeys::parse(server_name!("s.example"), &text).unwrap();
        assert_eq!(keys.active().key_id().as_str(), "ed25519:a_xYz1");
        assert_eq!(keys.pairs().count(), 2);
        assert_eq!(keys.to_file(), text.replace("\n\n", "\n"));
    }

    #[test]
    fn a_key_file_that_is_not_understood_is_refused_with_its_line() {
        let cases = [
            format!("ed25519 a {SEED}\nrsa b {SEED}"),
            format!("\ned25519 a {SEED} more"),
            format!("ed25519 a {SEED}\ned25519 b"),
            format!("ed25519 a {SEED}\ned25519 b AAAA"),
            format!("ed25519 a {SEED}\ned25519 b-c {SEED}"),
        ];
        for text in cases {
            let refused = SigningKeys::parse(server_name!("s.example"), &text);
            assert!(matches!(refused, Err(KeyFileError::Line(2))), "{text}");
        }
        let refused = SigningKeys::parse(server_name!("s.example"), "\n \n");
        assert!(matches!(refused, Err(KeyFileError::Empty)));
    }

    #[test]
    fn a_key_file_is_made_once_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.key");
        let load = |seed| {
            let random = Random::seeded(seed);
            SigningKeys::load_or_create(&path, server_name!("s.example"), &random).unwrap()
        };
        let made = load(1);
        assert_eq!(load(2).to_file(), made.to_file());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(&path, "").unwrap();
        let random = Random::seeded(1);
        let refused = SigningKeys::load_or_create(&path, server_name!("s.example"), &random);
        assert!(matches!(refused, Err(KeyFileError::Empty)));
    }

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
}
