//! Server-server API, "Server discovery": what this server is, and the keys it signs with.

use axum::{extract::State, response::Response};
use ruma::CanonicalJsonValue;
use serde_json::{Value, json};

use crate::{
    Api,
    request::{Json, json_response},
};

pub(crate) async fn version() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "server": { "name": "Myelin", "version": version } }))
}

pub(crate) async fn keys(State(api): State<Api>) -> Response {
    let now_ms = api.env().clock.now_ms();
    let document = api.federation().signing_keys().document(now_ms);
    json_response(CanonicalJsonValue::Object(document).to_string())
}
