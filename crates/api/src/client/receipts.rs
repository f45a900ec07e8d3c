//! Client-server API, "Receipts" and "Fully read markers".

use axum::extract::State;
use myelin_rooms::{Mark, ReceiptType};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Api, ApiError,
    admission::Active,
    request::{Json, OptionalJson, Path},
};

pub(crate) async fn send(
    State(api): State<Api>,
    Active(requester): Active,
    Path((room_id, receipt_type, event_id)): Path<(OwnedRoomId, String, OwnedEventId)>,
    OptionalJson(body): OptionalJson<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    let receipt_type = ReceiptType::from_name(&receipt_type)
        .ok_or_else(|| ApiError::invalid_param("There is no such type of receipts"))?;
    let thread = match body.get("thread_id") {
        None => None,
        Some(Value::String(thread)) if !thread.is_empty() => Some(thread.clone()),
        Some(_) => {
            let message = "thread_id field must be a non-empty string";
            return Err(ApiError::invalid_param(message));
        }
    };
    if thread.is_some() && receipt_type == ReceiptType::FullyRead {
        let message = "m.fully_read is for no thread";
        return Err(ApiError::invalid_param(message));
    }
    let mark = Mark {
        receipt_type,
        event_id,
        thread,
    };
    let rooms = api.rooms();
    rooms
        .mark_read(&room_id, &requester.user_id, vec![mark])
        .await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
pub(crate) struct Markers {
    #[serde(rename = "m.fully_read")]
    fully_read: Option<OwnedEventId>,
    #[serde(rename = "m.read")]
    read: Option<OwnedEventId>,
    #[serde(rename = "m.read.private")]
    private_read: Option<OwnedEventId>,
}

pub(crate) async fn set_markers(
    State(api): State<Api>,
    Active(requester): Active,
    Path(room_id): Path<OwnedRoomId>,
    Json(markers): Json<Markers>,
) -> Result<Json<Value>, ApiError> {
    let given = [
        (ReceiptType::FullyRead, markers.fully_read),
        (ReceiptType::Read, markers.read),
        (ReceiptType::PrivateRead, markers.private_read),
    ];
    let marks = given.into_iter().filter_map(|(receipt_type, event_id)| {
        Some(Mark {
            receipt_type,
            event_id: event_id?,
            thread: None,
        })
    });
    let rooms = api.rooms();
    rooms
        .mark_read(&room_id, &requester.user_id, marks.collect())
        .await?;
    Ok(Json(json!({})))
}
