//! Server-server API, "Spaces".

use axum::extract::State;
use myelin_sync::ServedHierarchy;
use ruma::OwnedRoomId;
use serde::Deserialize;

use crate::{
    Api, ApiError,
    admission::Signed,
    request::{Json, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct Parameters {
    #[serde(default)]
    suggested_only: bool,
}

pub(crate) async fn hierarchy(
    State(api): State<Api>,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<Parameters>,
    request: Signed,
) -> Result<Json<ServedHierarchy>, ApiError> {
    let suggested_only = parameters.suggested_only;
    let sync = api.sync();
    let served = sync.serve_hierarchy(&request.origin, &room_id, suggested_only);
    let served = served.await?;
    // Whether there is such a room is not for those who may not see it.
    served
        .map(Json)
        .ok_or_else(|| ApiError::not_found("This server has no such room for you"))
}
