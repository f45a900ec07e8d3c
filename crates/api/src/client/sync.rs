//! Client-server API, "Syncing".

use std::time::Duration;

use axum::extract::State;
use myelin_rooms::PresenceState;
use myelin_sync::{Filter, SyncRequest, SyncResponse, SyncToken};
use myelin_users::Requester;
use serde::Deserialize;

use crate::{
    Api, ApiError,
    admission::{User, device},
    request::{Json, Query},
};

#[derive(Deserialize)]
pub(crate) struct SyncParameters {
    filter: Option<String>,
    since: Option<String>,
    #[serde(default)]
    full_state: bool,
    #[serde(default)]
    use_state_after: bool,
    /// In milliseconds.
    #[serde(default)]
    timeout: u64,
    set_presence: Option<PresenceState>,
}

pub(crate) async fn sync(
    State(api): State<Api>,
    User(viewer): User,
    Query(parameters): Query<SyncParameters>,
) -> Result<Json<SyncResponse>, ApiError> {
    // An empty token is what some clients send at first.
    let since = parameters.since.filter(|since| !since.is_empty());
    let since: Option<SyncToken> = since.as_deref().map(str::parse).transpose()?;
    if let Some(since) = since {
        // It has what it was given up to there.
        api.users().empty_inbox(&viewer, since.to_device).await?;
    }
    let request = SyncRequest {
        filter: read_filter(&api, &viewer, parameters.filter).await?,
        viewer: viewer.clone(),
        since,
        full_state: parameters.full_state,
        use_state_after: parameters.use_state_after,
        timeout: Duration::from_millis(parameters.timeout),
    };
    let state = parameters.set_presence.unwrap_or(PresenceState::Online);
    let _syncing = api.rooms().syncs(device(&viewer), state);
    let mut answer = api.sync().sync(&request).await?;
    let keys = api.users().keys_left(&viewer).await?;
    answer.device_one_time_keys_count = keys.one_time;
    answer.device_unused_fallback_key_types = Some(keys.unused_fallback.into_iter().collect());
    Ok(Json(answer))
}

/// A filter is given as it is, or by the ID under which it was stored.
async fn read_filter(
    api: &Api,
    viewer: &Requester,
    given: Option<String>,
) -> Result<Filter, ApiError> {
    match given {
        None => Ok(Filter::default()),
        Some(filter) if filter.starts_with('{') => Ok(Filter::parse(&filter)?),
        Some(id) => {
            let stored = api.users().filter(viewer.user_id.clone(), &id).await?;
            Ok(Filter::parse(stored.get())?)
        }
    }
}
