//! The file with this server's signing keys.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use myelin_core::keys::{
    KeyPair, decode_seed, decode_verifying_key, encode_seed, encode_verifying_key,
};
use myelin_env::Random;
use ruma::{ServerName, ServerSigningKeyId, ServerSigningKeyVersion, SigningKeyAlgorithm};

use crate::{OldKey, SigningKeys};

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
    /// A line is neither a key nor one that was in use before.
    #[error(
        "line {0} is not `ed25519 VERSION SEED` or `old ed25519 VERSION PUBLIC_KEY EXPIRED_MS`"
    )]
    Line(usize),
    /// There is no key in it.
    #[error("there is no key in it")]
    Empty,
}

impl SigningKeys {
    /// Reads the lines of a key file: `ed25519 VERSION SEED` for each key in use, as Synapse writes them, and
    /// `old ed25519 VERSION PUBLIC_KEY EXPIRED_MS` for each that was in use before. Events are signed with
    /// the first key; all are published.
    ///
    /// # Errors
    /// [`KeyFileError::Line`] or [`KeyFileError::Empty`].
    pub fn parse(server_name: &ServerName, text: &str) -> Result<Self, KeyFileError> {
        let (mut pairs, mut old) = (Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let read = match *words {
                [] => Some(()),
                ["ed25519", version, seed] => {
                    parse_pair(server_name, version, seed).map(|pair| pairs.push(pair))
                }
                ["old", "ed25519", version, key, expired] => {
                    parse_old(version, key, expired).map(|key| old.push(key))
                }
                _ => None,
            };
            read.ok_or(KeyFileError::Line(index + 1))?;
        }
        let mut pairs = pairs.into_iter();
        Ok(Self {
            active: pairs.next().ok_or(KeyFileError::Empty)?,
            further: pairs.collect(),
            old,
        })
    }

    /// The text of a key file with these keys.
    #[must_use]
    pub fn to_file(&self) -> String {
        let line = |pair: &KeyPair| {
            let version = pair.key_id().key_name().as_str();
            format!("ed25519 {version} {}\n", encode_seed(&pair.seed()))
        };
        let old_line = |old: &OldKey| {
            let version = old.key_id.key_name().as_str();
            let key = encode_verifying_key(&old.key);
            format!("old ed25519 {version} {key} {}\n", old.expired_ms)
        };
        let pairs = self.pairs().map(line);
        pairs.chain(self.old().iter().map(old_line)).collect()
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
        match Self::load(path, server_name) {
            Err(KeyFileError::File { why, .. }) if why.kind() == io::ErrorKind::NotFound => {
                let keys = Self::generate(server_name.to_owned(), random);
                let written = write_new(path, &keys.to_file());
                written.map_err(|why| failure(path, why))?;
                Ok(keys)
            }
            loaded => loaded,
        }
    }

    /// Reads the key file.
    ///
    /// # Errors
    /// Any [`KeyFileError`].
    pub fn load(path: &Path, server_name: &ServerName) -> Result<Self, KeyFileError> {
        let text = fs::read_to_string(path).map_err(|why| failure(path, why))?;
        Self::parse(server_name, &text)
    }

    /// Puts these keys in the place of those in the key file. After a crash either are there, and whole;
    /// when this returns it is these.
    ///
    /// # Errors
    /// [`KeyFileError::File`].
    pub fn replace(&self, path: &Path) -> Result<(), KeyFileError> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let replaced = || {
            // What an attempt that was cut off has left.
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => write_new(&beside, &self.to_file())?,
            }
            fs::rename(&beside, path)?;
            sync_directory_of(path)
        };
        replaced().map_err(|why| failure(path, why))
    }
}

fn parse_pair(server_name: &ServerName, version: &str, seed: &str) -> Option<KeyPair> {
    let version = version.try_into().ok()?;
    Some(KeyPair::new(
        server_name.to_owned(),
        version,
        decode_seed(seed)?,
    ))
}

fn parse_old(version: &str, key: &str, expired: &str) -> Option<OldKey> {
    let version = <&ServerSigningKeyVersion>::try_from(version).ok()?;
    Some(OldKey {
        key_id: ServerSigningKeyId::from_parts(SigningKeyAlgorithm::Ed25519, version),
        key: decode_verifying_key(key).ok()?,
        expired_ms: expired.parse().ok()?,
    })
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
    file.sync_all()?;
    sync_directory_of(path)
}

/// Makes it durable that a file has its name.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn failure(path: &Path, why: io::Error) -> KeyFileError {
    let path = path.to_owned();
    KeyFileError::File { path, why }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use myelin_env::Random;
    use ruma::server_name;

    use super::KeyFileError;
    use crate::SigningKeys;

    const SEED: &str = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0";
    const PUBLIC: &str = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI";

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
            format!("ed25519 a {SEED}\nold ed25519 b {PUBLIC}"),
            format!("ed25519 a {SEED}\nold ed25519 b {PUBLIC} -5"),
            format!("ed25519 a {SEED}\nold ed25519 b {PUBLIC} 5 more"),
            format!("ed25519 a {SEED}\nold ed25519 b AAAA 5"),
            format!("ed25519 a {SEED}\nold rsa b {PUBLIC} 5"),
        ];
        for text in cases {
            let refused = SigningKeys::parse(server_name!("s.example"), &text);
            assert!(matches!(refused, Err(KeyFileError::Line(2))), "{text}");
        }
        // A key that is not in use any more signs nothing.
        for text in ["\n \n".to_owned(), format!("old ed25519 b {PUBLIC} 5\n")] {
            let refused = SigningKeys::parse(server_name!("s.example"), &text);
            assert!(matches!(refused, Err(KeyFileError::Empty)), "{text}");
        }
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
    fn keys_are_replaced_as_a_whole_and_read_again_with_the_old_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.key");
        let random = Random::seeded(1);
        let name = server_name!("s.example");
        let first = SigningKeys::load_or_create(&path, name, &random).unwrap();
        let second = first.rotate(1234, &random);
        // An attempt before this one was cut off.
        fs::write(directory.path().join("signing.key.new"), "ed25519").unwrap();
        second.replace(&path).unwrap();
        let read = SigningKeys::load(&path, name).unwrap();
        assert_eq!(read.to_file(), second.to_file());
        assert_eq!(read.old(), second.old());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let nowhere = second.replace(Path::new("/nonexistent/signing.key"));
        assert!(matches!(nowhere, Err(KeyFileError::File { .. })));
    }
}
