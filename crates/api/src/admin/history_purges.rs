//! "Purge History API".

use axum::extract::State;
use myelin_rooms::{PurgeUpTo, RoomError};
use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    request::{Json, OptionalJson, Path},
};

#[derive(Default, Deserialize)]
pub(crate) struct Wish {
    #[serde(default)]
    delete_local_events: bool,
    purge_up_to_event_id: Option<OwnedEventId>,
    purge_up_to_ts: Option<i64>,
}

pub(crate) async fn purge(
    State(api): State<Api>,
    Path(room): Path<OwnedRoomId>,
    OptionalJson(wish): OptionalJson<Wish>,
) -> Result<Json<Value>, ApiError> {
    begin(&api, room, None, wish).await
}

pub(crate) async fn purge_up_to_event(
    State(api): State<Api>,
    Path((room, event)): Path<(OwnedRoomId, OwnedEventId)>,
    OptionalJson(wish): OptionalJson<Wish>,
) -> Result<Json<Value>, ApiError> {
    begin(&api, room, Some(event), wish).await
}

async fn begin(
    api: &Api,
    room: OwnedRoomId,
    event: Option<OwnedEventId>,
    wish: Wish,
) -> Result<Json<Value>, ApiError> {
    let up_to = match (event.or(wish.purge_up_to_event_id), wish.purge_up_to_ts) {
        (Some(event), _) => PurgeUpTo::Event(event),
        (None, Some(ts)) => PurgeUpTo::Time(ts),
        (None, None) => {
            let why = "must specify purge_up_to_event_id or purge_up_to_ts";
            return Err(ApiError::bad_json(why));
        }
    };
    let begun = api
        .rooms()
        .purge_history(&room, up_to, wish.delete_local_events);
    match begun.await {
        Ok(id) => Ok(Json(json!({ "purge_id": id }))),
        Err(RoomError::BadState(why)) => Err(ApiError::unknown(why)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn status(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let found = api.rooms().history_purge(&id).await?;
    let missing = || ApiError::not_found(format!("purge id '{id}' not found"));
    let purge = found.ok_or_else(missing)?;
    let mut answer = json!({ "status": purge.status.name() });
    if let Some(error) = purge.error {
        answer["error"] = json!(error);
    }
    Ok(Json(answer))
}
