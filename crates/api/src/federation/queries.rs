//! Server-server API, "Querying for information" and "Device management".

use axum::extract::State;
use myelin_users::{ProfileFields, uploaded_keys};
use ruma::{OwnedRoomAliasId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::Signed,
    request::{Json, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct ProfileParameters {
    user_id: OwnedUserId,
    field: Option<String>,
}

pub(crate) async fn profile(
    State(api): State<Api>,
    Query(parameters): Query<ProfileParameters>,
    _request: Signed,
) -> Result<Json<ProfileFields>, ApiError> {
    let user = &parameters.user_id;
    let mut profile = api.users().local_profile_fields(user).await?;
    if let Some(wanted) = parameters.field {
        profile.retain(|name, _| *name == wanted);
    }
    Ok(Json(profile))
}

#[derive(Deserialize)]
pub(crate) struct DirectoryParameters {
    room_alias: OwnedRoomAliasId,
}

pub(crate) async fn directory(
    State(api): State<Api>,
    Query(parameters): Query<DirectoryParameters>,
    _request: Signed,
) -> Result<Json<Value>, ApiError> {
    let alias = &parameters.room_alias;
    // Others are not asked on behalf of others.
    if alias.server_name() != api.users().server_name() {
        return Err(ApiError::not_found("The alias belongs to another server"));
    }
    let (room_id, servers) = api.rooms().resolve_alias(alias).await?;
    Ok(Json(json!({ "room_id": room_id, "servers": servers })))
}

pub(crate) async fn user_devices(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
    _request: Signed,
) -> Result<Json<Value>, ApiError> {
    let list = api.users().device_list(&user).await?;
    let devices: Vec<Value> = list
        .devices
        .iter()
        // Devices without keys are nothing to others.
        .filter_map(|device| {
            let mut shown =
                json!({ "device_id": device.device_id, "keys": uploaded_keys(device)? });
            if let Some(name) = &device.display_name {
                shown["device_display_name"] = json!(name);
            }
            Some(shown)
        })
        .collect();
    Ok(Json(
        json!({ "user_id": user, "stream_id": list.version, "devices": devices }),
    ))
}
