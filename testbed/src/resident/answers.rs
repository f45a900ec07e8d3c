//! What the resident answers over federation, and the keys of its names.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post, put};
use axum::{Json, Router, middleware};
use myelin_core::build::countersign;
use myelin_core::keys::{KeyPair, encode_verifying_key};
use myelin_core::pdu::Pdu;
use myelin_core::room_version::RoomVersion;
use myelin_core::state::Membership;
use myelin_core::validate::Unverified;
use ruma::{CanonicalJsonObject, EventId, OwnedEventId, OwnedServerName, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Resident;
use super::conduct::{origin, watched};
use super::history::{self, History};
use super::policy;

/// One of the resident's names.
#[derive(Clone)]
pub(super) struct Name {
    pub(super) resident: Arc<Resident>,
    pub(super) number: usize,
}

type Answer<T> = Result<Json<T>, (StatusCode, Json<Value>)>;

type Pairs = Query<Vec<(String, String)>>;

/// All endpoints under one of the names.
pub(super) fn router(resident: Arc<Resident>, number: usize) -> Router {
    let v1 = Router::new()
        .route("/query/directory", get(directory))
        .route("/make_join/{room}/{user}", get(make_join))
        .route("/state_ids/{room}", get(state_ids))
        .route("/state/{room}", get(state))
        .route("/event/{event}", get(event))
        .route("/event_auth/{room}/{event}", get(event_auth))
        .route("/get_missing_events/{room}", post(missing_events))
        .route("/backfill/{room}", get(backfill))
        .route("/send/{transaction}", put(transaction));
    let name = Name { resident, number };
    let watching = middleware::from_fn_with_state(name.clone(), watched);
    Router::new()
        .route("/_matrix/key/v2/server", get(own_keys))
        .route("/_matrix/key/v2/query", post(notarised_keys))
        .route(
            "/_matrix/federation/v2/send_join/{room}/{event}",
            put(send_join),
        )
        .route("/_matrix/policy/v1/sign", post(policy::sign))
        .nest("/_matrix/federation/v1", v1)
        .layer(DefaultBodyLimit::disable())
        .layer(watching)
        .with_state(name)
}

fn not_found(what: impl std::fmt::Display) -> (StatusCode, Json<Value>) {
    let body = json!({ "errcode": "M_NOT_FOUND", "error": format!("{what}") });
    (StatusCode::NOT_FOUND, Json(body))
}

fn forbidden(who: impl std::fmt::Display) -> (StatusCode, Json<Value>) {
    let body = json!({ "errcode": "M_FORBIDDEN", "error": format!("{who} is banned") });
    (StatusCode::FORBIDDEN, Json(body))
}

pub(super) fn bad(what: impl std::fmt::Display) -> (StatusCode, Json<Value>) {
    let body = json!({ "errcode": "M_BAD_JSON", "error": format!("{what}") });
    (StatusCode::BAD_REQUEST, Json(body))
}

fn raw(event: &Arc<Pdu>) -> Box<RawValue> {
    RawValue::from_string(event.json.to_string()).unwrap()
}

fn raws<'e>(events: impl IntoIterator<Item = &'e Arc<Pdu>>) -> Vec<Box<RawValue>> {
    events.into_iter().map(raw).collect()
}

fn ids<'e>(events: impl IntoIterator<Item = &'e Arc<Pdu>>) -> Vec<OwnedEventId> {
    events
        .into_iter()
        .map(|event| event.event_id.clone())
        .collect()
}

fn parameter<'p>(pairs: &'p [(String, String)], name: &str) -> &'p str {
    let mut found = pairs.iter().filter(|(key, _)| key == name);
    found.next().map_or("", |(_, value)| value)
}

impl Name {
    pub(super) fn server_name(&self) -> &ServerName {
        self.resident.keys[self.number].server_name()
    }

    /// A join, with a signature of this name if a user of it authorises it.
    fn authorised(&self, version: RoomVersion, join: &str) -> String {
        let parsed: Value = serde_json::from_str(join).unwrap_or_default();
        let authoriser = &parsed["content"]["join_authorised_via_users_server"];
        let authoriser = UserId::parse(authoriser.as_str().unwrap_or_default());
        match authoriser {
            Ok(user) if user.server_name() == self.server_name() => {
                countersign(version, join, &self.resident.keys[self.number]).unwrap()
            }
            _ => join.to_owned(),
        }
    }

    /// Looks at the room as the server that asks knows it.
    fn room<T>(&self, headers: &HeaderMap, look: impl FnOnce(&mut History) -> T) -> T {
        self.resident.room_of(&origin(headers), look)
    }
}

