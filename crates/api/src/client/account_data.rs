//! Client-server API, "Client Config" and "Room Tagging".

use axum::extract::State;
use myelin_users::Requester;
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

fn must_be_own(requester: &Requester, user: &UserId) -> Result<(), ApiError> {
    if requester.user_id == user {
        return Ok(());
    }
    Err(ApiError::forbidden("These are another user's settings"))
}

pub(crate) async fn data(
    State(api): State<Api>,
    User(requester): User,
    Path((user, data_type)): Path<(OwnedUserId, String)>,
) -> Result<Json<Box<RawValue>>, ApiError> {
    must_be_own(&requester, &user)?;
    let content = api.users().account_data(&user, None, &data_type).await?;
    Ok(Json(content))
}

pub(crate) async fn set_data(
    State(api): State<Api>,
    User(requester): User,
    Path((user, data_type)): Path<(OwnedUserId, String)>,
    Json(content): Json<Box<RawValue>>,
) -> Result<Json<Value>, ApiError> {
    must_be_own(&requester, &user)?;
    let users = api.users();
    users
        .put_account_data(&user, None, &data_type, &content)
        .await?;
    Ok(Json(json!({})))
}

pub(crate) async fn room_data(
    State(api): State<Api>,
    User(requester): User,
    Path((user, room_id, data_type)): Path<(OwnedUserId, OwnedRoomId, String)>,
) -> Result<Json<Box<RawValue>>, ApiError> {
    must_be_own(&requester, &user)?;
    let users = api.users();
    let content = users.account_data(&user, Some(room_id), &data_type).await?;
    Ok(Json(content))
}

pub(crate) async fn set_room_data(
    State(api): State<Api>,
    User(requester): User,
    Path((user, room_id, data_type)): Path<(OwnedUserId, OwnedRoomId, String)>,
    Json(content): Json<Box<RawValue>>,
) -> Result<Json<Value>, ApiError> {
    must_be_own(&requester, &user)?;
    let users = api.users();
    users
        .put_account_data(&user, Some(room_id), &data_type, &content)
        .await?;
    Ok(Json(json!({})))
}

pub(crate) async fn tags(
    State(api): State<Api>,
    User(requester): User,
    Path((user, room_id)): Path<(OwnedUserId, OwnedRoomId)>,
) -> Result<Json<Value>, ApiError> {
    must_be_own(&requester, &user)?;
    let tags = api.users().tags(&user, room_id).await?;
    Ok(Json(json!({ "tags": tags })))
}

pub(crate) async fn set_tag(
    State(api): State<Api>,
    User(requester): User,
    Path((user, room_id, tag)): Path<(OwnedUserId, OwnedRoomId, String)>,
    Json(about): Json<Map<String, Value>>,
) -> Result<Json<Value>, ApiError> {
    must_be_own(&requester, &user)?;
    if about.get("order").is_some_and(|order| !order.is_number()) {
        return Err(ApiError::invalid_param("order is not a number"));
    }
    let users = api.users();
    users.set_tag(&user, room_id, tag, Some(about)).await?;
    Ok(Json(json!({})))
}

pub(crate) async fn remove_tag(
    State(api): State<Api>,
    User(requester): User,
    Path((user, room_id, tag)): Path<(OwnedUserId, OwnedRoomId, String)>,
) -> Result<Json<Value>, ApiError> {
    must_be_own(&requester, &user)?;
    api.users().set_tag(&user, room_id, tag, None).await?;
    Ok(Json(json!({})))
}
