//! The first three checks on receipt of a PDU: format, signatures, content hash (server-server API,
//! "Checks performed on receipt of a PDU").
//!
//! Two steps, because the keys may have to be fetched between them: [`Unverified::parse`] does all
//! that needs no key, [`Unverified::verify`] the rest.

mod format;

use std::{ops::Deref, sync::Arc};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedServerSigningKeyId, RoomId,
    ServerSigningKeyId, UserId, events::TimelineEventType,
};
use sha2::{Digest as _, Sha256};

use crate::{
    canonical_json::{self, MAX_INTEGER, Object, Value},
    keys::{KeySet, SignatureError, verify_bytes},
    pdu::{MalformedPdu, Pdu, redacted},
    policy_server::POLICY_SERVER_KEY,
    room_version::RoomVersion,
};

use self::format::bad;
pub(crate) use self::format::{check_field_bytes, check_format, check_references};

/// The largest PDU in canonical JSON, with signatures and without `unsigned` (each server keeps its
/// own), in bytes.
pub const MAX_PDU_BYTES: usize = 65_536;
/// The longest user ID, room ID, event ID, type and state key, in bytes.
pub const MAX_FIELD_BYTES: usize = 255;
/// The most parents an event may have.
pub const MAX_PREV_EVENTS: usize = 20;
/// The most auth events an event may name.
pub const MAX_AUTH_EVENTS: usize = 10;
/// The greatest depth.
pub const MAX_DEPTH: i64 = MAX_INTEGER;

/// What the reference server forgives in reading a hash is forgiven here too.
const HASH_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Why a received PDU is dropped.
#[derive(Debug, thiserror::Error)]
pub enum DropReason {
    /// It is no JSON object, or has numbers that canonical JSON lacks.
    #[error("not canonical JSON: {0}")]
    NotCanonicalJson(serde_json::Error),
    /// It is larger than [`MAX_PDU_BYTES`].
    #[error("{0} bytes, and {MAX_PDU_BYTES} are allowed")]
    TooLarge(usize),
    /// A field is missing or has the wrong form.
    #[error("`{field}` {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An identifier has the wrong form.
    #[error(transparent)]
    Malformed(MalformedPdu),
    /// More parents or auth events than may be (R5); nothing is to be fetched for such an event.
    #[error("{prev_events} parents and {auth_events} auth events")]
    TooManyReferences {
        /// How many parents.
        prev_events: usize,
        /// How many auth events.
        auth_events: usize,
    },
    /// It names the create event among its auth events, in a room version that forbids it (R13).
    #[error("the create event is among the auth events")]
    CreateAmongAuthEvents,
    /// It belongs to another room than the one it was expected in.
    #[error("{event_id} is of room {room_id}")]
    OtherRoom {
        /// Its ID, as the room version says in which it was expected.
        event_id: OwnedEventId,
        /// The room.
        room_id: OwnedRoomId,
    },
    /// Its content hash is wrong, and the redacted form will not do.
    #[error("the content hash is wrong")]
    WrongHash,
    /// A server that has to sign it did not.
    #[error("no signature of {0}")]
    NotSigned(OwnedServerName),
    /// None of the keys by which the server signed it is known and was valid at the event's time.
    #[error("none of the keys by which {0} signed is known and valid")]
    NoKey(OwnedServerName),
    /// A signature is wrong.
    #[error("the signature of {server} by {key_id}: {reason}")]
    Signature {
        /// Whose.
        server: OwnedServerName,
        /// By which key.
        key_id: OwnedServerSigningKeyId,
        /// What is wrong with it.
        reason: SignatureError,
    },
}

impl DropReason {
    /// Whether the same bytes may pass another time, when more keys are known.
    pub fn is_for_lack_of_keys(&self) -> bool {
        matches!(self, Self::NoKey(_))
    }
}

/// A PDU that passed checks 1 to 3, or that this server made.
#[derive(Clone, Debug)]
pub struct ValidPdu(Arc<Pdu>);

impl ValidPdu {
    /// Wraps what this server validated before it wrote it to its own storage.
    pub fn from_own_storage(pdu: Pdu) -> Self {
        Self(Arc::new(pdu))
    }

    /// The event.
    pub fn pdu(&self) -> &Arc<Pdu> {
        &self.0
    }

    /// The event.
    pub fn into_pdu(self) -> Arc<Pdu> {
        self.0
    }
}

impl Deref for ValidPdu {
    type Target = Pdu;

    fn deref(&self) -> &Pdu {
        &self.0
    }
}

/// A server whose signature an event needs, and the keys by which it signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredKeys {
    /// The server.
    pub server: OwnedServerName,
    /// The keys; any that is known and valid will do.
    pub key_ids: Vec<OwnedServerSigningKeyId>,
    /// When they must have been valid, in milliseconds since the Unix epoch.
    pub valid_at_ms: u64,
}