/// The document of one name's keys, signed by it.
fn key_document(key: &KeyPair) -> CanonicalJsonObject {
    let until_ms = u64::from(history::now().get()) + 24 * 3_600_000;
    let document = json!({
        "server_name": key.server_name(),
        "valid_until_ts": until_ms,
        "verify_keys": {
            key.key_id().as_str(): { "key": encode_verifying_key(&key.verifying_key()) }
        },
        "old_verify_keys": {},
    });
    let mut document: CanonicalJsonObject = serde_json::from_value(document).unwrap();
    key.sign_json(&mut document).unwrap();
    document
}

async fn own_keys(State(name): State<Name>) -> Json<CanonicalJsonObject> {
    Json(key_document(&name.resident.keys[name.number]))
}

#[derive(Deserialize)]
struct KeyQuery {
    server_keys: HashMap<OwnedServerName, Value>,
}

async fn notarised_keys(State(name): State<Name>, Json(query): Json<KeyQuery>) -> Json<Value> {
    let keys = &name.resident.keys;
    let wanted = keys
        .iter()
        .filter(|key| query.server_keys.contains_key(key.server_name()));
    let documents: Vec<CanonicalJsonObject> = wanted
        .map(|key| {
            let mut document = key_document(key);
            keys[name.number].sign_json(&mut document).unwrap();
            document
        })
        .collect();
    Json(json!({ "server_keys": documents }))
}

async fn directory(State(name): State<Name>, Query(pairs): Pairs) -> Answer<Value> {
    let alias = parameter(&pairs, "room_alias");
    if alias != name.resident.alias() {
        return Err(not_found(alias));
    }
    let room = &name.resident.room;
    Ok(Json(
        json!({ "room_id": room.room_id(), "servers": [name.resident.name()] }),
    ))
}

