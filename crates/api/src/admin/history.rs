//! "Room Admin API": what was said in rooms, whoever may see it; and "Fetch Event API".

use axum::extract::State;
use myelin_rooms::Moment;
use myelin_sync::{Asking, Context, ContextRequest, Direction, EventAt, Messages, MessagesRequest};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Dir;
use crate::{
    Api, ApiError,
    admission::User,
    client::events::read_filter,
    request::{Json, Path, Query},
};

/// Who says nothing reads on forwards.
fn direction(dir: Option<Dir>) -> Direction {
    match dir {
        Some(Dir::Backwards) => Direction::Backward,
        Some(Dir::Forwards) | None => Direction::Forward,
    }
}

#[derive(Deserialize)]
pub(crate) struct MessagesParameters {
    dir: Option<Dir>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<u64>,
    filter: Option<String>,
}

pub(crate) async fn messages(
    State(api): State<Api>,
    User(viewer): User,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<MessagesParameters>,
) -> Result<Json<Messages>, ApiError> {
    let request = MessagesRequest {
        viewer,
        asking: Asking::AsAdministrator,
        room_id,
        direction: direction(parameters.dir),
        from: parameters.from,
        to: parameters.to,
        limit: parameters.limit,
        filter: read_filter(parameters.filter.as_deref())?,
    };
    Ok(Json(api.sync().messages(&request).await?))
}

#[derive(Deserialize)]
pub(crate) struct ContextParameters {
    limit: Option<u64>,
    filter: Option<String>,
}

pub(crate) async fn context(
    State(api): State<Api>,
    User(viewer): User,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    Query(parameters): Query<ContextParameters>,
) -> Result<Json<Context>, ApiError> {
    let request = ContextRequest {
        viewer,
        asking: Asking::AsAdministrator,
        room_id,
        event_id,
        limit: parameters.limit,
        filter: read_filter(parameters.filter.as_deref())?,
    };
    Ok(Json(api.sync().context(&request).await?))
}

#[derive(Deserialize)]
pub(crate) struct MomentParameters {
    ts: i64,
    dir: Option<Dir>,
}

pub(crate) async fn event_at(
    State(api): State<Api>,
    User(viewer): User,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<MomentParameters>,
) -> Result<Json<EventAt>, ApiError> {
    let by = (&viewer, Asking::AsAdministrator);
    let moment = Moment {
        at_ms: parameters.ts,
        direction: direction(parameters.dir),
    };
    Ok(Json(api.sync().event_at(by, &room_id, moment).await?))
}

pub(crate) async fn fetch_event(
    State(api): State<Api>,
    Path(event_id): Path<OwnedEventId>,
) -> Result<Json<Value>, ApiError> {
    let pdu = api.sync().original_event(&event_id).await?;
    let mut event: Map<String, Value> = serde_json::from_str(&pdu.json).map_err(|error| {
        tracing::error!(event = %event_id, %error, "a stored event is no JSON");
        ApiError::internal()
    })?;
    event.insert("event_id".to_owned(), json!(event_id));
    event.insert("room_id".to_owned(), json!(pdu.room_id));
    Ok(Json(json!({ "event": event })))
}
