//! Client-server API, "Login", "Logout" and "Current account information".

use axum::extract::State;
use myelin_users::{
    ACCESS_TOKEN_LIFETIME_MS, AuthData, LOGIN_TOKEN_MS, Login, NewDevice, UserIdentifier,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson},
};

pub(crate) async fn flows() -> Json<Value> {
    Json(json!({ "flows": [
        { "type": "m.login.password" },
        { "type": "m.login.token", "get_login_token": true },
    ] }))
}

#[derive(Deserialize)]
pub(crate) struct LoginRequest {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<UserIdentifier>,
    /// The form from before identifiers.
    user: Option<String>,
    password: Option<String>,
    /// For `m.login.token`.
    token: Option<String>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

pub(crate) async fn log_in(
    State(api): State<Api>,
    Json(request): Json<LoginRequest>,
) -> Result<Json<Value>, ApiError> {
    let device = NewDevice {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        renewable: request.refresh_token,
    };
    let login = match &*request.kind {
        "m.login.password" => {
            let user = UserIdentifier::user(request.identifier, request.user)?;
            let password = request
                .password
                .ok_or_else(|| ApiError::missing_param("password"))?;
            api.users().log_in(&user, password, device).await?
        }
        "m.login.token" => {
            let token = request
                .token
                .ok_or_else(|| ApiError::missing_param("token"))?;
            api.users().log_in_by_token(&token, device).await?
        }
        other => {
            let message = format!("This server does not log in by {other:?}");
            return Err(ApiError::unknown(message));
        }
    };
    let mut answer = login_answer(&api, &login);
    if let Some(base_url) = &api.config().public_base_url {
        answer["well_known"] = json!({ "m.homeserver": { "base_url": base_url } });
    }
    Ok(Json(answer))
}

/// What a client gets to know of its new session.
pub(crate) fn login_answer(api: &Api, login: &Login) -> Value {
    let mut answer = json!({
        "user_id": login.user_id,
        "device_id": login.device_id,
        "access_token": login.access_token,
        "home_server": api.users().server_name(),
    });
    if let Some(refresh_token) = &login.refresh_token {
        answer["refresh_token"] = json!(refresh_token);
        answer["expires_in_ms"] = json!(ACCESS_TOKEN_LIFETIME_MS);
    }
    answer
}

#[derive(Deserialize)]
pub(crate) struct RefreshRequest {
    refresh_token: Option<String>,
}

pub(crate) async fn refresh(
    State(api): State<Api>,
    Json(request): Json<RefreshRequest>,
) -> Result<Json<Value>, ApiError> {
    let missing = || ApiError::missing_param("refresh_token");
    let refresh_token = request.refresh_token.ok_or_else(missing)?;
    let renewed = api.users().refresh(&refresh_token).await?;
    Ok(Json(json!({
        "access_token": renewed.access_token,
        "refresh_token": renewed.refresh_token,
        "expires_in_ms": ACCESS_TOKEN_LIFETIME_MS,
    })))
}

#[derive(Default, Deserialize)]
pub(crate) struct LoginTokenRequest {
    auth: Option<AuthData>,
}

pub(crate) async fn login_token(
    State(api): State<Api>,
    User(requester): User,
    OptionalJson(request): OptionalJson<LoginTokenRequest>,
) -> Result<Json<Value>, ApiError> {
    let login_token = api.users().login_token(&requester, request.auth).await?;
    Ok(Json(
        json!({ "login_token": login_token, "expires_in_ms": LOGIN_TOKEN_MS }),
    ))
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
        "is_guest": requester.guest,
    }))
}