/// A template of a join, at the end of the room's history.
async fn make_join(
    State(name): State<Name>,
    Path((room, user)): Path<(String, String)>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Answer<Value> {
    let user = UserId::parse(user).map_err(bad)?;
    name.room(&headers, |history| {
        let version = history.version.as_str();
        if history.room_id().as_str() != room || !pairs.iter().any(|pair| pair.1 == version) {
            return Err(not_found(room));
        }
        if history.membership(&user) == Some(Membership::Ban) {
            return Err(forbidden(user));
        }
        let content = json!({ "membership": "join" });
        let draft = history.draft(&user, "m.room.member", Some(user.as_str()), &content);
        let event = json!({
            "room_id": draft.room_id,
            "sender": draft.sender,
            "type": draft.event_type,
            "state_key": draft.state_key,
            "content": content,
            "prev_events": draft.prev_events,
            "auth_events": draft.auth_events,
            "depth": draft.depth,
            "origin_server_ts": draft.origin_server_ts,
        });
        Ok(Json(json!({ "room_version": version, "event": event })))
    })
}

#[derive(Serialize)]
struct Joined {
    event: Box<RawValue>,
    state: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
    members_omitted: bool,
    servers_in_room: Vec<OwnedServerName>,
}

/// Takes a join, and answers the state before it: without most members, if the joining server says
/// that it can bear that.
async fn send_join(
    State(name): State<Name>,
    Path((_, event_id)): Path<(String, String)>,
    Query(pairs): Pairs,
    headers: HeaderMap,
    body: String,
) -> Answer<Joined> {
    let omit = parameter(&pairs, "omit_members") == "true";
    let answer = name.room(&headers, |history| {
        let body = name.authorised(history.version, &body);
        let join = Unverified::parse(history.version, &body, Some(history.room_id()));
        let join = Arc::new(join.map_err(bad)?.pdu().clone());
        if join.event_id != event_id {
            return Err(bad("the event has another ID"));
        }
        let before = history.state().clone();
        let told = |event: &&Arc<Pdu>| {
            !omit || event.membership.is_none() || event.state_key == join.state_key
        };
        let state: Vec<_> = before.values().filter(told).cloned().collect();
        let mut chain = history.auth_chain(state.iter().chain([&join]));
        let told: HashSet<_> = ids(&state).into_iter().collect();
        chain.retain(|event| !told.contains(&event.event_id));
        let answer = Joined {
            event: raw(&join),
            state: raws(&state),
            auth_chain: raws(&chain),
            members_omitted: omit,
            servers_in_room: history.servers().into_iter().collect(),
        };
        if history.event(&join.event_id).is_none() {
            history.push(join);
        }
        Ok(Json(answer))
    })?;
    name.resident
        .joins
        .send_modify(|joins| joins.extend([origin(&headers)]));
    Ok(answer)
}

/// A state, and its auth chain.
type StateAndChain = (Vec<Arc<Pdu>>, Vec<Arc<Pdu>>);

/// The state before an event.
fn state_at(
    history: &History,
    pairs: &[(String, String)],
) -> Result<StateAndChain, (StatusCode, Json<Value>)> {
    let id = EventId::parse(parameter(pairs, "event_id")).map_err(bad)?;
    let state = history.state_before(&id).ok_or_else(|| not_found(&id))?;
    let chain = history.auth_chain(state.values());
    Ok((state.into_values().collect(), chain))
}

async fn state_ids(
    State(name): State<Name>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Answer<Value> {
    let (state, chain) = name.room(&headers, |history| state_at(history, &pairs))?;
    Ok(Json(
        json!({ "pdu_ids": ids(&state), "auth_chain_ids": ids(&chain) }),
    ))
}

#[derive(Serialize)]
struct WholeState {
    pdus: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
}

async fn state(
    State(name): State<Name>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Answer<WholeState> {
    let (state, chain) = name.room(&headers, |history| state_at(history, &pairs))?;
    Ok(Json(WholeState {
        pdus: raws(&state),
        auth_chain: raws(&chain),
    }))
}

#[derive(Serialize)]
struct Pdus {
    origin: OwnedServerName,
    origin_server_ts: u64,
    pdus: Vec<Box<RawValue>>,
}

impl Name {
    fn pdus(&self, pdus: Vec<Box<RawValue>>) -> Json<Pdus> {
        Json(Pdus {
            origin: self.server_name().to_owned(),
            origin_server_ts: history::now().get().into(),
            pdus,
        })
    }
}

async fn event(
    State(name): State<Name>,
    Path(event): Path<String>,
    headers: HeaderMap,
) -> Answer<Pdus> {
    let id = EventId::parse(event).map_err(bad)?;
    let found = name.room(&headers, |history| history.event(&id).map(raw));
    let found = found.ok_or_else(|| not_found(&id))?;
    Ok(name.pdus(vec![found]))
}

#[derive(Serialize)]
struct AuthChain {
    auth_chain: Vec<Box<RawValue>>,
}

async fn event_auth(
    State(name): State<Name>,
    Path((_, event)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<AuthChain> {
    let id = EventId::parse(event).map_err(bad)?;
    name.room(&headers, |history| {
        let event = history.event(&id).ok_or_else(|| not_found(&id))?;
        let auth_chain = raws(&history.auth_chain([event].into_iter()));
        Ok(Json(AuthChain { auth_chain }))
    })
}

#[derive(Deserialize)]
struct Gap {
    earliest_events: Vec<OwnedEventId>,
    latest_events: Vec<OwnedEventId>,
    limit: usize,
}

#[derive(Serialize)]
struct Missing {
    events: Vec<Box<RawValue>>,
}

/// The events of a gap, newest last.
async fn missing_events(
    State(name): State<Name>,
    headers: HeaderMap,
    Json(gap): Json<Gap>,
) -> Json<Missing> {
    let mut events = name.room(&headers, |history| {
        let older = history.back_from(&gap.latest_events);
        let inside = older
            .filter(|event| !gap.latest_events.contains(&event.event_id))
            .take_while(|event| !gap.earliest_events.contains(&event.event_id));
        raws(inside.take(gap.limit))
    });
    events.reverse();
    Json(Missing { events })
}

async fn backfill(
    State(name): State<Name>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Answer<Pdus> {
    let limit: usize = parameter(&pairs, "limit").parse().map_err(bad)?;
    let from = pairs.iter().filter(|(key, _)| key == "v");
    let from: Vec<_> = from.filter_map(|(_, id)| EventId::parse(id).ok()).collect();
    let events = name.room(&headers, |history| {
        raws(history.back_from(&from).take(limit))
    });
    Ok(name.pdus(events))
}

#[derive(Deserialize)]
struct Transaction {
    #[serde(default)]
    pdus: Vec<Box<RawValue>>,
}

/// Notes what came. It does not become part of the history that is served.
async fn transaction(State(name): State<Name>, Json(sent): Json<Transaction>) -> Answer<Value> {
    let room = &name.resident.room;
    let mut results = serde_json::Map::new();
    for pdu in &sent.pdus {
        let pdu = Unverified::parse(room.version, pdu.get(), None).map_err(bad)?;
        let id = pdu.event_id().to_owned();
        results.insert(id.to_string(), json!({}));
        name.resident
            .received
            .send_modify(|received| received.extend([id]));
    }
    Ok(Json(json!({ "pdus": results })))
}
