//! "Override ratelimiting for users".

use axum::extract::State;
use myelin_users::Override;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::must_be_local;
use crate::{
    Api, ApiError,
    request::{Json, OptionalJson, Path},
};

const ONLY_LOCAL: &str = "Can only look up local users";

#[derive(Default, Deserialize)]
pub(crate) struct SetRequest {
    #[serde(default)]
    messages_per_second: u32,
    #[serde(default)]
    burst_count: u32,
}

fn shown(instead: Option<Override>) -> Json<Value> {
    Json(instead.map_or_else(
        || json!({}),
        |instead| {
            json!({
                "messages_per_second": instead.messages_per_second,
                "burst_count": instead.burst_count,
            })
        },
    ))
}

pub(crate) async fn get(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Value>, ApiError> {
    must_be_local(&api, &user, ONLY_LOCAL)?;
    Ok(shown(api.users().rate_limit_override(&user).await?))
}

pub(crate) async fn set(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
    OptionalJson(request): OptionalJson<SetRequest>,
) -> Result<Json<Value>, ApiError> {
    let instead = Override {
        messages_per_second: request.messages_per_second,
        burst_count: request.burst_count,
    };
    put(&api, &user, Some(instead)).await
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Value>, ApiError> {
    put(&api, &user, None).await
}

async fn put(api: &Api, user: &UserId, instead: Option<Override>) -> Result<Json<Value>, ApiError> {
    must_be_local(api, user, ONLY_LOCAL)?;
    api.users().set_rate_limit_override(user, instead).await?;
    Ok(shown(instead))
}
