//! Ed25519 keys of servers: signing JSON with one's own, verifying what others signed.
//!
//! Server-server API, "Retrieving server keys"; appendices, "Signing JSON". Verification is
//! strict everywhere: libsodium, which the reference server uses, refuses small-order points too,
//! and two servers that disagree about one signature disagree about the room for ever.

use std::{collections::BTreeMap, fmt, sync::LazyLock};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use curve25519_dalek::constants::EIGHT_TORSION;
use ed25519_dalek::{
    SIGNATURE_LENGTH, Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey,
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    ServerSigningKeyId, ServerSigningKeyVersion, SigningKeyAlgorithm,
};

/// Unpadded base64 as written by Matrix; in reading, padding and loose last bits are forgiven, as
/// the reference server forgives them.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The encodings of the points of small order.
static SMALL_ORDER: LazyLock<[[u8; 32]; 8]> =
    LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress().to_bytes()));

/// Why a signature or key does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature by that server and key.
    #[error("no signature by that key")]
    Missing,
    /// The signature is there, but is not base64 of 64 bytes, or `signatures` has a wrong shape.
    #[error("the signature is malformed")]
    Malformed,
    /// The public key is not base64 of the canonical encoding of a point of the curve.
    #[error("the public key is malformed")]
    MalformedKey,
    /// The signature is well-formed, and wrong.
    #[error("the signature does not match")]
    Wrong,
}

/// A key of this server, with what must be known to sign in its name.
#[derive(Clone)]
pub struct KeyPair {
    server_name: OwnedServerName,
    key_id: OwnedServerSigningKeyId,
    signing_key: SigningKey,
}

impl KeyPair {
    /// The pair that follows from `seed`; `version` is the part of the key ID after `ed25519:`.
    #[must_use]
    pub fn new(
        server_name: OwnedServerName,
        version: &ServerSigningKeyVersion,
        seed: [u8; 32],
    ) -> Self {
        Self {
            server_name,
            key_id: ServerSigningKeyId::from_parts(SigningKeyAlgorithm::Ed25519, version),
            signing_key: SigningKey::from_bytes(&seed),
        }
    }

    /// In whose name this key signs.
    #[must_use]
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The key's ID, as in `ed25519:a_xYz1`.
    #[must_use]
    pub fn key_id(&self) -> &ServerSigningKeyId {
        &self.key_id
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        self.signing_key.verifying_key()
    }

    /// The secret half, to be written to the key file.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.signing_key.to_bytes()
    }

    /// The signature of `message`, in unpadded base64.
    #[must_use]
    pub fn sign_bytes(&self, message: &[u8]) -> String {
        BASE64.encode(self.signing_key.sign(message).to_bytes())
    }

    /// Adds this key's signature to `object["signatures"]`, leaving those of others.
    ///
    /// # Errors
    /// [`SignatureError::Malformed`] if `signatures`, or its entry for this server, is there and
    /// not an object.
    pub fn sign_json(&self, object: &mut CanonicalJsonObject) -> Result<(), SignatureError> {
        let signature = self.sign_bytes(&bytes_to_sign(object));
        let signatures = child(object, "signatures")?;
        let own = child(signatures, self.server_name.as_str())?;
        own.insert(
            self.key_id.to_string(),
            CanonicalJsonValue::String(signature),
        );
        Ok(())
    }
}

/// Never shows the seed.
impl fmt::Debug for KeyPair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("KeyPair")
            .field("server_name", &self.server_name)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl ruma::signatures::KeyPair for KeyPair {
    fn sign(&self, message: &[u8]) -> ruma::signatures::Signature {
        let key_id = self.key_id.as_str().try_into();
        ruma::signatures::Signature::new(
            key_id.expect("any server signing key ID is a signing key ID"),
            self.signing_key.sign(message).to_bytes().to_vec(),
        )
    }
}

/// A public key of a server, decompressed, and until when what it signed is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKey {
    /// The key.
    pub key: VerifyingKey,
    /// The last moment (Unix milliseconds) at which a signature by it counts.
    pub valid_until_ms: u64,
}

/// Keys of many servers: what a batch of signature checks is done with.
#[derive(Clone, Debug, Default)]
pub struct KeySet(BTreeMap<OwnedServerName, BTreeMap<OwnedServerSigningKeyId, ServerKey>>);

impl KeySet {
    /// Adds a key, in place of one with the same ID.
    pub fn insert(
        &mut self,
        server: OwnedServerName,
        key_id: OwnedServerSigningKeyId,
        key: ServerKey,
    ) {
        self.0.entry(server).or_default().insert(key_id, key);
    }

    /// The key, if it is known and counts for something signed at `at_ms` (Unix milliseconds).
    /// Room versions 1 to 4 ignore validity: ask for 0 there.
    #[must_use]
    pub fn get(
        &self,
        server: &ServerName,
        key_id: &ServerSigningKeyId,
        at_ms: u64,
    ) -> Option<&VerifyingKey> {
        let known = self.0.get(server)?.get(key_id)?;
        (at_ms <= known.valid_until_ms).then_some(&known.key)
    }

