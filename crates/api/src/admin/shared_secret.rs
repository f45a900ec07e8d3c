//! Synapse's admin API, "Shared-secret registration", which tools and test suites rely on.

use axum::extract::State;
use myelin_users::{NewAccount, SharedSecretRegistration};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Api, ApiError, client::login::login_answer, request::Json};

pub(crate) async fn nonce(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "nonce": api.users().registration_nonce()? })))
}

#[derive(Deserialize)]
pub(crate) struct SharedSecretRequest {
    nonce: String,
    username: String,
    password: String,
    mac: String,
    #[serde(default)]
    admin: bool,
    displayname: Option<String>,
    user_type: Option<String>,
}

pub(crate) async fn register(
    State(api): State<Api>,
    Json(request): Json<SharedSecretRequest>,
) -> Result<Json<Value>, ApiError> {
    let registration = SharedSecretRegistration {
        nonce: request.nonce,
        account: NewAccount {
            username: request.username,
            password: Some(request.password),
            admin: request.admin,
            display_name: request.displayname,
        },
        user_type: request.user_type,
        mac: request.mac,
    };
    let login = api.users().register_by_shared_secret(registration).await?;
    Ok(Json(login_answer(&api, &login)))
}
