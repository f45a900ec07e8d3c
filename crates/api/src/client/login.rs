//! Client-server API, "Login", "Logout" and "Current account information".

use axum::extract::State;
use myelin_users::{Login, NewDevice, UserIdentifier};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson},
};

pub(crate) async fn flows() -> Json<Value> {
    Json(json!({ "flows": [{ "type": "m.login.password" }] }))
}

#[derive(Deserialize)]
pub(crate) struct LoginRequest {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<UserIdentifier>,
    /// The form from before identifiers.
    user: Option<String>,
    password: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
}

pub(crate) async fn log_in(
    State(api): State<Api>,
    Json(request): Json<LoginRequest>,
) -> Result<Json<Value>, ApiError> {
    if request.kind != "m.login.password" {
        let message = format!("This server does not log in by {:?}", request.kind);
        return Err(ApiError::unknown(message));
    }
    let user = UserIdentifier::user(request.identifier, request.user)?;
    let password = request
        .password
        .ok_or_else(|| ApiError::missing_param("password"))?;
    let device = NewDevice {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
    };
    let login = api.users().log_in(&user, password, device).await?;
    let mut answer = login_answer(&api, &login);
    if let Some(base_url) = &api.config().public_base_url {
        answer["well_known"] = json!({ "m.homeserver": { "base_url": base_url } });
    }
    Ok(Json(answer))
}

/// What a client gets to know of its new session.
pub(crate) fn login_answer(api: &Api, login: &Login) -> Value {
    json!({
        "user_id": login.user_id,
        "device_id": login.device_id,
        "access_token": login.access_token,
        "home_server": api.users().server_name(),
    })
}

pub(crate) async fn log_out(
    State(api): State<Api>,
    User(requester): User,
    OptionalJson(_): OptionalJson<Value>,
) -> Result<Json<Value>, ApiError> {
    api.users().log_out(requester).await?;
    Ok(Json(json!({})))
}

pub(crate) async fn log_out_everywhere(
    State(api): State<Api>,
    User(requester): User,
    OptionalJson(_): OptionalJson<Value>,
) -> Result<Json<Value>, ApiError> {
    api.users().log_out_everywhere(requester.user_id).await?;
    Ok(Json(json!({})))
}

pub(crate) async fn who_am_i(User(requester): User) -> Json<Value> {
    Json(json!({
        "user_id": requester.user_id,
        "device_id": requester.device_id,
        "is_guest": false,
    }))
}
