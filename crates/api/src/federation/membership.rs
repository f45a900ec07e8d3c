//! Server-server API, "Inviting to a room", "Joining rooms", "Leaving rooms", "Knocking upon a room".

use axum::{extract::State, response::Response};
use myelin_rooms::Handed;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::Signed,
    request::{Json, Path, Query, from_json, pdu_response},
};

/// The room versions that the asking server names.
fn versions(parameters: Vec<(String, String)>) -> Vec<String> {
    let named = parameters.into_iter().filter(|(name, _)| name == "ver");
    named.map(|(_, version)| version).collect()
}

pub(crate) async fn make_join(
    State(api): State<Api>,
    Path((room_id, user)): Path<(OwnedRoomId, OwnedUserId)>,
    Query(parameters): Query<Vec<(String, String)>>,
    request: Signed,
) -> Result<Json<Value>, ApiError> {
    let versions = versions(parameters);
    let rooms = api.rooms();
    let template = rooms.make_join(&request.origin, &room_id, &user, &versions);
    Ok(Json(template.await?))
}

pub(crate) async fn make_leave(
    State(api): State<Api>,
    Path((room_id, user)): Path<(OwnedRoomId, OwnedUserId)>,
    request: Signed,
) -> Result<Json<Value>, ApiError> {
    let template = api.rooms().make_leave(&request.origin, &room_id, &user);
    Ok(Json(template.await?))
}

pub(crate) async fn make_knock(
    State(api): State<Api>,
    Path((room_id, user)): Path<(OwnedRoomId, OwnedUserId)>,
    Query(parameters): Query<Vec<(String, String)>>,
    request: Signed,
) -> Result<Json<Value>, ApiError> {
    let versions = versions(parameters);
    let rooms = api.rooms();
    let template = rooms.make_knock(&request.origin, &room_id, &user, &versions);
    Ok(Json(template.await?))
}

#[derive(Deserialize)]
pub(crate) struct JoinParameters {
    #[serde(default)]
    omit_members: bool,
}

pub(crate) async fn send_join(
    State(api): State<Api>,
    Path(place): Path<(OwnedRoomId, OwnedEventId)>,
    Query(parameters): Query<JoinParameters>,
    request: Signed,
) -> Result<Response, ApiError> {
    let handed = handed(&request, &place);
    let answer = api.rooms().send_join(handed, parameters.omit_members);
    Ok(pdu_response(answer.await?))
}

pub(crate) async fn send_join_v1(
    State(api): State<Api>,
    Path(place): Path<(OwnedRoomId, OwnedEventId)>,
    request: Signed,
) -> Result<Response, ApiError> {
    let answer = api.rooms().send_join(handed(&request, &place), false);
    Ok(pdu_response(answer.await?.behind_status()))
}

pub(crate) async fn send_leave(
    State(api): State<Api>,
    Path(place): Path<(OwnedRoomId, OwnedEventId)>,
    request: Signed,
) -> Result<Json<Value>, ApiError> {
    api.rooms().send_leave(handed(&request, &place)).await?;
    Ok(Json(json!({})))
}

pub(crate) async fn send_leave_v1(
    State(api): State<Api>,
    Path(place): Path<(OwnedRoomId, OwnedEventId)>,
    request: Signed,
) -> Result<Json<Value>, ApiError> {
    api.rooms().send_leave(handed(&request, &place)).await?;
    Ok(Json(json!([200, {}])))
}

pub(crate) async fn send_knock(
    State(api): State<Api>,
    Path(place): Path<(OwnedRoomId, OwnedEventId)>,
    request: Signed,
) -> Result<Response, ApiError> {
    let answer = api.rooms().send_knock(handed(&request, &place));
    Ok(pdu_response(answer.await?))
}

#[derive(Deserialize)]
struct Invitation {
    event: Invite,
}

#[derive(Deserialize)]
struct Invite {
    state_key: Option<String>,
}

pub(crate) async fn invite(
    State(api): State<Api>,
    Path(place): Path<(OwnedRoomId, OwnedEventId)>,
    request: Signed,
) -> Result<Json<Value>, ApiError> {
    let invitation: Invitation = from_json(&request.body)?;
    let invited = invitation.event.state_key.map(OwnedUserId::try_from);
    if let Some(Ok(invited)) = invited
        && invited.server_name() == api.rooms().server_name()
    {
        // An invite for nobody is not kept.
        api.users().local_profile(&invited).await?;
    }
    let answer = api.rooms().receive_invite(handed(&request, &place));
    Ok(Json(answer.await?))
}

fn handed<'a>(
    request: &'a Signed,
    (room_id, event_id): &'a (OwnedRoomId, OwnedEventId),
) -> Handed<'a> {
    Handed {
        origin: &request.origin,
        room_id,
        event_id,
        body: &request.body,
    }
}