    /// Whether there is no key at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every key, by server and key ID.
    pub fn iter(&self) -> impl Iterator<Item = (&ServerName, &ServerSigningKeyId, &ServerKey)> {
        self.0.iter().flat_map(|(server, keys)| {
            keys.iter()
                .map(move |(key_id, key)| (server.as_ref(), key_id.as_ref(), key))
        })
    }
}

/// What a signature over `object` covers: its canonical JSON without `signatures` and `unsigned`.
#[must_use]
pub fn bytes_to_sign(object: &CanonicalJsonObject) -> Vec<u8> {
    let covered: BTreeMap<&String, &CanonicalJsonValue> = object
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "signatures" | "unsigned"))
        .collect();
    serde_json::to_vec(&covered).expect("canonical JSON has string keys and no failing values")
}

/// Checks the signature by `server` with the key of ID `key_id` on `object`.
///
/// # Errors
/// Says whether the signature is missing, malformed or wrong.
pub fn verify_json(
    object: &CanonicalJsonObject,
    server: &ServerName,
    key_id: &ServerSigningKeyId,
    key: &VerifyingKey,
) -> Result<(), SignatureError> {
    let signatures = match object.get("signatures") {
        Some(CanonicalJsonValue::Object(signatures)) => signatures,
        Some(_) => return Err(SignatureError::Malformed),
        None => return Err(SignatureError::Missing),
    };
    let by_server = match signatures.get(server.as_str()) {
        Some(CanonicalJsonValue::Object(by_server)) => by_server,
        Some(_) => return Err(SignatureError::Malformed),
        None => return Err(SignatureError::Missing),
    };
    match by_server.get(key_id.as_str()) {
        Some(CanonicalJsonValue::String(signature)) => {
            verify_bytes(&bytes_to_sign(object), signature, key)
        }
        Some(_) => Err(SignatureError::Malformed),
        None => Err(SignatureError::Missing),
    }
}

/// Checks a base64 signature of `message`.
///
/// # Errors
/// [`SignatureError::Malformed`] or [`SignatureError::Wrong`].
pub fn verify_bytes(
    message: &[u8],
    signature: &str,
    key: &VerifyingKey,
) -> Result<(), SignatureError> {
    let bytes = BASE64
        .decode(signature)
        .map_err(|_| SignatureError::Malformed)?;
    let bytes: [u8; SIGNATURE_LENGTH] = bytes.try_into().map_err(|_| SignatureError::Malformed)?;
    let signature = Signature::from_bytes(&bytes);
    // What `verify_strict` does, without decompressing R, which takes a seventh of the time: R has to
    // equal an encoding that was computed, so only canonical encodings need be looked for.
    let of_small_order = key.is_weak() || SMALL_ORDER.contains(signature.r_bytes());
    match key.verify(message, &signature) {
        Ok(()) if !of_small_order => Ok(()),
        _ => Err(SignatureError::Wrong),
    }
}

/// Decompresses a base64 public key.
///
/// # Errors
/// [`SignatureError::MalformedKey`] if it is not the canonical encoding of a point.
pub fn decode_verifying_key(encoded: &str) -> Result<VerifyingKey, SignatureError> {
    let bytes = BASE64
        .decode(encoded)
        .map_err(|_| SignatureError::MalformedKey)?;
    verifying_key(&bytes)
}

/// Decompresses a public key of 32 bytes.
///
/// # Errors
/// [`SignatureError::MalformedKey`] if it is not the canonical encoding of a point.
pub fn verifying_key(bytes: &[u8]) -> Result<VerifyingKey, SignatureError> {
    let bytes: &[u8; 32] = bytes.try_into().map_err(|_| SignatureError::MalformedKey)?;
    // dalek reduces a coordinate of p = 2^255 - 19 or more; libsodium refuses it.
    let reducible =
        bytes[31] & 0x7f == 0x7f && bytes[1..31].iter().all(|b| *b == 0xff) && bytes[0] >= 0xed;
    if reducible {
        return Err(SignatureError::MalformedKey);
    }
    VerifyingKey::from_bytes(bytes).map_err(|_| SignatureError::MalformedKey)
}

/// The public key in unpadded base64, as key documents carry it.
#[must_use]
pub fn encode_verifying_key(key: &VerifyingKey) -> String {
    BASE64.encode(key.as_bytes())
}

/// A seed of 32 bytes in unpadded base64, as key files carry it.
#[must_use]
pub fn encode_seed(seed: &[u8; 32]) -> String {
    BASE64.encode(seed)
}

/// Reads what [`encode_seed`] wrote; `None` if it is not base64 of 32 bytes.
#[must_use]
pub fn decode_seed(encoded: &str) -> Option<[u8; 32]> {
    BASE64.decode(encoded).ok()?.try_into().ok()
}

/// The object under `key`, made if it is not there.
fn child<'o>(
    object: &'o mut CanonicalJsonObject,
    key: &str,
) -> Result<&'o mut CanonicalJsonObject, SignatureError> {
    let value = object
        .entry(key.to_owned())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    match value {
        CanonicalJsonValue::Object(child) => Ok(child),
        _ => Err(SignatureError::Malformed),
    }
}

#[cfg(test)]
mod tests;
