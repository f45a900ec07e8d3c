//! What the resident does as a policy server, in each of its names.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use myelin_core::build::countersign;
use myelin_core::keys::{KeyPair, encode_verifying_key};
use ruma::ServerSigningKeyVersion;
use serde_json::{Value, json};

use super::Resident;
use super::answers::{Name, bad};

impl Resident {
    /// What one of the names signs recommended events with. No key document has it.
    pub fn policy_key(&self, number: usize) -> KeyPair {
        let version = <&ServerSigningKeyVersion>::try_from("policy_server").unwrap();
        KeyPair::new(self.names(number), version, [number as u8 + 101; 32])
    }

    /// The content of the state event that makes one of the names a room's policy server.
    pub fn policy(&self, number: usize) -> Value {
        let key = encode_verifying_key(&self.policy_key(number).verifying_key());
        json!({ "via": self.names(number), "public_keys": { "ed25519": key } })
    }
}

/// Signs any event. The answer has no other signatures than its own.
pub(super) async fn sign(
    State(name): State<Name>,
    event: String,
) -> Result<Json<Value>, (StatusCode, Json<Value>)> {
    let key = name.resident.policy_key(name.number);
    let version = name.resident.room.version;
    let signed = countersign(version, &event, &key).map_err(bad)?;
    let signed: Value = serde_json::from_str(&signed).map_err(bad)?;
    let (server, key_id) = (key.server_name().as_str(), key.key_id().as_str());
    let signature = &signed["signatures"][server][key_id];
    Ok(Json(json!({ server: { key_id: signature } })))
}
