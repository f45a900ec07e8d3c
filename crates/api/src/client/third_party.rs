//! Client-server API, "Third-party networks": this server bridges to none.

use serde_json::{Value, json};

use crate::{ApiError, admission::User, request::Json};

pub(crate) async fn protocols(_user: User) -> Json<Value> {
    Json(json!({}))
}

pub(crate) async fn protocol(_user: User) -> ApiError {
    ApiError::not_found("This server knows no such protocol")
}

/// Rooms and users on other networks.
pub(crate) async fn nothing(_user: User) -> Json<Value> {
    Json(json!([]))
}
