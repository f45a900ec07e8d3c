//! The program by itself: how it starts, stops, and comes back.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::ca::Ca;
use crate::client::{Client, LAZY};
use crate::homeserver::{Homeserver, Kind};
use crate::http;

/// The texts of a room's messages, oldest first.
async fn messages(client: &Client, room: &str) -> Vec<String> {
    let history = client.history(room, |_| false).await;
    let bodies = history
        .iter()
        .rev()
        .filter_map(|event| event["content"]["body"].as_str());
    bodies.map(str::to_owned).collect()
}

#[tokio::test]
async fn sigterm_ends_it_within_five_seconds_and_all_is_there_afterwards() {
    let mut server = Homeserver::start(Kind::Myelin, &Ca::generate()).await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({ "name": "Harbour" })).await;
    alice.say(&room, "ahoy").await;
    let first = alice.sync(LAZY, None, Duration::ZERO).await;
    let since = first["next_batch"].as_str().unwrap().to_owned();
    // A client that waits must not hold the server up.
    let path = format!("/_matrix/client/v3/sync?timeout=30000&since={since}");
    let waiting = tokio::spawn({
        let (alice, path) = (alice.clone(), path.clone());
        async move { alice.call("GET", &path, None).await }
    });
    // Its request has come when a later one was answered.
    alice.get("/_matrix/client/v3/account/whoami").await;

    let took = tokio::task::spawn_blocking(move || (server.terminate(), server))
        .await
        .unwrap();
    let (took, mut server) = took;
    assert!(took < Duration::from_secs(5), "{took:?}");
    waiting.abort();
    server.run().await;
    assert_eq!(messages(&alice, &room).await, ["ahoy"]);
    let again = alice.sync(LAZY, Some(&since), Duration::ZERO).await;
    assert!(
        again["rooms"]["join"][&room].is_null(),
        "nothing happened since: {again}"
    );
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_is_there_afterwards() {
    let mut server = Homeserver::start(Kind::Myelin, &Ca::generate()).await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    let mut sends = tokio::task::JoinSet::new();
    for number in 0..40 {
        let (alice, room) = (alice.clone(), room.clone());
        sends.spawn(async move {
            let text = format!("message {number}");
            alice.try_say(&room, &text).await.map(|_| text)
        });
    }
    let mut acknowledged = Vec::new();
    while let Some(sent) = sends.join_next().await {
        acknowledged.extend(sent.unwrap());
        if acknowledged.len() == 15 {
            server.kill();
        }
    }
    assert!(acknowledged.len() >= 15);
    server.run().await;
    let there = messages(&alice, &room).await;
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|text| !there.contains(text))
        .collect();
    assert!(lost.is_empty(), "{lost:?}");
    let event = alice.say(&room, "the room goes on").await;
    alice.watch().until_event(&room, &event).await;
}

#[tokio::test]
async fn a_listener_with_a_certificate_serves_other_servers() {
    let ca = Ca::generate();
    let server = Homeserver::start(Kind::Myelin, &ca).await;
    let ip = server.address().ip();
    let stream = TcpStream::connect((ip, 8448)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(ca.client_config());
    let stream = connector
        .connect(ServerName::from(ip), stream)
        .await
        .unwrap();
    let request = Request::get("/_matrix/key/v2/server").header("host", server.name());
    let answer = http::send_over(stream, request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(answer["server_name"], server.name());
    let (key_id, _) = server.signing_key();
    assert!(answer["verify_keys"][key_id].is_object(), "{answer}");
}

#[tokio::test]
async fn what_it_does_not_know_is_unrecognized() {
    let server = Homeserver::start(Kind::Myelin, &Ca::generate()).await;
    let alice = server.register("alice").await;
    let cases = [
        ("GET", "/_matrix/client/v3/no_such_thing", 404),
        ("DELETE", "/_matrix/client/v3/account/whoami", 405),
        ("GET", "/_matrix/federation/v9/no_such_thing", 404),
    ];
    for (method, path, expected) in cases {
        let (status, answer) = alice.call(method, path, None).await;
        assert_eq!(
            (status, &answer["errcode"]),
            (expected, &json!("M_UNRECOGNIZED")),
            "{method} {path}"
        );
    }
}
