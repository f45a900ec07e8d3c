//! "Federation API". This server keeps rows of those servers only to which requests have failed.

use axum::extract::State;
use myelin_storage::destinations::{Destination, DestinationsWanted, SortBy};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dir, row_limit};
use crate::{
    Api, ApiError,
    request::{Json, OptionalJson, Path, Query},
};

#[derive(Deserialize)]
pub(crate) struct ListParameters {
    from: Option<u64>,
    limit: Option<u64>,
    destination: Option<String>,
    order_by: Option<OrderBy>,
    dir: Option<Dir>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderBy {
    Destination,
    RetryLastTs,
    RetryInterval,
    FailureTs,
    LastSuccessfulStreamOrdering,
}

impl From<OrderBy> for SortBy {
    fn from(order_by: OrderBy) -> Self {
        match order_by {
            OrderBy::Destination => Self::Name,
            OrderBy::RetryLastTs => Self::LastFailure,
            OrderBy::RetryInterval => Self::Wait,
            OrderBy::FailureTs => Self::FailingSince,
            OrderBy::LastSuccessfulStreamOrdering => Self::Position,
        }
    }
}

pub(crate) async fn list(
    State(api): State<Api>,
    Query(parameters): Query<ListParameters>,
) -> Result<Json<Value>, ApiError> {
    let skip = parameters.from.unwrap_or(0);
    let wanted = DestinationsWanted {
        name: parameters.destination.filter(|name| !name.is_empty()),
        sort_by: parameters.order_by.map_or(SortBy::Name, SortBy::from),
        descending: parameters.dir == Some(Dir::Backwards),
        skip,
        limit: row_limit(parameters.limit),
    };
    let (destinations, total) = api.federation().destination_list(wanted).await?;
    let next = skip + destinations.len() as u64;
    let shown: Vec<Value> = destinations.iter().map(row).collect();
    let mut answer = json!({ "destinations": shown, "total": total });
    if next < total {
        answer["next_token"] = json!(next.to_string());
    }
    Ok(Json(answer))
}

pub(crate) async fn one(
    State(api): State<Api>,
    Path(server): Path<OwnedServerName>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(row(&known(&api, &server).await?)))
}

/// Has a server tried at once that was left alone.
pub(crate) async fn reset(
    State(api): State<Api>,
    Path(server): Path<OwnedServerName>,
    OptionalJson(_): OptionalJson<Value>,
) -> Result<Json<Value>, ApiError> {
    if known(&api, &server).await?.failing.is_none() {
        let why = "The retry timing does not need to be reset for this destination.";
        return Err(ApiError::unknown(why));
    }
    api.federation().mark_alive(&server).await?;
    Ok(Json(json!({})))
}

async fn known(api: &Api, server: &ServerName) -> Result<Destination, ApiError> {
    let found = api.federation().destination(server).await?;
    found.ok_or_else(|| ApiError::not_found("Unknown destination"))
}

/// A server as administrators see it. When it was tried last is known to a tenth of its pause.
fn row(destination: &Destination) -> Value {
    let failing = destination.failing;
    json!({
        "destination": destination.server,
        "failure_ts": failing.map(|failing| failing.since_ms),
        "retry_last_ts": failing.map_or(0, |failing| failing.retry_at_ms.saturating_sub(failing.wait_ms)),
        "retry_interval": failing.map_or(0, |failing| failing.wait_ms),
        "last_successful_stream_ordering": destination.position.map(|position| position.0),
    })
}
