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
use crate::homeserver::{Homeserver, Kind};
use crate::http;

/// The state before an event, and its auth chain, as two sets of event IDs.
#[derive(Debug, PartialEq, Eq)]
struct StateIds {
    state: BTreeSet<String>,
    auth_chain: BTreeSet<String>,
}

/// Asks a server, in the name of another, for the state before an event; nothing if it has none.
async fn try_state_ids(
    asked: &Homeserver,
    asker: &Homeserver,
    room: &str,
    event: &str,
) -> Option<StateIds> {
    let path = format!(
        "/_matrix/federation/v1/state_ids/{}?event_id={}",
        encode(room),
        encode(event)
    );
    let (status, answer) = get(asked, asker, &path).await;
    if status != 200 {
        return None;
    }
    let ids = |key: &str| {
        let ids = answer[key].as_array().unwrap_or_else(|| panic!("no {key}"));
        ids.iter()
            .map(|id| id.as_str().unwrap().to_owned())
            .collect()
    };
    Some(StateIds {
        state: ids("pdu_ids"),
        auth_chain: ids("auth_chain_ids"),
    })
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

/// A server, and one of its users who is in the room.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) server: &'a Homeserver,
    pub(crate) user: &'a Client,
}

/// What a server has of a room's timeline.
#[derive(Default)]
struct Timeline {
    before: BTreeMap<String, StateIds>,
    create: Option<String>,
    parents: BTreeMap<String, BTreeSet<String>>,
    /// The type and state key of each state event.
    keys: BTreeMap<String, (String, String)>,
    /// Memberships that the server may lack in the state after them.
    kept_apart: BTreeSet<String>,
}

/// What a user of Synapse's is to a room that the Synapse is not in, it keeps by itself. Once it is in the
/// room (again), its state after such an event lacks the event. So it is between two Synapses, too.
fn is_kept_apart(server: &Homeserver, pdu: &Value) -> bool {
    let user = pdu["state_key"].as_str().unwrap_or_default();
    server.kind == Kind::Synapse
        && pdu["type"] == "m.room.member"
        && pdu["content"]["membership"] != "join"
        && user.ends_with(&format!(":{}", server.name()))
}

/// Walks from events back over their parents, as far as the server has them and their state.
async fn timeline(
    asked: &Homeserver,
    asker: &Homeserver,
    room: &str,
    mut ahead: BTreeSet<String>,
) -> Timeline {
    let mut walked = Timeline::default();
    let mut seen = ahead.clone();
    while let Some(id) = ahead.pop_first() {
        let path = format!("/_matrix/federation/v1/event/{}", encode(&id));
        let (status, answer) = get(asked, asker, &path).await;
        if status != 200 {
            continue;
        }
        let pdu = &answer["pdus"][0];
        if pdu["type"] == "m.room.create" {
            walked.create = Some(id.clone());
        }
        let Some(before) = try_state_ids(asked, asker, room, &id).await else {
            continue;
        };
        // Room versions 1 and 2 have pairs of ID and hash.
        let id_of = |parent: &Value| parent.as_str().or(parent[0].as_str()).unwrap().to_owned();
        let parents = pdu["prev_events"].as_array().unwrap().iter().map(id_of);
        let parents: BTreeSet<String> = parents.collect();
        let new = &parents - &seen;
        seen.extend(new.clone());
        ahead.extend(new);
        if is_kept_apart(asked, pdu) {
            walked.kept_apart.insert(id.clone());
        }
        if let (Some(kind), Some(key)) = (pdu["type"].as_str(), pdu["state_key"].as_str()) {
            let key = (kind.to_owned(), key.to_owned());
            walked.keys.insert(id.clone(), key);
        }
        walked.parents.insert(id.clone(), parents);
        walked.before.insert(id, before);
    }
    walked
}

/// Fails unless both sides have the same room: the same present, and the same state and auth chain
/// before every event that both servers have in their timeline. What both users are shown
/// is among those.
pub(crate) async fn assert_same_room(one: Side<'_>, other: Side<'_>, room: &str) {
    assert_same_present(one.user, other.user, room).await;
    let shown = |events: Vec<Value>| -> BTreeSet<String> {
        let id = |event: &Value| event["event_id"].as_str().unwrap().to_owned();
        events.iter().map(id).collect()
    };
    let first = shown(one.user.history(room, |_| false).await);
    let second = shown(other.user.history(room, |_| false).await);
    let (shown, known): (BTreeSet<String>, _) = (&first & &second, &first | &second);
    assert!(!shown.is_empty(), "nothing of {room} is shown to both");
    let mut first = timeline(one.server, other.server, room, known.clone()).await;
    let mut second = timeline(other.server, one.server, room, known).await;
    let create = first.create.or(second.create).expect("a create event");
    for event in shown {
        assert!(first.before.contains_key(&event), "{event}");
        assert!(second.before.contains_key(&event), "{event}");
    }
    let kept_apart = &first.kept_apart | &second.kept_apart;
    for (event, before) in &mut first.before {
        let Some(other_before) = second.before.get_mut(event) else {
            continue;
        };
        // From version 12 on the room's ID implies the create event, no auth event names it, and
        // whether a chain lists it is left open.
        before.auth_chain.remove(&create);
        other_before.auth_chain.remove(&create);
        let lacking = &first.parents[event] & &kept_apart;
        if !lacking.is_empty() {
            before.state = &before.state - &lacking;
            other_before.state = &other_before.state - &lacking;
            // Its auth chain goes with it.
            before.auth_chain.clear();
            other_before.auth_chain.clear();
        }
        // Asked for the state before a state event, a Synapse puts into the state after it what the event
        // replaced. Of events behind a gap it doesn't remember that, and its answer lacks it.
        let key = first.keys.get(event);
        let is_replaced = |id: &String| first.keys.get(id).or(second.keys.get(id)) == key;
        let lacks =
            before.state != other_before.state && before.state.is_subset(&other_before.state);
        let mut lacking = other_before.state.difference(&before.state);
        if key.is_some() && lacks && lacking.all(is_replaced) && one.server.kind == Kind::Synapse {
            continue;
        }
        assert_eq!(before, other_before, "the state before {event}");
    }
}

/// Fails unless both users see the same state events and the same members.
async fn assert_same_present(one: &Client, other: &Client, room: &str) {
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
