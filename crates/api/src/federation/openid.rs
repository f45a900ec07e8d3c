//! Server-server API, "OpenID".

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    request::{Json, Query},
};

#[derive(Deserialize)]
pub(crate) struct Parameters {
    access_token: Option<String>,
}

pub(crate) async fn user_info(
    State(api): State<Api>,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Value>, ApiError> {
    let token = parameters
        .access_token
        .ok_or_else(ApiError::missing_token)?;
    let user = api.users().openid_user(&token).await?;
    let user = user.ok_or_else(ApiError::unknown_token)?;
    Ok(Json(json!({ "sub": user })))
}
