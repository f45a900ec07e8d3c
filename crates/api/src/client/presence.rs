//! Client-server API, "Presence".

use axum::extract::State;
use myelin_rooms::{PresenceState, UserPresence};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::{User, device},
    request::{Json, Path},
};

#[derive(Deserialize)]
pub(crate) struct Body {
    presence: PresenceState,
    status_msg: Option<String>,
}

pub(crate) async fn status(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<UserPresence>, ApiError> {
    let presence = api.rooms().presence_of(&user, &requester.user_id).await?;
    Ok(Json(presence))
}

pub(crate) async fn set_status(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
    Json(body): Json<Body>,
) -> Result<Json<Value>, ApiError> {
    if requester.user_id != user {
        return Err(ApiError::forbidden("You can only set your own presence"));
    }
    api.rooms()
        .set_presence(device(&requester), body.presence, body.status_msg)
        .await?;
    Ok(Json(json!({})))
}
