//! Client-server API, "Getting events for a room".

use axum::extract::State;
use myelin_rooms::Moment;
use myelin_sync::{
    Asking, Context, ContextRequest, Direction, EventAt, EventJson, MembersRequest, Messages,
    MessagesRequest, RoomEventFilter,
};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::{Deserialize, Serialize};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path, Query},
};

pub(crate) async fn event(
    State(api): State<Api>,
    User(viewer): User,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
) -> Result<Json<EventJson>, ApiError> {
    Ok(Json(api.sync().event(&viewer, &room_id, &event_id).await?))
}

pub(crate) async fn state(
    State(api): State<Api>,
    User(viewer): User,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<Vec<EventJson>>, ApiError> {
    Ok(Json(api.sync().state(&viewer, &room_id).await?))
}

#[derive(Deserialize)]
pub(crate) struct StateParameters {
    format: Option<StateFormat>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateFormat {
    Content,
    Event,
}

pub(crate) async fn state_entry(
    State(api): State<Api>,
    User(viewer): User,
    Path((room_id, event_type, state_key)): Path<(OwnedRoomId, String, String)>,
    Query(parameters): Query<StateParameters>,
) -> Result<Json<EventJson>, ApiError> {
    let sync = api.sync();
    let entry = match parameters.format {
        Some(StateFormat::Event) => {
            sync.state_entry_event(&viewer, &room_id, &event_type, &state_key)
                .await?
        }
        Some(StateFormat::Content) | None => {
            sync.state_entry(&viewer, &room_id, &event_type, &state_key)
                .await?
        }
    };
    Ok(Json(entry))
}

pub(crate) async fn state_entry_without_key(
    api: State<Api>,
    user: User,
    Path((room_id, event_type)): Path<(OwnedRoomId, String)>,
    parameters: Query<StateParameters>,
) -> Result<Json<EventJson>, ApiError> {
    state_entry(
        api,
        user,
        Path((room_id, event_type, String::new())),
        parameters,
    )
    .await
}

#[derive(Deserialize)]
pub(crate) struct MembersParameters {
    at: Option<String>,
    membership: Option<String>,
    not_membership: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct Members {
    chunk: Vec<EventJson>,
}

pub(crate) async fn members(
    State(api): State<Api>,
    User(viewer): User,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<MembersParameters>,
) -> Result<Json<Members>, ApiError> {
    let request = MembersRequest {
        room_id,
        at: parameters.at,
        membership: parameters.membership,
        not_membership: parameters.not_membership,
    };
    let chunk = api.sync().members(&viewer, &request).await?;
    Ok(Json(Members { chunk }))
}

pub(crate) async fn joined_members(
    State(api): State<Api>,
    User(viewer): User,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<JoinedMembers>, ApiError> {
    let joined = api.sync().joined_members(&viewer, &room_id).await?;
    Ok(Json(JoinedMembers { joined }))
}

#[derive(Serialize)]
pub(crate) struct JoinedMembers {
    joined: EventJson,
}

#[derive(Deserialize)]
pub(crate) struct MessagesParameters {
    dir: WrittenDirection,
    from: Option<String>,
    to: Option<String>,
    limit: Option<u64>,
    filter: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
pub(crate) enum WrittenDirection {
    #[serde(rename = "b")]
    Backward,
    #[serde(rename = "f")]
    Forward,
}

impl From<WrittenDirection> for Direction {
    fn from(written: WrittenDirection) -> Self {
        match written {
            WrittenDirection::Backward => Self::Backward,
            WrittenDirection::Forward => Self::Forward,
        }
    }
}

pub(crate) fn read_filter(given: Option<&str>) -> Result<RoomEventFilter, ApiError> {
    Ok(given
        .map(RoomEventFilter::parse)
        .transpose()?
        .unwrap_or_default())
}

pub(crate) async fn messages(
    State(api): State<Api>,
    User(viewer): User,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<MessagesParameters>,
) -> Result<Json<Messages>, ApiError> {
    let request = MessagesRequest {
        viewer,
        asking: Asking::AsUser,
        room_id,
        direction: parameters.dir.into(),
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
        asking: Asking::AsUser,
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
    dir: WrittenDirection,
}

impl From<MomentParameters> for Moment {
    fn from(parameters: MomentParameters) -> Self {
        Self {
            at_ms: parameters.ts,
            direction: parameters.dir.into(),
        }
    }
}

pub(crate) async fn event_at(
    State(api): State<Api>,
    User(viewer): User,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<MomentParameters>,
) -> Result<Json<EventAt>, ApiError> {
    let (by, moment) = ((&viewer, Asking::AsUser), parameters.into());
    Ok(Json(api.sync().event_at(by, &room_id, moment).await?))
}
