//! Client-server API, "OpenID".

use axum::extract::State;
use myelin_users::OPENID_LIFETIME_MS;
use ruma::OwnedUserId;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, OptionalJson, Path},
};

pub(crate) async fn request_token(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
    OptionalJson(_): OptionalJson<Value>,
) -> Result<Json<Value>, ApiError> {
    if requester.user_id != user {
        return Err(ApiError::forbidden("You can prove only who you are"));
    }
    let token = api.users().openid_token(&requester).await?;
    Ok(Json(json!({
        "access_token": token,
        "token_type": "Bearer",
        "matrix_server_name": api.users().server_name(),
        "expires_in": OPENID_LIFETIME_MS / 1000,
    })))
}
