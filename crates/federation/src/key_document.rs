//! The document in which a server publishes its keys: `GET /_matrix/key/v2/server`.

use std::{collections::BTreeMap, time::Duration};

use ed25519_dalek::VerifyingKey;
use myelin_core::keys::{KeySet, ServerKey, SignatureError, decode_verifying_key, verify_json};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    ServerSigningKeyId,
};

/// No key is believed for longer than this without asking again (N13): otherwise a stolen one could
/// never be revoked.
const LONGEST_VALIDITY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a document isn't believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DocumentError {
    #[error("a field is missing or of a wrong type: {0}")]
    Field(&'static str),
    #[error("it is about {0}")]
    OtherServer(OwnedServerName),
    #[error("not signed by {0} with a known key")]
    Unsigned(OwnedServerName),
    #[error("signature by {0}: {1}")]
    Signature(OwnedServerName, SignatureError),
}

/// A document, parsed but not yet believed.
#[derive(Clone, Debug)]
pub(crate) struct KeyDocument {
    pub(crate) server: OwnedServerName,
    valid_until_ts: u64,
    current: BTreeMap<OwnedServerSigningKeyId, VerifyingKey>,
    /// With the moment their use ended.
    old: BTreeMap<OwnedServerSigningKeyId, (VerifyingKey, u64)>,
    object: CanonicalJsonObject,
}

/// A key out of a believed document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) key_id: OwnedServerSigningKeyId,
    pub(crate) key: ServerKey,
    /// Until when the document is valid.
    pub(crate) document_ms: u64,
}

impl KeyDocument {
    /// Parses a document. Keys of unknown algorithms or shapes are left out.
    pub(crate) fn parse(object: CanonicalJsonObject) -> Result<Self, DocumentError> {
        let server = match object.get("server_name") {
            Some(CanonicalJsonValue::String(server)) => server.as_str().try_into().ok(),
            _ => None,
        };
        let current = key_map(&object, "verify_keys")?.filter_map(|(key_id, value)| {
            let key = key_of(&key_id, value)?;
            Some((key_id, key))
        });
        let old = match object.contains_key("old_verify_keys") {
            true => Some(key_map(&object, "old_verify_keys")?),
            false => None,
        };
        let old = old.into_iter().flatten().filter_map(|(key_id, value)| {
            let key = key_of(&key_id, value)?;
            let expired = value.as_object().and_then(|o| timestamp(o, "expired_ts"))?;
            Some((key_id, (key, expired)))
        });
        Ok(Self {
            server: server.ok_or(DocumentError::Field("server_name"))?,
            valid_until_ts: timestamp(&object, "valid_until_ts")
                .ok_or(DocumentError::Field("valid_until_ts"))?,
            current: current.collect(),
            old: old.collect(),
            object,
        })
    }

    /// Whether a key is in it, be it one that is not in use any more.
    pub(crate) fn has(&self, key_id: &ServerSigningKeyId) -> bool {
        self.current.contains_key(key_id) || self.old.contains_key(key_id)
    }

    /// Until when it is valid if it was heard at `heard_ms`.
    pub(crate) fn valid_until_ms(&self, heard_ms: u64) -> u64 {
        let bound = heard_ms.saturating_add(millis(LONGEST_VALIDITY));
        self.valid_until_ts.min(bound)
    }

    /// The whole document, without what others have signed.
    pub(crate) fn as_signed_by_its_server(&self) -> CanonicalJsonObject {
        let mut object = self.object.clone();
        if let Some(CanonicalJsonValue::Object(signatures)) = object.get_mut("signatures") {
            signatures.retain(|server, _| *server == self.server);
        }
        object
    }

    /// Checks that it is about `server` and signed by it. Signatures by keys that are not in the
    /// document are skipped; all others must verify, and there must be one (N15).
    pub(crate) fn verify(&self, server: &ServerName) -> Result<(), DocumentError> {
        if self.server != server {
            return Err(DocumentError::OtherServer(self.server.clone()));
        }
        self.verify_signatures(server, |key_id| self.current.get(key_id).copied())
    }

    /// Checks the signature of a notary.
    pub(crate) fn verify_notary(
        &self,
        notary: &ServerName,
        keys: &KeySet,
        now_ms: u64,
    ) -> Result<(), DocumentError> {
        self.verify_signatures(notary, |key_id| keys.get(notary, key_id, now_ms).copied())
    }

    fn verify_signatures(
        &self,
        server: &ServerName,
        key_for: impl Fn(&ServerSigningKeyId) -> Option<VerifyingKey>,
    ) -> Result<(), DocumentError> {
        let signatures = self.object.get("signatures").and_then(|s| s.as_object());
        let signatures = signatures
            .and_then(|signatures| signatures.get(server.as_str()))
            .and_then(|signatures| signatures.as_object());
        let mut verified = false;
        for key_id in signatures.into_iter().flat_map(BTreeMap::keys) {
            let key_id = <&ServerSigningKeyId>::try_from(key_id.as_str()).ok();
            let Some((key_id, key)) = key_id.and_then(|id| Some((id, key_for(id)?))) else {
                continue;
            };
            verify_json(&self.object, server, key_id, &key)
                .map_err(|error| DocumentError::Signature(server.to_owned(), error))?;
            verified = true;
        }
        match verified {
            true => Ok(()),
            false => Err(DocumentError::Unsigned(server.to_owned())),
        }
    }

    /// Its keys, as they are to be believed when heard at `now_ms`.
    pub(crate) fn published(&self, now_ms: u64) -> Vec<Published> {
        let document_ms = self.valid_until_ms(now_ms);
        // A key that is called old has ended by now, whatever the document says of the future:
        // it signs no requests any more (R141).
        let last_moment = now_ms.saturating_sub(1);
        let current = self.current.iter().map(|(key_id, key)| {
            let valid_until_ms = document_ms;
            (key_id, *key, valid_until_ms)
        });
        let old = self
            .old
            .iter()
            .filter(|(key_id, _)| !self.current.contains_key(*key_id))
            .map(|(key_id, (key, expired))| (key_id, *key, (*expired).min(last_moment)));
        current
            .chain(old)
            .map(|(key_id, key, valid_until_ms)| Published {
                key_id: key_id.clone(),
                key: ServerKey {
                    key,
                    valid_until_ms,
                },
                document_ms,
            })
            .collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn key_map<'o>(
    object: &'o CanonicalJsonObject,
    field: &'static str,
) -> Result<impl Iterator<Item = (OwnedServerSigningKeyId, &'o CanonicalJsonValue)>, DocumentError>
{
    let map = object.get(field).and_then(|value| value.as_object());
    let map = map.ok_or(DocumentError::Field(field))?;
    Ok(map.iter().filter_map(|(key_id, value)| {
        let key_id = OwnedServerSigningKeyId::try_from(key_id.as_str()).ok()?;
        Some((key_id, value))
    }))
}

fn key_of(key_id: &ServerSigningKeyId, value: &CanonicalJsonValue) -> Option<VerifyingKey> {
    if key_id.algorithm().as_str() != "ed25519" {
        return None;
    }
    match value.as_object()?.get("key")? {
        CanonicalJsonValue::String(key) => decode_verifying_key(key).ok(),
        _ => None,
    }
}

fn timestamp(object: &CanonicalJsonObject, field: &str) -> Option<u64> {
    match object.get(field)? {
        CanonicalJsonValue::Integer(ms) => u64::try_from(i64::from(*ms)).ok(),
        _ => None,
    }
}
