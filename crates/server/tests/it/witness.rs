//! Reads a server's view of a room over federation, as the other server of the test would.
//!
//! Clients are shown the current state only. The state *at* an event is what `/state_ids` tells
//! a server in the room; the test holds both servers' keys, so it can ask each in the other's name.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ed25519_dalek::Signer as _;
use serde_json::Value;

use crate::client::{Client, encode};
use crate::homeserver::Homeserver;
use crate::http;

/// The state before an event, and its auth chain, as two sets of event IDs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StateIds {
    pub(crate) state: BTreeSet<String>,
    pub(crate) auth_chain: BTreeSet<String>,
}

/// Asks a server, in the name of another, for the state before an event.
pub(crate) async fn state_ids(
    asked: &Homeserver,
    asker: &Homeserver,
    room: &str,
    event: &str,
) -> StateIds {
    let path = format!(
        "/_matrix/federation/v1/state_ids/{}?event_id={}",
        encode(room),
        encode(event)
    );
    let (status, answer) = get(asked, asker, &path).await;
    assert_eq!(status, 200, "{} on {event}: {answer}", asked.name());
    let ids = |key: &str| {
        let ids = answer[key].as_array().unwrap_or_else(|| panic!("no {key}"));
        ids.iter()
            .map(|id| id.as_str().unwrap().to_owned())
            .collect()
    };
    StateIds {
        state: ids("pdu_ids"),
        auth_chain: ids("auth_chain_ids"),
    }
}

/// A federation request signed with the asker's key. It goes past the proxy.
pub(crate) async fn get(asked: &Homeserver, asker: &Homeserver, path: &str) -> (u16, Value) {
    let (key_id, key) = asker.signing_key();
    let (origin, destination) = (asker.name(), asked.name());
    // Canonical JSON: keys in order, no spaces; `Display` of a map with ordered keys is that.
    let signed: BTreeMap<&str, &str> = [
        ("destination", destination),
        ("method", "GET"),
        ("origin", origin),
        ("uri", path),
    ]
    .into();
    let signed = serde_json::to_string(&signed).unwrap();
    let signature = STANDARD_NO_PAD.encode(key.sign(signed.as_bytes()).to_bytes());
    let authorization = format!(
        r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}""#
    );
    let request = hyper::Request::get(path)
        .header("host", destination)
        .header("authorization", authorization)
        .body(Default::default())
        .unwrap();
    let answer = http::send(asked.address(), request).await.unwrap();
    (
        answer.status().as_u16(),
        serde_json::from_slice(answer.body()).unwrap_or_default(),
    )
}

/// The ID of the room's create event.
async fn create_event(asked: &Homeserver, asker: &Homeserver, room: &str, event: &str) -> String {
    for id in state_ids(asked, asker, room, event).await.state {
        let path = format!("/_matrix/federation/v1/event/{}", encode(&id));
        let (_, answer) = get(asked, asker, &path).await;
        if answer["pdus"][0]["type"] == "m.room.create" {
            return id;
        }
    }
    panic!("there is no create event before {event}");
}

/// Fails unless both servers have the same state and auth chain before each of the events.
pub(crate) async fn assert_same_history(
    one: &Homeserver,
    other: &Homeserver,
    room: &str,
    events: &[String],
) {
    assert!(!events.is_empty());
    let create = create_event(one, other, room, &events[0]).await;
    for event in events {
        let (mut first, mut second) = (
            state_ids(one, other, room, event).await,
            state_ids(other, one, room, event).await,
        );
        // From version 12 on the room's ID implies the create event, no auth event names it, and
        // whether a chain lists it is left open.
        first.auth_chain.remove(&create);
        second.auth_chain.remove(&create);
        assert_eq!(first, second, "the state before {event}");
    }
}

/// Fails unless both users see the same state events and the same members.
pub(crate) async fn assert_same_present(one: &Client, other: &Client, room: &str) {
    let by_id = |events: Vec<Value>| -> BTreeMap<String, String> {
        let name = |event: &Value| {
            format!(
                "{} {} {}",
                event["type"], event["state_key"], event["content"]["membership"]
            )
        };
        events
            .iter()
            .map(|event| (event["event_id"].as_str().unwrap().to_owned(), name(event)))
            .collect()
    };
    assert_eq!(
        by_id(one.state(room).await),
        by_id(other.state(room).await),
        "the current state"
    );
    assert_eq!(
        by_id(one.members(room).await),
        by_id(other.members(room).await),
        "the members"
    );
    let joined = |members: Value| -> BTreeSet<String> {
        members.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(
        joined(one.joined_members(room).await),
        joined(other.joined_members(room).await),
        "who is joined"
    );
}
