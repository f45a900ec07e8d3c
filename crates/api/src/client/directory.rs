//! Client-server API, "Room aliases".

use axum::extract::State;
use http::StatusCode;
use myelin_rooms::RoomError;
use ruma::{OwnedRoomAliasId, OwnedRoomId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

pub(crate) async fn resolve(
    State(api): State<Api>,
    Path(alias): Path<OwnedRoomAliasId>,
) -> Result<Json<Value>, ApiError> {
    let (room_id, servers) = api.rooms().resolve_alias(&alias).await?;
    Ok(Json(json!({ "room_id": room_id, "servers": servers })))
}

#[derive(Deserialize)]
pub(crate) struct Target {
    room_id: OwnedRoomId,
}

pub(crate) async fn add(
    State(api): State<Api>,
    User(requester): User,
    Path(alias): Path<OwnedRoomAliasId>,
    Json(Target { room_id }): Json<Target>,
) -> Result<Json<Value>, ApiError> {
    tracing::Span::current().record("room", room_id.as_str());
    let rooms = api.rooms();
    match rooms.add_alias(&requester.user_id, &alias, &room_id).await {
        Ok(()) => Ok(Json(json!({}))),
        // Here the specification wants another answer than where a room is made.
        Err(RoomError::AliasInUse(why)) => {
            Err(ApiError::new(StatusCode::CONFLICT, "M_UNKNOWN", why))
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn remove(
    State(api): State<Api>,
    User(requester): User,
    Path(alias): Path<OwnedRoomAliasId>,
) -> Result<Json<Value>, ApiError> {
    api.rooms()
        .remove_alias(&requester.user_id, requester.admin, &alias)
        .await?;
    Ok(Json(json!({})))
}

pub(crate) async fn of_room(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<Value>, ApiError> {
    let aliases = api.sync().aliases(&requester, &room_id).await?;
    Ok(Json(json!({ "aliases": aliases })))
}
