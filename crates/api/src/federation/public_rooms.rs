//! Server-server API, "Published room directory".

use axum::extract::State;
use myelin_sync::{PublicRooms, PublicRoomsRequest};
use serde::Deserialize;

use crate::{
    Api, ApiError,
    admission::Signed,
    request::{Json, Query, from_json},
};

#[derive(Deserialize)]
pub(crate) struct Parameters {
    limit: Option<usize>,
    since: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    Query(parameters): Query<Parameters>,
    _request: Signed,
) -> Result<Json<PublicRooms>, ApiError> {
    let request = PublicRoomsRequest {
        limit: parameters.limit,
        since: parameters.since,
        ..PublicRoomsRequest::default()
    };
    Ok(Json(api.sync().public_rooms(&request).await?))
}

pub(crate) async fn search(
    State(api): State<Api>,
    request: Signed,
) -> Result<Json<PublicRooms>, ApiError> {
    let wanted: PublicRoomsRequest = from_json(&request.body)?;
    Ok(Json(api.sync().public_rooms(&wanted).await?))
}
