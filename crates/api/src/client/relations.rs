//! Client-server API, "Forming relationships between events" and "Threading".

use axum::extract::State;
use myelin_sync::{Direction, Include, Relations, RelationsRequest, Threads, ThreadsRequest};
use myelin_users::Requester;
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use super::events::WrittenDirection;
use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct RelationsParameters {
    dir: Option<WrittenDirection>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<u64>,
    recurse: Option<bool>,
}

impl RelationsParameters {
    fn about(
        self,
        viewer: Requester,
        room_id: OwnedRoomId,
        event_id: OwnedEventId,
    ) -> RelationsRequest {
        RelationsRequest {
            viewer,
            room_id,
            event_id,
            rel_type: None,
            event_type: None,
            direction: self.dir.map_or(Direction::Backward, Direction::from),
            from: self.from,
            to: self.to,
            limit: self.limit,
            recurse: self.recurse,
        }
    }
}

pub(crate) async fn all(
    State(api): State<Api>,
    User(viewer): User,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    Query(parameters): Query<RelationsParameters>,
) -> Result<Json<Relations>, ApiError> {
    let request = parameters.about(viewer, room_id, event_id);
    Ok(Json(api.sync().relations(&request).await?))
}

pub(crate) async fn of_kind(
    State(api): State<Api>,
    User(viewer): User,
    Path((room_id, event_id, rel_type)): Path<(OwnedRoomId, OwnedEventId, String)>,
    Query(parameters): Query<RelationsParameters>,
) -> Result<Json<Relations>, ApiError> {
    let request = RelationsRequest {
        rel_type: Some(rel_type),
        ..parameters.about(viewer, room_id, event_id)
    };
    Ok(Json(api.sync().relations(&request).await?))
}

pub(crate) async fn of_kind_and_type(
    State(api): State<Api>,
    User(viewer): User,
    Path((room_id, event_id, rel_type, event_type)): Path<(
        OwnedRoomId,
        OwnedEventId,
        String,
        String,
    )>,
    Query(parameters): Query<RelationsParameters>,
) -> Result<Json<Relations>, ApiError> {
    let request = RelationsRequest {
        rel_type: Some(rel_type),
        event_type: Some(event_type),
        ..parameters.about(viewer, room_id, event_id)
    };
    Ok(Json(api.sync().relations(&request).await?))
}

#[derive(Deserialize)]
pub(crate) struct ThreadsParameters {
    #[serde(default)]
    include: Include,
    limit: Option<u64>,
    from: Option<String>,
}

pub(crate) async fn threads(
    State(api): State<Api>,
    User(viewer): User,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<ThreadsParameters>,
) -> Result<Json<Threads>, ApiError> {
    let request = ThreadsRequest {
        viewer,
        room_id,
        include: parameters.include,
        limit: parameters.limit,
        from: parameters.from,
    };
    Ok(Json(api.sync().threads(&request).await?))
}
