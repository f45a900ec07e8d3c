//! Making events: hashes, signature, ID.

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId,
    ServerName,
};
use serde_json::value::RawValue;

use crate::{
    canonical_json::{self, Object, Value},
    keys::KeyPair,
    pdu::Pdu,
    room_version::RoomVersion,
    validate::{
        DropReason, ValidPdu, check_format, check_references, content_hash, encode_hash, identify,
    },
};

/// Why an event cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The content is no JSON object, or has numbers that canonical JSON lacks.
    #[error("the content is not canonical JSON: {0}")]
    Content(serde_json::Error),
    /// Other servers would drop the event.
    #[error(transparent)]
    Invalid(DropReason),
}

/// Everything about a new event but its hashes, signature and ID.
#[derive(Clone, Debug)]
pub struct EventDraft {
    /// The room; `None` exactly for create events in room versions whose room IDs are their hashes.
    pub room_id: Option<OwnedRoomId>,
    /// The author.
    pub sender: OwnedUserId,
    /// The type. (Text, since ruma's enumeration takes some unstable names for their stable ones.)
    pub event_type: String,
    /// The state key of state events.
    pub state_key: Option<String>,
    /// The content.
    pub content: Box<RawValue>,
    /// The parents in the graph.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorise this one.
    pub auth_events: Vec<OwnedEventId>,
    /// One more than the greatest depth among the parents.
    pub depth: i64,
    /// When it is made, in milliseconds since the Unix epoch.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// For redactions: the event to redact. It is put where the room version wants it.
    pub redacts: Option<OwnedEventId>,
}

impl EventDraft {
    /// Adds hashes and this server's signature.
    ///
    /// # Errors
    /// If the content is not canonical JSON, or the event breaks a limit of its format.
    pub fn finish(self, version: RoomVersion, key: &KeyPair) -> Result<ValidPdu, BuildError> {
        let mut content = Object::parse(self.content.get()).map_err(BuildError::Content)?;
        let mut event = Object::default();
        if let Some(redacts) = &self.redacts {
            let place = if version.redacts_in_content() {
                &mut content
            } else {
                &mut event
            };
            place.insert("redacts", Value::text(redacts.as_str()));
        }
        event.insert("auth_events", ids(&self.auth_events));
        event.insert("content", Value::Object(content));
        event.insert("depth", Value::Integer(self.depth));
        event.insert(
            "origin_server_ts",
            Value::Integer(self.origin_server_ts.get().into()),
        );
        event.insert("prev_events", ids(&self.prev_events));
        event.insert("sender", Value::text(self.sender.as_str()));
        event.insert("type", Value::text(self.event_type.as_str()));
        if let Some(room_id) = &self.room_id {
            event.insert("room_id", Value::text(room_id.as_str()));
        }
        if let Some(state_key) = &self.state_key {
            event.insert("state_key", Value::text(state_key));
        }
        seal(version, event, key)
    }
}

/// Completes an event that another server prepared (the answer to `make_join`, `make_leave` or
/// `make_knock`): adds hashes and this server's signature. What the template says is for the caller
/// to check.
///
/// # Errors
/// If the event breaks a limit of its format.
pub fn sign_template(
    version: RoomVersion,
    template: &CanonicalJsonObject,
    key: &KeyPair,
) -> Result<ValidPdu, BuildError> {
    let json = canonical_json::write(template);
    let mut event = Object::parse(&json).map_err(BuildError::Content)?;
    event.remove("unsigned");
    seal(version, event, key)
}

/// Adds this server's signature to an event of another server, beside those that it has: to a join that
/// one of our users authorises, and to an invite of one of our users. Returns the event without
/// `unsigned`; what it says is for the caller to check.
///
/// # Errors
/// If the event is not canonical JSON.
pub fn countersign<'a>(
    version: RoomVersion,
    json: &'a str,
    key: &'a KeyPair,
) -> Result<String, BuildError> {
    let mut event = Object::parse_with(version.numbers(), json).map_err(BuildError::Content)?;
    event.remove("unsigned");
    let (_, signed_json) = identify(version, &event);
    let signature = key.sign_bytes(signed_json.as_bytes());
    let key_id = key.key_id().as_str();
    let event = insert_signature(event, key.server_name(), key_id, &signature);
    Ok(canonical_json::write(&event))
}

/// The event with one more signature beside those that it has.
pub(crate) fn insert_signature<'a>(
    mut event: Object<'a>,
    server: &'a ServerName,
    key_id: &'a str,
    signature: &'a str,
) -> Object<'a> {
    let mut signatures = object_or_empty(event.remove("signatures"));
    let mut by_server = object_or_empty(signatures.remove(server.as_str()));
    by_server.insert(key_id, Value::text(signature));
    signatures.insert(server.as_str(), Value::Object(by_server));
    event.insert("signatures", Value::Object(signatures));
    event
}

fn object_or_empty(value: Option<Value<'_>>) -> Object<'_> {
    match value {
        Some(Value::Object(object)) => object,
        _ => Object::default(),
    }
}

fn ids(ids: &[OwnedEventId]) -> Value<'_> {
    Value::Array(ids.iter().map(|id| Value::text(id.as_str())).collect())
}

/// Puts hash and signature on an event, in place of any it has.
fn seal<'a>(
    version: RoomVersion,
    mut event: Object<'a>,
    key: &'a KeyPair,
) -> Result<ValidPdu, BuildError> {
    let hash = Value::text(encode_hash(content_hash(&event)));
    event.insert("hashes", object("sha256", hash));
    let (event_id, signed_json) = identify(version, &event);
    let signature = Value::text(key.sign_bytes(signed_json.as_bytes()));
    let by_key = object(key.key_id().as_str(), signature);
    event.insert("signatures", object(key.server_name().as_str(), by_key));
    let json = canonical_json::write(&event);
    check_format(version, &event, json.len()).map_err(BuildError::Invalid)?;
    let pdu = Pdu::from_stored(version, event_id, json)
        .map_err(|error| BuildError::Invalid(DropReason::Malformed(error)))?;
    check_references(version, &pdu).map_err(BuildError::Invalid)?;
    Ok(ValidPdu::from_own_storage(pdu))
}

fn object<'a>(key: &'a str, value: Value<'a>) -> Value<'a> {
    let mut object = Object::default();
    object.insert(key, value);
    Value::Object(object)
}
