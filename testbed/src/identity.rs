//! An identity server: knows whose an address is as soon as it is told, and keeps invites until then.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use myelin_core::keys::{KeyPair, encode_verifying_key};
use ruma::{CanonicalJsonObject, OwnedServerName, ServerSigningKeyVersion};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::ca::Ca;
use crate::http;

/// What users are known by here.
pub const ACCESS_TOKEN: &str = "a token of the identity server";

/// It takes part in the hashes of addresses.
const PEPPER: &str = "matrixrocks";

pub struct IdentityServer {
    name: String,
    key: KeyPair,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// User IDs by the hash of the address.
    owners: HashMap<String, String>,
    /// What homeservers stored, with the tokens that they got.
    invites: Vec<Value>,
    revoked: bool,
}

type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

impl IdentityServer {
    /// Begins to serve on loopback.
    pub async fn start(ca: &Ca) -> Arc<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Self::new(address));
        let tls = ca.identity(Ipv4Addr::LOCALHOST).acceptor();
        let router = server.clone().router();
        tokio::spawn(http::serve(router, listener, tls));
        server
    }

    fn new(address: SocketAddr) -> Self {
        let name = address.to_string();
        let version = <&ServerSigningKeyVersion>::try_from("0").unwrap();
        let key = KeyPair::new(OwnedServerName::try_from(&*name).unwrap(), version, [3; 32]);
        Self {
            name,
            key,
            known: Mutex::default(),
        }
    }

    /// Host and port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The body of a client's request to invite an address.
    pub fn invitation(&self, address: &str) -> Value {
        json!({
            "id_server": self.name, "id_access_token": ACCESS_TOKEN,
            "medium": "email", "address": address,
        })
    }

    /// What homeservers stored for an address.
    pub fn stored(&self, address: &str) -> Vec<Value> {
        let mut invites = self.known().invites.clone();
        invites.retain(|invite| invite["address"] == address);
        invites
    }

    /// From now on its keys are not valid any more.
    pub fn revoke_keys(&self) {
        self.known().revoked = true;
    }

    /// A user proves to own an address. Returns what the user's homeserver is to be told.
    pub fn bind(&self, address: &str, user: &str) -> Value {
        let invites = self.stored(address);
        self.known().owners.insert(hash(address), user.to_owned());
        let told = invites.iter().map(|invite| {
            let statement =
                json!({ "mxid": user, "token": invite["token"], "sender": invite["sender"] });
            let mut signed: CanonicalJsonObject = serde_json::from_value(statement).unwrap();
            self.key.sign_json(&mut signed).unwrap();
            json!({
                "medium": "email", "address": address, "mxid": user,
                "room_id": invite["room_id"], "sender": invite["sender"], "signed": signed,
            })
        });
        let told: Vec<Value> = told.collect();
        json!({ "medium": "email", "address": address, "mxid": user, "invites": told })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    fn router(self: Arc<Self>) -> Router {
        let v2 = Router::new()
            .route("/hash_details", get(hash_details))
            .route("/lookup", post(lookup))
            .route("/store-invite", post(store_invite))
            .route("/pubkey/isvalid", get(is_valid));
        Router::new()
            .nest("/_matrix/identity/v2", v2)
            .with_state(self)
    }
}

fn hash(address: &str) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    let hashed = sha2::Sha256::digest(format!("{address} email {PEPPER}"));
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hashed)
}

fn admit(headers: &HeaderMap) -> Result<(), (StatusCode, Json<Value>)> {
    let token = headers.get("authorization").map(|value| value.as_bytes());
    if token == Some(format!("Bearer {ACCESS_TOKEN}").as_bytes()) {
        return Ok(());
    }
    let refused = json!({ "errcode": "M_UNAUTHORIZED", "error": "who is that?" });
    Err((StatusCode::UNAUTHORIZED, Json(refused)))
}

/// The reference sends the token in the query here.
async fn hash_details() -> Json<Value> {
    Json(json!({ "algorithms": ["sha256"], "lookup_pepper": PEPPER }))
}

async fn lookup(
    State(server): State<Arc<IdentityServer>>,
    headers: HeaderMap,
    Json(asked): Json<Value>,
) -> Answer {
    admit(&headers)?;
    let known = server.known();
    let mut mappings = serde_json::Map::new();
    for hash in asked["addresses"].as_array().into_iter().flatten() {
        let hash = hash.as_str().unwrap_or_default();
        if let Some(owner) = known.owners.get(hash) {
            mappings.insert(hash.to_owned(), owner.as_str().into());
        }
    }
    Ok(Json(json!({ "mappings": mappings })))
}

async fn store_invite(
    State(server): State<Arc<IdentityServer>>,
    headers: HeaderMap,
    Json(mut invite): Json<Value>,
) -> Answer {
    admit(&headers)?;
    let mut known = server.known();
    let token = format!("token-{}", known.invites.len());
    invite["token"] = json!(token);
    known.invites.push(invite);
    let key = json!({
        "public_key": encode_verifying_key(&server.key.verifying_key()),
        "key_validity_url": format!("https://{}/_matrix/identity/v2/pubkey/isvalid", server.name),
    });
    Ok(Json(json!({
        "token": token, "display_name": "s...@e...",
        "public_key": key["public_key"], "public_keys": [key],
    })))
}

async fn is_valid(
    State(server): State<Arc<IdentityServer>>,
    Query(asked): Query<HashMap<String, String>>,
) -> Json<Value> {
    let own = encode_verifying_key(&server.key.verifying_key());
    let valid = asked.get("public_key") == Some(&own) && !server.known().revoked;
    Json(json!({ "valid": valid }))
}
