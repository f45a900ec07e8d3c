//! Client-server API, "Reporting content".

use axum::extract::State;
use myelin_users::{Reported, Requester};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path},
};

#[derive(Deserialize)]
pub(crate) struct Report {
    reason: Option<String>,
}

impl Report {
    /// Where a reason has to be given, it may be empty.
    fn with_reason(self) -> Result<Option<String>, ApiError> {
        match self.reason {
            None => Err(ApiError::missing_param("reason")),
            reason => Ok(reason),
        }
    }
}

#[derive(Deserialize)]
struct Seen {
    sender: OwnedUserId,
}

pub(crate) async fn room(
    State(api): State<Api>,
    User(requester): User,
    Path(room): Path<OwnedRoomId>,
    Json(report): Json<Report>,
) -> Result<Json<Value>, ApiError> {
    let reason = report.with_reason()?;
    if api.rooms().room(&room).await?.is_none() {
        return Err(ApiError::not_found("The room was not found"));
    }
    keep(&api, &requester, Reported::Room(room), reason).await
}

pub(crate) async fn event(
    State(api): State<Api>,
    User(requester): User,
    Path((room, event)): Path<(OwnedRoomId, OwnedEventId)>,
    Json(report): Json<Report>,
) -> Result<Json<Value>, ApiError> {
    // Who can't see the event can't report it.
    let seen = api.sync().event(&requester, &room, &event).await?;
    let Seen { sender } = serde_json::from_str(seen.get()).map_err(|error| {
        tracing::error!(%event, %error, "an event has no sender");
        ApiError::internal()
    })?;
    let what = Reported::Event(room, event, sender);
    keep(&api, &requester, what, report.reason).await
}

pub(crate) async fn user(
    State(api): State<Api>,
    User(requester): User,
    Path(user): Path<OwnedUserId>,
    Json(report): Json<Report>,
) -> Result<Json<Value>, ApiError> {
    let reason = report.with_reason()?;
    keep(&api, &requester, Reported::User(user), reason).await
}

async fn keep(
    api: &Api,
    requester: &Requester,
    what: Reported,
    reason: Option<String>,
) -> Result<Json<Value>, ApiError> {
    api.users().report(requester, what, reason).await?;
    Ok(Json(json!({})))
}