/// Signatures of one server that an event needs.
#[derive(Debug)]
struct Signatures {
    server: OwnedServerName,
    by_key: Vec<(OwnedServerSigningKeyId, String)>,
}

/// A received PDU in the right form (checks 1 and 3), whose signatures have not been checked.
#[derive(Debug)]
pub struct Unverified {
    pdu: Pdu,
    hash_matches: bool,
    signed_json: String,
    signatures: Vec<Signatures>,
    valid_at_ms: u64,
}

impl Unverified {
    /// Reads a received PDU. If its content hash is wrong, what is carried on is the redacted form
    /// (check 3).
    ///
    /// # Errors
    /// If it must be dropped for its form, for belonging to another room than `room`, or for
    /// lack of a signature.
    pub fn parse(
        version: RoomVersion,
        json: &str,
        room: Option<&RoomId>,
    ) -> Result<Self, DropReason> {
        let mut object =
            Object::parse_with(version.numbers(), json).map_err(DropReason::NotCanonicalJson)?;
        // It is no part of what was signed, and each server says its own there (R6).
        object.remove("unsigned");
        let received = canonical_json::write(&object);
        check_format(version, &object, received.len())?;
        let signed_json = signed_part(version, &object);
        let event_id = event_id(version, &object, &signed_json)?;
        let hash_matches = content_hash_matches(&object)?;
        let carried_on = if hash_matches {
            received
        } else {
            canonical_json::write(&redacted(version, &object, &[]))
        };
        let pdu = Pdu::from_stored(version, event_id, carried_on).map_err(DropReason::Malformed)?;
        check_references(version, &pdu)?;
        if room.is_some_and(|room| room != pdu.room_id) {
            return Err(DropReason::OtherRoom {
                event_id: pdu.event_id,
                room_id: pdu.room_id,
            });
        }
        Ok(Self {
            hash_matches,
            signed_json,
            signatures: required_signatures(version, &pdu, &object)?,
            // Before version 5 any key that the server ever had will do.
            valid_at_ms: if version.rules().enforce_key_validity {
                pdu.origin_server_ts.get().into()
            } else {
                0
            },
            pdu,
        })
    }

    /// The event in the form that is carried on. Nothing in it is proven yet.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// Its ID.
    pub fn event_id(&self) -> &EventId {
        &self.pdu.event_id
    }

    /// Whether the content hash is right; if not, the redacted form is carried on.
    pub fn hash_matches(&self) -> bool {
        self.hash_matches
    }

    /// The keys that [`Unverified::verify`] will want.
    pub fn required_keys(&self) -> impl Iterator<Item = RequiredKeys> + '_ {
        self.signatures.iter().map(|signatures| RequiredKeys {
            server: signatures.server.clone(),
            key_ids: signatures
                .by_key
                .iter()
                .map(|(key_id, _)| key_id.clone())
                .collect(),
            valid_at_ms: self.valid_at_ms,
        })
    }

    /// Checks the signatures (check 2): of each server that has to sign, all by known and valid
    /// keys must be right, and there must be one.
    ///
    /// # Errors
    /// If a signature is wrong, or no key for it is known.
    pub fn verify(self, keys: &KeySet) -> Result<ValidPdu, DropReason> {
        for Signatures { server, by_key } in &self.signatures {
            let mut verified = false;
            for (key_id, signature) in by_key {
                let Some(key) = keys.get(server, key_id, self.valid_at_ms) else {
                    continue;
                };
                verify_bytes(self.signed_json.as_bytes(), signature, key).map_err(|reason| {
                    DropReason::Signature {
                        server: server.clone(),
                        key_id: key_id.clone(),
                        reason,
                    }
                })?;
                verified = true;
            }
            if !verified {
                return Err(DropReason::NoKey(server.clone()));
            }
        }
        Ok(ValidPdu(Arc::new(self.pdu)))
    }
}

/// What an event's signatures cover, and its reference hash: the redacted form without the signatures.
pub(crate) fn signed_part(version: RoomVersion, event: &Object<'_>) -> String {
    canonical_json::write(&redacted(version, event, &["signatures", "unsigned"]))
}

/// The ID of an event: the hash of its `signed_part`, or what it carries.
pub(crate) fn event_id(
    version: RoomVersion,
    event: &Object<'_>,
    signed_part: &str,
) -> Result<OwnedEventId, DropReason> {
    if !version.has_ids_in_events() {
        return Ok(version.event_id(&Sha256::digest(signed_part)));
    }
    let carried = event.get("event_id").and_then(Value::as_str);
    let id = carried.and_then(|id| EventId::parse(id).ok());
    // Without a server nobody would have to sign for it.
    id.filter(|id| id.server_name().is_some())
        .ok_or(bad("event_id", "is no event ID with a server"))
}

