//! Client-server API, "Sending events to a room" and "Redactions".

use axum::extract::State;
use myelin_rooms::{NewEvent, mark_as_guest};
use myelin_storage::client_transactions::ClientTransaction;
use myelin_users::Requester;
use ruma::{OwnedEventId, OwnedRoomId, RoomId};
use serde::Deserialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    Api, ApiError,
    admission::Active,
    request::{Json, OptionalJson, Path},
};

/// What a redaction names in its content, from room version 11 on.
#[derive(Deserialize)]
struct Redacts {
    redacts: Option<OwnedEventId>,
}

pub(crate) async fn send(
    State(api): State<Api>,
    Active(requester): Active,
    Path((room_id, event_type, txn_id)): Path<(OwnedRoomId, String, String)>,
    Json(content): Json<Box<RawValue>>,
) -> Result<Json<Value>, ApiError> {
    let redacts = match event_type.as_str() {
        "m.room.redaction" => redacted_by(&content)?,
        _ => None,
    };
    let path = format!("{room_id}/send/{event_type}/{txn_id}");
    let event = NewEvent {
        sender: requester.user_id.clone(),
        event_type,
        state_key: None,
        content,
        redacts,
        transaction: Some(transaction(&requester, path)),
    };
    send_event(&api, &room_id, event).await
}

fn redacted_by(content: &RawValue) -> Result<Option<OwnedEventId>, ApiError> {
    let redaction: Redacts = serde_json::from_str(content.get())
        .map_err(|error| ApiError::bad_json(format!("redacts: {error}")))?;
    Ok(redaction.redacts)
}

pub(crate) async fn redact(
    State(api): State<Api>,
    Active(requester): Active,
    Path((room_id, event_id, txn_id)): Path<(OwnedRoomId, OwnedEventId, String)>,
    OptionalJson(content): OptionalJson<Box<RawValue>>,
) -> Result<Json<Value>, ApiError> {
    let path = format!("{room_id}/redact/{event_id}/{txn_id}");
    let event = NewEvent {
        sender: requester.user_id.clone(),
        event_type: "m.room.redaction".to_owned(),
        state_key: None,
        content,
        redacts: Some(event_id),
        transaction: Some(transaction(&requester, path)),
    };
    send_event(&api, &room_id, event).await
}

/// With this a repeated request sends nothing twice.
fn transaction(requester: &Requester, path: String) -> ClientTransaction {
    ClientTransaction {
        device_id: requester.device_id.to_string(),
        path,
    }
}

pub(crate) async fn set_state(
    State(api): State<Api>,
    Active(requester): Active,
    Path((room_id, event_type, state_key)): Path<(OwnedRoomId, String, String)>,
    Json(mut content): Json<Box<RawValue>>,
) -> Result<Json<Value>, ApiError> {
    if requester.guest && event_type == "m.room.member" && requester.user_id == *state_key {
        content = marked_as_guest(&content)?;
    }
    let event = NewEvent {
        sender: requester.user_id,
        event_type,
        state_key: Some(state_key),
        content,
        redacts: None,
        transaction: None,
    };
    send_event(&api, &room_id, event).await
}

fn marked_as_guest(content: &RawValue) -> Result<Box<RawValue>, ApiError> {
    let bad_json = |error: serde_json::Error| ApiError::bad_json(error.to_string());
    let mut content: Map<String, Value> = serde_json::from_str(content.get()).map_err(bad_json)?;
    mark_as_guest(&mut content);
    to_raw_value(&content).map_err(bad_json)
}

pub(crate) async fn set_state_without_key(
    api: State<Api>,
    user: Active,
    Path((room_id, event_type)): Path<(OwnedRoomId, String)>,
    content: Json<Box<RawValue>>,
) -> Result<Json<Value>, ApiError> {
    set_state(
        api,
        user,
        Path((room_id, event_type, String::new())),
        content,
    )
    .await
}

async fn send_event(api: &Api, room_id: &RoomId, event: NewEvent) -> Result<Json<Value>, ApiError> {
    let span = tracing::Span::current();
    span.record("room", room_id.as_str());
    let event_id = api.rooms().send(room_id, event).await?;
    span.record("event", event_id.as_str());
    Ok(Json(json!({ "event_id": event_id })))
}
