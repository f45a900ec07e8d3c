//! Client-server API, "Server Side Search".

use axum::extract::State;
use myelin_sync::{SearchCriteria, SearchRequest, SearchResults};
use serde::{Deserialize, Serialize};

use crate::{
    Api, ApiError,
    admission::User,
    request::{Json, Query},
};

#[derive(Deserialize)]
pub(crate) struct Parameters {
    next_batch: Option<String>,
}

/// What is looked for, or found, of each kind. There is one kind.
#[derive(Deserialize, Serialize)]
pub(crate) struct Search<T> {
    search_categories: Categories<T>,
}

#[derive(Deserialize, Serialize)]
struct Categories<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    room_events: Option<T>,
}

pub(crate) async fn search(
    State(api): State<Api>,
    User(viewer): User,
    Query(Parameters { next_batch }): Query<Parameters>,
    Json(search): Json<Search<SearchCriteria>>,
) -> Result<Json<Search<SearchResults>>, ApiError> {
    let from = next_batch.as_deref().map(str::parse).transpose()?;
    let room_events = match search.search_categories.room_events {
        Some(criteria) => {
            let request = SearchRequest {
                viewer,
                from,
                criteria,
            };
            Some(api.sync().search(&request).await?)
        }
        None => None,
    };
    Ok(Json(Search {
        search_categories: Categories { room_events },
    }))
}
