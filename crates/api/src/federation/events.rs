//! Server-server API, "Retrieving events", "Backfilling and retrieving missing events" and
//! "Authorization rules".

use axum::{extract::State, response::Response};
use ruma::{EventId, OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use crate::{
    Api, ApiError,
    admission::Signed,
    client::events::MomentParameters,
    request::{Path, Query, json_response, pdu_response},
};

pub(crate) async fn event(
    State(api): State<Api>,
    Path(event_id): Path<OwnedEventId>,
    request: Signed,
) -> Result<Response, ApiError> {
    let answer = api.rooms().serve_event(&request.origin, &event_id).await?;
    Ok(json_response(answer))
}

pub(crate) async fn event_auth(
    State(api): State<Api>,
    Path((room_id, event_id)): Path<(OwnedRoomId, OwnedEventId)>,
    request: Signed,
) -> Result<Response, ApiError> {
    let rooms = api.rooms();
    let answer = rooms
        .serve_event_auth(&request.origin, &room_id, &event_id)
        .await?;
    Ok(pdu_response(answer))
}

#[derive(Deserialize)]
pub(crate) struct StateParameters {
    event_id: OwnedEventId,
}

pub(crate) async fn state(
    State(api): State<Api>,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<StateParameters>,
    request: Signed,
) -> Result<Response, ApiError> {
    let rooms = api.rooms();
    let answer = rooms
        .serve_state(&request.origin, &room_id, &parameters.event_id)
        .await?;
    Ok(pdu_response(answer))
}

pub(crate) async fn state_ids(
    State(api): State<Api>,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<StateParameters>,
    request: Signed,
) -> Result<Response, ApiError> {
    let rooms = api.rooms();
    let answer = rooms
        .serve_state_ids(&request.origin, &room_id, &parameters.event_id)
        .await?;
    Ok(json_response(answer))
}

pub(crate) async fn missing_events(
    State(api): State<Api>,
    Path(room_id): Path<OwnedRoomId>,
    request: Signed,
) -> Result<Response, ApiError> {
    let rooms = api.rooms();
    let answer = rooms
        .serve_missing_events(&request.origin, &room_id, &request.body)
        .await?;
    Ok(json_response(answer))
}

pub(crate) async fn event_at(
    State(api): State<Api>,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<MomentParameters>,
    request: Signed,
) -> Result<Response, ApiError> {
    let rooms = api.rooms();
    let answer = rooms
        .serve_event_at(&request.origin, &room_id, parameters.into())
        .await?;
    Ok(json_response(answer))
}

pub(crate) async fn backfill(
    State(api): State<Api>,
    Path(room_id): Path<OwnedRoomId>,
    Query(parameters): Query<Vec<(String, String)>>,
    request: Signed,
) -> Result<Response, ApiError> {
    let mut from = Vec::new();
    let mut limit = None;
    for (name, value) in &parameters {
        match name.as_str() {
            "v" => from.push(EventId::parse(value).map_err(|error| invalid("v", &error))?),
            "limit" => limit = Some(value.parse().map_err(|error| invalid("limit", &error))?),
            _ => {}
        }
    }
    if from.is_empty() {
        return Err(ApiError::missing_param("v"));
    }
    let limit = limit.ok_or_else(|| ApiError::missing_param("limit"))?;
    let rooms = api.rooms();
    let answer = rooms
        .serve_backfill(&request.origin, &room_id, from, limit)
        .await?;
    Ok(json_response(answer))
}

fn invalid(name: &str, why: &dyn std::fmt::Display) -> ApiError {
    ApiError::invalid_param(format!("{name}: {why}"))
}
