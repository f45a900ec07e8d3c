//! "User Admin API", "User devices".

use axum::extract::State;
use myelin_storage::devices::Device;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::must_be_local;
use crate::{
    Api, ApiError,
    client::devices::shown,
    request::{Json, OptionalJson, Path},
};

/// Refuses who is no user of this server.
async fn must_exist(api: &Api, user: &UserId) -> Result<(), ApiError> {
    must_be_local(api, user, "Can only lookup local users")?;
    let known = api.users().account_details(user).await;
    Ok(known.map(drop)?)
}

pub(crate) async fn list(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Value>, ApiError> {
    must_exist(&api, &user).await?;
    let list = api.users().device_list(&user).await?;
    let devices: Vec<Value> = list
        .devices
        .iter()
        .map(|device| row(&user, device))
        .collect();
    Ok(Json(json!({ "total": devices.len(), "devices": devices })))
}

pub(crate) async fn one(
    State(api): State<Api>,
    Path((user, device_id)): Path<(OwnedUserId, String)>,
) -> Result<Json<Value>, ApiError> {
    must_exist(&api, &user).await?;
    let device = api.users().device(&user, device_id).await?;
    Ok(Json(row(&user, &device)))
}

#[derive(Default, Deserialize)]
pub(crate) struct NewName {
    display_name: Option<String>,
}

pub(crate) async fn rename(
    State(api): State<Api>,
    Path((user, device_id)): Path<(OwnedUserId, String)>,
    OptionalJson(new): OptionalJson<NewName>,
) -> Result<Json<Value>, ApiError> {
    must_exist(&api, &user).await?;
    let users = api.users();
    users
        .rename_device(&user, device_id, new.display_name)
        .await?;
    Ok(Json(json!({})))
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path((user, device_id)): Path<(OwnedUserId, String)>,
) -> Result<Json<Value>, ApiError> {
    must_exist(&api, &user).await?;
    api.users().remove_devices(&user, vec![device_id]).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
pub(crate) struct Removals {
    devices: Option<Vec<String>>,
}

pub(crate) async fn remove_several(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
    Json(removals): Json<Removals>,
) -> Result<Json<Value>, ApiError> {
    must_exist(&api, &user).await?;
    let missing = || ApiError::missing_param("devices");
    let devices = removals.devices.ok_or_else(missing)?;
    api.users().remove_devices(&user, devices).await?;
    Ok(Json(json!({})))
}

/// A device as administrators see it.
fn row(user: &UserId, device: &Device) -> Value {
    let mut row = shown(device);
    row["user_id"] = json!(user);
    row["last_seen_user_agent"] = json!(device.user_agent);
    row
}
