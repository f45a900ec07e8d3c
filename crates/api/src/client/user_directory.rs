//! Client-server API, "User Directory".

use axum::extract::State;
use myelin_sync::{UserSearchRequest, UsersFound};
use serde::Deserialize;

use crate::{Api, ApiError, admission::User, request::Json};

#[derive(Deserialize)]
pub(crate) struct Wish {
    search_term: String,
    limit: Option<u64>,
}

pub(crate) async fn search(
    State(api): State<Api>,
    User(viewer): User,
    Json(Wish { search_term, limit }): Json<Wish>,
) -> Result<Json<UsersFound>, ApiError> {
    let request = UserSearchRequest {
        viewer,
        search_term,
        limit,
    };
    Ok(Json(api.sync().search_users(&request).await?))
}
