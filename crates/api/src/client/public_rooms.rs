//! Client-server API, "Published room directory".

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use myelin_sync::PublicRoomsRequest;
use ruma::{OwnedRoomId, OwnedServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct Parameters {
    server: Option<OwnedServerName>,
    limit: Option<usize>,
    since: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    Query(parameters): Query<Parameters>,
) -> Result<Response, ApiError> {
    let request = PublicRoomsRequest {
        limit: parameters.limit,
        since: parameters.since,
        ..PublicRoomsRequest::default()
    };
    directory(&api, parameters.server, &request).await
}

#[derive(Deserialize)]
pub(crate) struct OfServer {
    server: Option<OwnedServerName>,
}

pub(crate) async fn search(
    State(api): State<Api>,
    User(_): User,
    Query(OfServer { server }): Query<OfServer>,
    OptionalJson(request): OptionalJson<PublicRoomsRequest>,
) -> Result<Response, ApiError> {
    directory(&api, server, &request).await
}

async fn directory(
    api: &Api,
    server: Option<OwnedServerName>,
    request: &PublicRoomsRequest,
) -> Result<Response, ApiError> {
    if request.limit == Some(0) {
        return Err(ApiError::invalid_param("limit: at least 1"));
    }
    let rooms = api.rooms();
    match server.filter(|server| server != rooms.server_name()) {
        None => Ok(Json(api.sync().public_rooms(request).await?).into_response()),
        Some(server) => {
            let answer = rooms.federation().public_rooms(&server, request).await?;
            Ok(Json(answer).into_response())
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Visibility {
    Public,
    Private,
}

#[derive(Deserialize)]
pub(crate) struct Wish {
    visibility: Option<Visibility>,
}

pub(crate) async fn visibility(
    State(api): State<Api>,
    Path(room_id): Path<OwnedRoomId>,
) -> Result<Json<Value>, ApiError> {
    let visibility = match api.rooms().is_published(&room_id).await? {
        true => "public",
        false => "private",
    };
    Ok(Json(json!({ "visibility": visibility })))
}

pub(crate) async fn set_visibility(
    State(api): State<Api>,
    User(requester): User,
    Path(room_id): Path<OwnedRoomId>,
    OptionalJson(wish): OptionalJson<Wish>,
) -> Result<Json<Value>, ApiError> {
    tracing::Span::current().record("room", room_id.as_str());
    let published = !matches!(wish.visibility, Some(Visibility::Private));
    api.rooms()
        .set_published(&requester.user_id, requester.admin, &room_id, published)
        .await?;
    Ok(Json(json!({})))
}
