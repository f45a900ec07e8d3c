//! Client-server API, "Device management".

use axum::extract::State;
use myelin_storage::devices::Device;
use myelin_users::AuthData;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson, Path},
};

pub(crate) async fn list(
    State(api): State<Api>,
    User(requester): User,
) -> Result<Json<Value>, ApiError> {
    let list = api.users().device_list(&requester.user_id).await?;
    let devices: Vec<Value> = list.devices.iter().map(shown).collect();
    Ok(Json(json!({ "devices": devices })))
}

pub(crate) async fn one(
    State(api): State<Api>,
    User(requester): User,
    Path(device_id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let device = api.users().device(&requester.user_id, device_id).await?;
    Ok(Json(shown(&device)))
}

#[derive(Deserialize)]
pub(crate) struct NewName {
    display_name: Option<String>,
}

pub(crate) async fn rename(
    State(api): State<Api>,
    User(requester): User,
    Path(device_id): Path<String>,
    Json(new): Json<NewName>,
) -> Result<Json<Value>, ApiError> {
    let users = api.users();
    users
        .rename_device(&requester.user_id, device_id, new.display_name)
        .await?;
    Ok(Json(json!({})))
}

#[derive(Default, Deserialize)]
pub(crate) struct Removal {
    auth: Option<AuthData>,
}

pub(crate) async fn remove(
    State(api): State<Api>,
    User(requester): User,
    Path(device_id): Path<String>,
    OptionalJson(removal): OptionalJson<Removal>,
) -> Result<Json<Value>, ApiError> {
    let users = api.users();
    users
        .remove_own_devices(&requester, vec![device_id], removal.auth)
        .await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
pub(crate) struct Removals {
    devices: Vec<String>,
    auth: Option<AuthData>,
}

pub(crate) async fn remove_several(
    State(api): State<Api>,
    User(requester): User,
    Json(removals): Json<Removals>,
) -> Result<Json<Value>, ApiError> {
    let users = api.users();
    users
        .remove_own_devices(&requester, removals.devices, removals.auth)
        .await?;
    Ok(Json(json!({})))
}

/// A device as its user sees it.
pub(crate) fn shown(device: &Device) -> Value {
    let mut shown = json!({ "device_id": device.device_id });
    if let Some(name) = &device.display_name {
        shown["display_name"] = json!(name);
    }
    if let Some(address) = &device.last_seen_ip {
        shown["last_seen_ip"] = json!(address);
    }
    if let Some(last_seen_ms) = device.last_seen_ms {
        shown["last_seen_ts"] = json!(last_seen_ms);
    }
    shown
}
