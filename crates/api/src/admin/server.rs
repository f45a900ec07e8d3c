//! "Version API".

use serde_json::{Value, json};

use crate::request::Json;

pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "server_version": concat!("Myelin ", env!("CARGO_PKG_VERSION")) }))
}
