//! Client-server API, "Server administration".

use axum::extract::State;
use ruma::OwnedUserId;
use serde_json::{Map, Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

/// What is known of how a user uses this server; for the user, and for administrators.
pub(crate) async fn who_is(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
) -> Result<Json<Value>, ApiError> {
    if requester.user_id != user && !requester.admin {
        return Err(ApiError::no_admin());
    }
    let list = api.users().device_list(&user).await?;
    let devices: Map<String, Value> = list
        .devices
        .iter()
        .map(|device| {
            let mut connection = Map::new();
            if let Some(last_seen_ms) = device.last_seen_ms {
                connection.insert("last_seen".to_owned(), last_seen_ms.into());
            }
            if let Some(address) = &device.last_seen_ip {
                connection.insert("ip".to_owned(), json!(address));
            }
            if let Some(user_agent) = &device.user_agent {
                connection.insert("user_agent".to_owned(), json!(user_agent));
            }
            let sessions = json!({ "sessions": [{ "connections": [connection] }] });
            (device.device_id.to_string(), sessions)
        })
        .collect();
    Ok(Json(json!({ "user_id": user, "devices": devices })))
}