/// The hash of an event with which others name it before room version 3.
pub fn reference_hash(version: RoomVersion, pdu: &Pdu) -> Result<String, MalformedPdu> {
    let malformed = |error: serde_json::Error| MalformedPdu {
        event_id: pdu.event_id.clone(),
        reason: error.to_string(),
    };
    let event = Object::parse_with(version.numbers(), &pdu.json).map_err(malformed)?;
    let hash = Sha256::digest(signed_part(version, &event));
    Ok(encode_hash(hash.into()))
}

/// The content hash that an event should have.
pub(crate) fn content_hash(event: &Object<'_>) -> [u8; 32] {
    Sha256::digest(event.write_without(&["hashes", "signatures", "unsigned"])).into()
}

/// The content hash as `hashes.sha256` carries it.
pub(crate) fn encode_hash(hash: [u8; 32]) -> String {
    HASH_BASE64.encode(hash)
}

fn content_hash_matches(event: &Object<'_>) -> Result<bool, DropReason> {
    let hashes = event.get("hashes").and_then(Value::as_object);
    let claimed = hashes
        .and_then(|hashes| hashes.get("sha256"))
        .and_then(Value::as_str);
    let claimed = claimed.ok_or(bad("hashes", "has no `sha256`"))?;
    Ok(HASH_BASE64
        .decode(claimed)
        .is_ok_and(|claimed| claimed == content_hash(event)))
}

/// The signatures that the event needs, as far as it carries them.
///
/// What it needs follows from the form that is carried on. Otherwise somebody could forge an invite
/// whose `third_party_invite` excuses it from the sender's signature, and whose wrong hash then
/// makes it an ordinary invite.
fn required_signatures(
    version: RoomVersion,
    pdu: &Pdu,
    event: &Object<'_>,
) -> Result<Vec<Signatures>, DropReason> {
    let sender = || pdu.sender.server_name().to_owned();
    let mut servers = if pdu.event_type == TimelineEventType::RoomMember {
        let content = Object::parse_with(version.numbers(), pdu.content.get())
            .map_err(DropReason::NotCanonicalJson)?;
        let authorising = authorising_server(version, &content)?;
        let needs_sender = !is_third_party_invite(&content);
        let mut servers: Vec<_> = needs_sender.then(sender).into_iter().collect();
        servers.extend(authorising.filter(|server| !servers.contains(server)));
        servers
    } else {
        vec![sender()]
    };
    if version.rules().signatures.check_event_id_server {
        let made_by = pdu.event_id.server_name().map(ToOwned::to_owned);
        servers.extend(made_by.filter(|server| !servers.contains(server)));
    }
    let signatures = event.get("signatures").and_then(Value::as_object);
    servers
        .into_iter()
        .map(|server| {
            let of_server = signatures.and_then(|all| all.get(server.as_str()));
            let by_key = usable_signatures(of_server.and_then(Value::as_object));
            match by_key.is_empty() {
                true => Err(DropReason::NotSigned(server)),
                false => Ok(Signatures { server, by_key }),
            }
        })
        .collect()
}

fn is_third_party_invite(content: &Object<'_>) -> bool {
    content.get("membership").and_then(Value::as_str) == Some("invite")
        && content
            .get("third_party_invite")
            .and_then(Value::as_object)
            .is_some()
}

/// The server of the user who vouches that a join to a restricted room is permitted.
fn authorising_server(
    version: RoomVersion,
    content: &Object<'_>,
) -> Result<Option<OwnedServerName>, DropReason> {
    let is_join = content.get("membership").and_then(Value::as_str) == Some("join");
    if !version
        .rules()
        .signatures
        .check_join_authorised_via_users_server
        || !is_join
    {
        return Ok(None);
    }
    let Some(user) = content.get("join_authorised_via_users_server") else {
        return Ok(None);
    };
    match user.as_str().map(UserId::parse) {
        Some(Ok(user)) => Ok(Some(user.server_name().to_owned())),
        _ => Err(bad("join_authorised_via_users_server", "is no user ID")),
    }
}

/// The signatures by algorithms that can be checked.
fn usable_signatures(of_server: Option<&Object<'_>>) -> Vec<(OwnedServerSigningKeyId, String)> {
    let entries = of_server.into_iter().flat_map(Object::iter);
    entries
        .filter(|(key_id, _)| key_id.starts_with("ed25519:") && *key_id != POLICY_SERVER_KEY)
        .filter_map(|(key_id, signature)| {
            let key_id = ServerSigningKeyId::parse(key_id).ok()?;
            // What is no string is malformed, which the check will say if the key is known.
            Some((key_id, signature.as_str().unwrap_or_default().to_owned()))
        })
        .collect()
}
