//! "Show reported events".

use axum::extract::State;
use myelin_storage::reports::Report;
use myelin_sync::EventJson;
use myelin_users::ReportsWanted;
use ruma::{EventId, RoomId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dir, row_limit};
use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct ListParameters {
    from: Option<u64>,
    limit: Option<u64>,
    dir: Option<Dir>,
    user_id: Option<String>,
    room_id: Option<String>,
    event_sender_user_id: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    Query(parameters): Query<ListParameters>,
) -> Result<Json<Value>, ApiError> {
    let skip = parameters.from.unwrap_or(0);
    let wanted = ReportsWanted {
        reporter: parameters.user_id,
        room_id: parameters.room_id,
        sender: parameters.event_sender_user_id,
        newest_first: parameters.dir != Some(Dir::Forwards),
        skip,
        limit: row_limit(parameters.limit),
    };
    let (reports, total) = api.users().event_reports(wanted).await?;
    let mut rows = Vec::with_capacity(reports.len());
    for report in &reports {
        rows.push(row(&api, report).await?);
    }
    let next = skip + reports.len() as u64;
    let mut answer = json!({ "event_reports": rows, "total": total });
    if next < total {
        answer["next_token"] = json!(next);
    }
    Ok(Json(answer))
}

pub(crate) async fn one(
    State(api): State<Api>,
    User(requester): User,
    Path(report_id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let report = api.users().event_report(number(&report_id)?).await?;
    let mut shown = row(&api, &report).await?;
    let room = report.room_id.as_deref().map(<&RoomId>::try_from);
    let event = report.event_id.as_deref().map(<&EventId>::try_from);
    let found: Option<EventJson> = match (room, event) {
        (Some(Ok(room)), Some(Ok(event))) => {
            api.sync().event_for_admin(&requester, room, event).await?
        }
        _ => None,
    };
    shown["event_json"] = json!(found);
    Ok(Json(shown))
}

pub(crate) async fn remove(
    State(api): State<Api>,
    Path(report_id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let report = number(&report_id)?;
    api.users().remove_event_report(report).await?;
    Ok(Json(json!({})))
}

fn number(report_id: &str) -> Result<u64, ApiError> {
    let why = "The report_id parameter must be a string representing a positive integer.";
    report_id.parse().map_err(|_| ApiError::invalid_param(why))
}

/// A report with what the room is called now.
async fn row(api: &Api, report: &Report) -> Result<Value, ApiError> {
    let room = report.room_id.as_deref().map(<&RoomId>::try_from);
    let room = match room {
        Some(Ok(room)) => api.sync().profile_of_room(room).await?,
        _ => None,
    };
    let room = room.as_ref();
    Ok(json!({
        "id": report.report.parse::<u64>().ok(),
        "received_ts": report.created_ms,
        "room_id": report.room_id,
        "event_id": report.event_id,
        "user_id": report.reporter,
        "sender": report.user_id,
        "reason": report.reason,
        "name": room.and_then(|room| room.name.as_ref()),
        "canonical_alias": room.and_then(|room| room.canonical_alias.as_ref()),
    }))
}
