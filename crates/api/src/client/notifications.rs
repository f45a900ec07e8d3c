//! Client-server API, "Listing notifications".

use axum::extract::State;
use myelin_sync::{Notifications, NotificationsRequest};
use serde::Deserialize;

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Query},
};

#[derive(Deserialize)]
pub(crate) struct Parameters {
    from: Option<String>,
    limit: Option<u64>,
    only: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    User(viewer): User,
    Query(parameters): Query<Parameters>,
) -> Result<Json<Notifications>, ApiError> {
    let request = NotificationsRequest {
        viewer,
        from: parameters.from.as_deref().map(str::parse).transpose()?,
        limit: parameters.limit,
        // Nothing else is defined, and so nothing else narrows the list.
        only_highlights: parameters.only.as_deref() == Some("highlight"),
    };
    Ok(Json(api.sync().notifications(&request).await?))
}
