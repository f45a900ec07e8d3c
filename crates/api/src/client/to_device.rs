//! Client-server API, "Send-to-Device messaging".

use axum::extract::State;
use myelin_users::Messages;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

#[derive(Deserialize)]
pub(crate) struct Body {
    messages: Messages,
}

pub(crate) async fn send(
    State(api): State<Api>,
    User(requester): User,
    Path((event_type, txn_id)): Path<(String, String)>,
    Json(body): Json<Body>,
) -> Result<Json<Value>, ApiError> {
    let servers = api
        .users()
        .send_to_device(&requester, &event_type, &txn_id, body.messages)
        .await?;
    api.rooms().send_waiting_edus(&servers);
    Ok(Json(json!({})))
}
