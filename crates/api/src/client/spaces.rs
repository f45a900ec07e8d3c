//! Client-server API, "Spaces".

use axum::extract::State;
use myelin_sync::{Hierarchy, HierarchyRequest};
use ruma::OwnedRoomId;
use serde::Deserialize;

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct Parameters {
    #[serde(default)]
    suggested_only: bool,
    limit: Option<usize>,
    max_depth: Option<usize>,
    from: Option<String>,
}

pub(crate) async fn hierarchy(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Hierarchy>, ApiError> {
    if parameters.limit == Some(0) {
        return Err(ApiError::invalid_param("limit: at least 1"));
    }
    let request = HierarchyRequest {
        suggested_only: parameters.suggested_only,
        limit: parameters.limit,
        max_depth: parameters.max_depth,
        from: parameters.from,
    };
    let hierarchy = api.sync().hierarchy(&requester, &room_id, &request).await?;
    Ok(Json(hierarchy))
}
