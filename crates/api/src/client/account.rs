//! Client-server API, "Account management": password and deactivation.

use axum::extract::State;
use myelin_users::AuthData;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson},
};

#[derive(Deserialize)]
pub(crate) struct NewPassword {
    new_password: Option<String>,
    logout_devices: Option<bool>,
    auth: Option<AuthData>,
}

pub(crate) async fn change_password(
    State(api): State<Api>,
    User(requester): User,
    Json(wish): Json<NewPassword>,
) -> Result<Json<Value>, ApiError> {
    let missing = || ApiError::missing_param("new_password");
    let new_password = wish.new_password.ok_or_else(missing)?;
    let log_out_others = wish.logout_devices.unwrap_or(true);
    let users = api.users();
    users
        .change_password(&requester, new_password, log_out_others, wish.auth)
        .await?;
    Ok(Json(json!({})))
}

#[derive(Default, Deserialize)]
pub(crate) struct Deactivation {
    #[serde(default)]
    erase: bool,
    auth: Option<AuthData>,
}

pub(crate) async fn deactivate(
    State(api): State<Api>,
    User(requester): User,
    OptionalJson(wish): OptionalJson<Deactivation>,
) -> Result<Json<Value>, ApiError> {
    let users = api.users();
    users.deactivate(&requester, wish.erase, wish.auth).await?;
    api.rooms().account_closed();
    // This server never binds addresses of its users to an identity server.
    Ok(Json(json!({ "id_server_unbind_result": "success" })))
}
