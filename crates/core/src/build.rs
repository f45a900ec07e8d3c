//! Making events: hashes, signature, ID.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
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
        DropReason, ValidPdu, check_field_bytes, check_format, check_references, content_hash,
        encode_hash, event_id, signed_part,
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
    /// Adds hashes and this server's signature, and before room version 3 an ID.
    ///
    /// # Errors
    /// If the content is not canonical JSON, or the event breaks a limit of its format.
    pub fn finish(self, version: RoomVersion, key: &KeyPair) -> Result<ValidPdu, BuildError> {
        self.finish_referring(version, key, &BTreeMap::new())
    }

    /// The same with the [`reference_hash`](crate::validate::reference_hash) of each event that it names, which
    /// goes with its ID before room version 3.
    ///
    /// # Errors
    /// As for [`EventDraft::finish`].
    pub fn finish_referring(
        self,
        version: RoomVersion,
        key: &KeyPair,
        hashes: &BTreeMap<OwnedEventId, String>,
    ) -> Result<ValidPdu, BuildError> {
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
        let ids = |ids| references(version, ids, hashes);
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
/// `make_knock`): adds hashes and this server's signature, and before room
/// version 3 an ID. What the template says is for the caller
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
    let signed_json = signed_part(version, &event);
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

fn references<'a>(
    version: RoomVersion,
    ids: &'a [OwnedEventId],
    hashes: &'a BTreeMap<OwnedEventId, String>,
) -> Value<'a> {
    let reference = |id: &'a OwnedEventId| {
        let name = Value::text(id.as_str());
        if !version.has_ids_in_events() {
            return name;
        }
        let hash = match hashes.get(id) {
            Some(hash) => object("sha256", Value::text(hash.as_str())),
            None => Value::Object(Object::default()),
        };
        Value::Array(vec![name, hash])
    };
    Value::Array(ids.iter().map(reference).collect())
}

/// Puts hash and signature on an event, in place of any it has.
fn seal<'a>(
    version: RoomVersion,
    mut event: Object<'a>,
    key: &'a KeyPair,
) -> Result<ValidPdu, BuildError> {
    if version.has_ids_in_events() {
        // What is made up may be anything that is not made up twice.
        event.remove("event_id");
        let unique = URL_SAFE_NO_PAD.encode(content_hash(&event));
        let id = format!("${unique}:{}", key.server_name());
        event.insert("event_id", Value::text(id));
    }
    let hash = Value::text(encode_hash(content_hash(&event)));
    event.insert("hashes", object("sha256", hash));
    let signed_json = signed_part(version, &event);
    let signature = Value::text(key.sign_bytes(signed_json.as_bytes()));
    let by_key = object(key.key_id().as_str(), signature);
    event.insert("signatures", object(key.server_name().as_str(), by_key));
    let json = canonical_json::write(&event);
    check_format(version, &event, json.len()).map_err(BuildError::Invalid)?;
    let event_id = event_id(version, &event, &signed_json).map_err(BuildError::Invalid)?;
    let pdu = Pdu::from_stored(version, event_id, json)
        .map_err(|error| BuildError::Invalid(DropReason::Malformed(error)))?;
    check_field_bytes(&pdu).map_err(BuildError::Invalid)?;
    check_references(version, &pdu).map_err(BuildError::Invalid)?;
    Ok(ValidPdu::from_own_storage(pdu))
}

fn object<'a>(key: &'a str, value: Value<'a>) -> Value<'a> {
    let mut object = Object::default();
    object.insert(key, value);
    Value::Object(object)
}
