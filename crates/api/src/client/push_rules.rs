//! Client-server API, "Push rules".

use axum::extract::State;
use ruma::push::Ruleset;
use serde_json::{Value, json};

use crate::{Api, admission::User, request::Json};

pub(crate) async fn all(State(api): State<Api>, User(requester): User) -> Json<Value> {
    Json(json!({ "global": api.users().push_rules(&requester.user_id) }))
}

pub(crate) async fn global(State(api): State<Api>, User(requester): User) -> Json<Ruleset> {
    Json(api.users().push_rules(&requester.user_id))
}
