//! Client-server API, "Room aliases".

use axum::extract::State;
use ruma::OwnedRoomAliasId;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    request::{Json, Path},
};

pub(crate) async fn resolve(
    State(api): State<Api>,
    Path(alias): Path<OwnedRoomAliasId>,
) -> Result<Json<Value>, ApiError> {
    let (room_id, servers) = api.rooms().resolve_alias(&alias).await?;
    Ok(Json(json!({ "room_id": room_id, "servers": servers })))
}
