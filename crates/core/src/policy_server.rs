//! Policy servers: a server that a room has chosen to look at each event before anybody is shown it
//! (MSC4284; server-server API, "Policy Servers").

use ruma::{OwnedServerName, ServerName};
use serde_json::{Value as Json, value::RawValue};

use crate::{
    build::insert_signature,
    canonical_json::{self, Object, Value},
    event::Event,
    keys::{decode_verifying_key, verify_bytes},
    pdu::Pdu,
    room_version::RoomVersion,
    state::State,
    validate::{DropReason, ValidPdu, check_format, signed_part},
};

/// The type of the state event that names a room's policy server.
pub const POLICY: &str = "m.room.policy";

/// The ID of the key by which policy servers sign. The key stands in the room's state, not in key
/// documents, so such a signature is no business of check 2.
pub const POLICY_SERVER_KEY: &str = "ed25519:policy_server";

/// The policy server that a room uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    /// The server.
    pub name: OwnedServerName,
    /// Its public key in base64. What is no key makes no signature valid, and the room uses the server
    /// all the same.
    key: String,
}

/// Why a signature of a policy server can't be taken.
#[derive(Debug, thiserror::Error)]
pub enum UnusableSignature {
    /// It is not by the key in the room's state.
    #[error("the signature is not by the key that the room has for its policy server")]
    Wrong,
    /// With it the event is larger than events may be.
    #[error("the event can't carry the signature: {0}")]
    TooLarge(DropReason),
}

impl PolicyServer {
    /// The policy server that a room uses by its current state: what its `m.room.policy` event `policy` names,
    /// if a user of that server is in the room. In a partial room it is enough that the server was in the room
    /// at the join (R80): its users' memberships are what such a state lacks.
    pub fn of_room(state: &State, servers_at_join: &[String], policy: &Event) -> Option<Self> {
        // A redaction takes the content away, and with it the policy server.
        let server = Self::read(&policy.pdu.content).filter(|_| policy.redacted_by.is_none())?;
        let name = server.name.as_str();
        let is_there =
            state.has_server(name) || servers_at_join.iter().any(|at_join| at_join == name);
        is_there.then_some(server)
    }

    /// Reads the content of an `m.room.policy` event; `None` if a field that it needs is missing.
    fn read(content: &RawValue) -> Option<Self> {
        let content: Json = serde_json::from_str(content.get()).ok()?;
        Some(Self {
            name: ServerName::parse(content["via"].as_str()?).ok()?,
            key: content["public_keys"]["ed25519"].as_str()?.to_owned(),
        })
    }

    /// Whether an event needs no signature: the one that names the policy server. Otherwise a room could not
    /// be rid of it.
    pub fn exempts(pdu: &Pdu) -> bool {
        pdu.is_state(POLICY, "")
    }

    /// Whether the event carries the server's valid signature.
    pub fn has_signed(&self, version: RoomVersion, pdu: &Pdu) -> bool {
        let Ok(event) = Object::parse_with(version.numbers(), &pdu.json) else {
            return false;
        };
        let signature = event
            .get("signatures")
            .and_then(Value::as_object)
            .and_then(|all| all.get(self.name.as_str()))
            .and_then(Value::as_object)
            .and_then(|own| own.get(POLICY_SERVER_KEY))
            .and_then(Value::as_str);
        let (Some(signature), Ok(key)) = (signature, decode_verifying_key(&self.key)) else {
            return false;
        };
        let signed_json = signed_part(version, &event);
        verify_bytes(signed_json.as_bytes(), signature, &key).is_ok()
    }

    /// The event with the server's signature beside those that it has: the server may be its author's too.
    ///
    /// # Errors
    /// Any [`UnusableSignature`].
    pub fn sign(
        &self,
        version: RoomVersion,
        pdu: &Pdu,
        signature: &str,
    ) -> Result<ValidPdu, UnusableSignature> {
        let wrong = |_| UnusableSignature::Wrong;
        let event = Object::parse_with(version.numbers(), &pdu.json).map_err(wrong)?;
        let event = insert_signature(event, &self.name, POLICY_SERVER_KEY, signature);
        let json = canonical_json::write(&event);
        check_format(version, &event, json.len()).map_err(UnusableSignature::TooLarge)?;
        let signed = Pdu::from_stored(version, pdu.event_id.clone(), json)
            .map_err(|error| UnusableSignature::TooLarge(DropReason::Malformed(error)))?;
        if self.has_signed(version, &signed) {
            Ok(ValidPdu::from_own_storage(signed))
        } else {
            Err(UnusableSignature::Wrong)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::to_raw_value};

    use super::PolicyServer;

    #[test]
    fn a_policy_without_a_field_that_it_needs_is_none() {
        let read = |content| PolicyServer::read(&to_raw_value(&content).unwrap()).is_some();
        let key = json!({ "ed25519": "AAAA" });
        assert!(read(json!({ "via": "p.example", "public_keys": key })));
        for content in [
            json!({}),
            json!({ "via": "p.example" }),
            json!({ "public_keys": key }),
            json!({ "via": 5, "public_keys": key }),
            json!({ "via": "no server name", "public_keys": key }),
            json!({ "via": "p.example", "public_keys": "AAAA" }),
            json!({ "via": "p.example", "public_keys": { "ed25519": 5 } }),
            json!({ "via": "p.example", "public_keys": { "curve25519": "AAAA" } }),
        ] {
            assert!(!read(content.clone()), "{content}");
        }
    }
}
