//! Server-server API, "Retrieving server keys": those of this server, and as a notary those of others.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use myelin_federation::{KeyCriterion, KeyQuery};
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, OwnedServerSigningKeyId};
use serde::{Deserialize, Serialize};

use crate::{
    Api, ApiError,
    request::{Json, Path, Query, json_response},
};

pub(crate) async fn own(State(api): State<Api>) -> Response {
    let now_ms = api.env().clock.now_ms();
    let document = api.federation().signing_keys().document(now_ms);
    json_response(CanonicalJsonValue::Object(document).to_string())
}

#[derive(Deserialize)]
pub(crate) struct Age {
    minimum_valid_until_ts: Option<u64>,
}

#[derive(Deserialize)]
pub(crate) struct Wanted {
    server_keys: BTreeMap<OwnedServerName, BTreeMap<String, Age>>,
}

#[derive(Serialize)]
pub(crate) struct Answer {
    server_keys: Vec<CanonicalJsonObject>,
}

pub(crate) async fn of_server(
    State(api): State<Api>,
    Path(server): Path<OwnedServerName>,
    Query(age): Query<Age>,
) -> Result<Json<Answer>, ApiError> {
    let wanted = vec![criterion(None, &age)];
    answer(&api, vec![KeyQuery { server, wanted }]).await
}

pub(crate) async fn of_servers(
    State(api): State<Api>,
    Json(wanted): Json<Wanted>,
) -> Result<Json<Answer>, ApiError> {
    let queries = wanted.server_keys.into_iter().map(|(server, keys)| {
        let any = keys.is_empty().then_some(KeyCriterion {
            key_id: None,
            minimum_valid_until_ms: None,
        });
        // What is no key ID is no server's; whoever asks took it from an event that somebody else made.
        let named = keys.iter().filter_map(|(key_id, age)| {
            let key_id = key_id.as_str().try_into().ok()?;
            Some(criterion(Some(key_id), age))
        });
        let wanted = any.into_iter().chain(named).collect();
        KeyQuery { server, wanted }
    });
    answer(&api, queries.collect()).await
}

fn criterion(key_id: Option<OwnedServerSigningKeyId>, age: &Age) -> KeyCriterion {
    let minimum_valid_until_ms = age.minimum_valid_until_ts;
    KeyCriterion {
        key_id,
        minimum_valid_until_ms,
    }
}

async fn answer(api: &Api, queries: Vec<KeyQuery>) -> Result<Json<Answer>, ApiError> {
    let server_keys = api.federation().notary().answer(queries).await?;
    Ok(Json(Answer { server_keys }))
}
