//! Client-server API, "Filtering".

use axum::extract::State;
use myelin_sync::{Filter, SyncError};
use ruma::OwnedUserId;
use serde_json::{Value, json, value::RawValue};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

pub(crate) async fn store_filter(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
    Json(filter): Json<Box<RawValue>>,
) -> Result<Json<Value>, ApiError> {
    if requester.user_id != user {
        return Err(ApiError::forbidden(
            "Filters can only be stored for oneself",
        ));
    }
    if let Err(SyncError::InvalidParam(why)) = Filter::parse(filter.get()) {
        return Err(ApiError::bad_json(why));
    }
    let filter_id = api.users().store_filter(user, filter).await?;
    Ok(Json(json!({ "filter_id": filter_id })))
}

pub(crate) async fn filter(
    State(api): State<Api>,
    User(requester): User,
    Path((user, filter_id)): Path<(OwnedUserId, String)>,
) -> Result<Json<Box<RawValue>>, ApiError> {
    if requester.user_id != user {
        return Err(ApiError::forbidden("These are another user's filters"));
    }
    Ok(Json(api.users().filter(user, &filter_id).await?))
}
