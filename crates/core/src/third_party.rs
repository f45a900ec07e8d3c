//! Invites of people of whom only an address is known (client-server API, "Third-party invites").
//!
//! The room holds an `m.room.third_party_invite` with keys of an identity server. Who owns the address
//! gets from that server a signed statement, which turns the invite into that user's own. That the rules
//! permit that is a matter of [`crate::auth`]; here is which key a statement stands on.

use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::keys::{bytes_to_sign, decode_verifying_key, verify_bytes};

/// A key with which the statement may be signed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct InviteKey {
    /// In unpadded base64, of either alphabet, as the identity server wrote it.
    pub public_key: String,
    /// Where to ask whether the key is still valid; without, it always is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_validity_url: Option<String>,
}

/// The content of an `m.room.third_party_invite`, as far as it matters here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Invite {
    public_key: Option<String>,
    key_validity_url: Option<String>,
    public_keys: Vec<InviteKey>,
}

/// The key of the invite, whose content is `invite`, that `signed` is signed with. An invite that was
/// taken back has none.
#[must_use]
pub fn signing_key(invite: &RawValue, signed: &CanonicalJsonObject) -> Option<InviteKey> {
    let invite: Invite = serde_json::from_str(invite.get()).unwrap_or_default();
    let first = invite.public_key.map(|public_key| InviteKey {
        public_key,
        key_validity_url: invite.key_validity_url,
    });
    let covered = bytes_to_sign(signed);
    let signatures: Vec<&str> = signatures(signed).collect();
    let is_used = |key: &InviteKey| {
        let standard = key.public_key.replace('-', "+").replace('_', "/");
        decode_verifying_key(&standard).is_ok_and(|key| {
            signatures
                .iter()
                .any(|signature| verify_bytes(&covered, signature, &key).is_ok())
        })
    };
    first.into_iter().chain(invite.public_keys).find(is_used)
}

/// The Ed25519 signatures, whosoever they are.
fn signatures(signed: &CanonicalJsonObject) -> impl Iterator<Item = &str> {
    let by_server = signed
        .get("signatures")
        .and_then(CanonicalJsonValue::as_object);
    let by_key = by_server.into_iter().flat_map(|servers| servers.values());
    by_key
        .filter_map(CanonicalJsonValue::as_object)
        .flatten()
        .filter(|(key_id, _)| key_id.starts_with("ed25519:"))
        .filter_map(|(_, signature)| signature.as_str())
}
