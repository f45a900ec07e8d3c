//! Client-server API, "Room upgrades".

use axum::extract::State;
use myelin_rooms::Upgrade;
use ruma::{OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::membership::own_profile;
use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

#[derive(Deserialize)]
pub(crate) struct Wish {
    new_version: String,
    #[serde(default)]
    additional_creators: Vec<OwnedUserId>,
}

pub(crate) async fn upgrade(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
    Json(wish): Json<Wish>,
) -> Result<Json<Value>, ApiError> {
    tracing::Span::current().record("room", room_id.as_str());
    let upgrade = Upgrade {
        version: wish.new_version,
        additional_creators: wish.additional_creators,
        profile: own_profile(&api, &requester.user_id).await?,
    };
    let new = api
        .rooms()
        .upgrade(&requester.user_id, &room_id, upgrade)
        .await?;
    Ok(Json(json!({ "replacement_room": new })))
}
