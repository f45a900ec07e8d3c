//! Client-server API, "Typing notifications".

use std::time::Duration;

use axum::extract::State;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::Active,
    request::{Json, Path},
};

/// How long somebody types who doesn't say.
const DEFAULT_MS: u64 = 30_000;

#[derive(Deserialize)]
pub(crate) struct Body {
    typing: bool,
    /// In milliseconds.
    timeout: Option<u64>,
}

pub(crate) async fn set(
    State(api): State<Api>,
    Active(requester): Active,
    Path((room_id, user)): Path<(OwnedRoomId, OwnedUserId)>,
    Json(body): Json<Body>,
) -> Result<Json<Value>, ApiError> {
    if requester.user_id != user {
        return Err(ApiError::forbidden("You can't type for somebody else"));
    }
    let lasts = Duration::from_millis(body.timeout.unwrap_or(DEFAULT_MS));
    let lasts = body.typing.then_some(lasts);
    api.rooms().set_typing(&room_id, &user, lasts).await?;
    Ok(Json(json!({})))
}
