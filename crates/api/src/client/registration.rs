//! Client-server API, "Account registration".

use axum::extract::State;
use myelin_users::{AuthData, NewDevice, Registered, Registration};
use serde::Deserialize;
use serde_json::{Value, json};

use super::login::login_answer;
use crate::{
    Api, ApiError,
    request::{Json, OptionalJson, Query},
};

#[derive(Deserialize)]
pub(crate) struct RegisterParameters {
    kind: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct RegisterRequest {
    username: Option<String>,
    password: Option<String>,
    guest_access_token: Option<String>,
    auth: Option<AuthData>,
    device_id: Option<String>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    inhibit_login: bool,
    #[serde(default)]
    refresh_token: bool,
}

pub(crate) async fn register(
    State(api): State<Api>,
    Query(parameters): Query<RegisterParameters>,
    OptionalJson(request): OptionalJson<RegisterRequest>,
) -> Result<Json<Value>, ApiError> {
    match parameters.kind.as_deref() {
        None | Some("user") => {}
        Some("guest") => {
            // Nothing else of the request counts.
            let name = request.initial_device_display_name;
            let login = api.users().register_guest(name).await?;
            return Ok(Json(login_answer(&api, &login)));
        }
        Some(other) => {
            return Err(ApiError::invalid_param(format!("Unknown kind {other:?}")));
        }
    }
    let was_guest = request.guest_access_token.is_some();
    let registered = api
        .users()
        .register(Registration {
            username: request.username,
            guest_access_token: request.guest_access_token,
            password: request.password,
            auth: request.auth,
            device: NewDevice {
                device_id: request.device_id,
                display_name: request.initial_device_display_name,
                renewable: request.refresh_token,
            },
            inhibit_login: request.inhibit_login,
        })
        .await?;
    if was_guest {
        // Its memberships say so.
        api.rooms().profile_changed();
    }
    Ok(Json(match registered {
        Registered::LoggedIn(login) => login_answer(&api, &login),
        Registered::Account(user_id) => {
            json!({ "user_id": user_id, "home_server": api.users().server_name() })
        }
    }))
}

#[derive(Deserialize)]
pub(crate) struct AvailableParameters {
    username: String,
}

pub(crate) async fn available(
    State(api): State<Api>,
    Query(parameters): Query<AvailableParameters>,
) -> Result<Json<Value>, ApiError> {
    api.users().available(&parameters.username).await?;
    Ok(Json(json!({ "available": true })))
}

#[derive(Deserialize)]
pub(crate) struct ValidityParameters {
    token: String,
}

pub(crate) async fn token_validity(
    State(api): State<Api>,
    Query(parameters): Query<ValidityParameters>,
) -> Result<Json<Value>, ApiError> {
    let valid = api
        .users()
        .is_valid_registration_token(parameters.token)
        .await?;
    Ok(Json(json!({ "valid": valid })))
}
