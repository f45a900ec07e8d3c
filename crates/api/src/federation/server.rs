//! Server-server API, "Server discovery": what this server is.

use serde_json::{Value, json};

use crate::request::Json;

pub(crate) async fn version() -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({ "server": { "name": "Myelin", "version": version } }))
}
