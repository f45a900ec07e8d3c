//! Client-server API, "Key management".

use std::collections::BTreeMap;

use axum::extract::State;
use myelin_users::KeyUpload;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson},
};

pub(crate) async fn upload(
    State(api): State<Api>,
    User(requester): User,
    OptionalJson(upload): OptionalJson<KeyUpload>,
) -> Result<Json<Value>, ApiError> {
    let counts = api.users().upload_keys(requester, upload).await?;
    Ok(Json(json!({ "one_time_key_counts": counts })))
}

#[derive(Deserialize)]
pub(crate) struct QueryRequest {
    device_keys: BTreeMap<OwnedUserId, Vec<String>>,
}

pub(crate) async fn query(
    State(api): State<Api>,
    _user: User,
    Json(request): Json<QueryRequest>,
) -> Result<Json<Value>, ApiError> {
    let keys = api.users().query_keys(request.device_keys).await?;
    Ok(Json(
        json!({ "device_keys": keys.devices, "failures": keys.failures }),
    ))
}
