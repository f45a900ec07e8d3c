//! What is sent to each endpoint, and what is made of the answers.

use myelin_core::keys::verify_bytes;
use ruma::{OwnedEventId, event_id, room_alias_id, room_id, user_id};

use super::{PDU, raw, world};
use crate::{
    Federation, FederationError, Invite, MissingEvents, Transaction,
    testing::{TestServer, json, name},
    x_matrix::{Signed, XMatrix},
};

type Exchange<'a> = (&'a str, &'a str, Option<&'a str>);

/// Checks the last request; its path without `/_matrix/federation/`.
async fn assert_sent(federation: &Federation, server: &TestServer, expected: Exchange<'_>) {
    let seen = server.last();
    let (method, target, body) = expected;
    assert_eq!(seen.method, method);
    assert_eq!(seen.target, format!("/_matrix/federation/{target}"));
    assert_eq!(
        std::str::from_utf8(&seen.body).unwrap(),
        body.unwrap_or_default(),
        "{target}"
    );
    // What was sent is what was signed.
    let ours = federation.signing_keys().active();
    let header = XMatrix::parse(&seen.authorization.unwrap()).unwrap();
    let signed = Signed {
        method,
        target: &seen.target,
        body: &seen.body,
    };
    let bytes = signed
        .bytes(&header.origin, header.destination.as_deref())
        .unwrap();
    assert_eq!(header.destination.as_deref(), Some(name("a.test")));
    let verified = verify_bytes(&bytes, &header.signature, &ours.verifying_key());
    assert_eq!(verified, Ok(()));
}

#[tokio::test]
async fn templates_of_memberships_are_asked_for() {
    let (_world, server, federation) = world(|_| {
        json(
            200,
            &format!(r#"{{"room_version":"11","event":{PDU},"x":1}}"#),
        )
    })
    .await;
    let (a, room, user) = (
        name("a.test"),
        room_id!("!r/ä:a.test"),
        user_id!("@u+1:us.test"),
    );
    let path = "%21r%2F%C3%A4%3Aa.test/%40u%2B1%3Aus.test";
    let join = federation
        .make_join(a, room, user, &["10", "org.x"])
        .await
        .unwrap();
    assert_eq!((join.room_version.as_str(), join.event.get()), ("11", PDU));
    let target = format!("v1/make_join/{path}?ver=10&ver=org.x");
    assert_sent(&federation, &server, ("GET", &target, None)).await;
    federation.make_knock(a, room, user, &["11"]).await.unwrap();
    let target = format!("v1/make_knock/{path}?ver=11");
    assert_sent(&federation, &server, ("GET", &target, None)).await;
    federation.make_leave(a, room, user).await.unwrap();
    let target = format!("v1/make_leave/{path}");
    assert_sent(&federation, &server, ("GET", &target, None)).await;
}

#[tokio::test]
async fn memberships_are_sent() {
    let (_world, server, federation) = world(|seen| {
        let answer = match seen.target.split('/').nth(4) {
            Some("send_join") => {
                r#"{"members_omitted":true,"state":[{"a":1},{"b":2}],"servers_in_room":["a.test",
                "not a name","b.test:1"],"event":{"e":1},"auth_chain":[{"c":3}],"origin":"a.test"}"#
            }
            Some("send_knock") => r#"{"knock_room_state":[{"a":1}]}"#,
            Some("invite") => r#"{"event":{"signed":1}}"#,
            _ => "{}",
        };
        json(200, answer)
    })
    .await;
    let (a, room, event, pdu) = (
        name("a.test"),
        room_id!("!r:a.test"),
        event_id!("$e"),
        raw(PDU),
    );
    let path = "%21r%3Aa.test/%24e";
    let join = federation
        .send_join(a, room, event, &pdu, true)
        .await
        .unwrap();
    assert_eq!(join.event.unwrap().get(), r#"{"e":1}"#);
    assert_eq!(
        (
            join.state.len(),
            join.auth_chain.len(),
            join.members_omitted
        ),
        (2, 1, true)
    );
    let servers = join.servers_in_room.unwrap();
    assert_eq!(servers, [name("a.test"), name("b.test:1")]);
    let target = format!("v2/send_join/{path}?omit_members=true");
    assert_sent(&federation, &server, ("PUT", &target, Some(PDU))).await;
    federation.send_leave(a, room, event, &pdu).await.unwrap();
    let target = format!("v2/send_leave/{path}");
    assert_sent(&federation, &server, ("PUT", &target, Some(PDU))).await;
    let stripped = federation.send_knock(a, room, event, &pdu).await.unwrap();
    assert_eq!(stripped[0].get(), r#"{"a":1}"#);
    let target = format!("v1/send_knock/{path}");
    assert_sent(&federation, &server, ("PUT", &target, Some(PDU))).await;
    let invite = Invite {
        room_version: "11",
        event: &pdu,
        invite_room_state: &[raw("{}")],
    };
    let signed = federation.invite(a, room, event, &invite).await.unwrap();
    assert_eq!(signed.get(), r#"{"signed":1}"#);
    let body = format!(r#"{{"room_version":"11","event":{PDU},"invite_room_state":[{{}}]}}"#);
    assert_sent(
        &federation,
        &server,
        ("PUT", &format!("v2/invite/{path}"), Some(&body)),
    )
    .await;
}

#[tokio::test]
async fn events_and_states_are_fetched() {
    let (_world, server, federation) = world(|seen| {
        let answer = match seen.target.split(['/', '?']).nth(4) {
            Some("state_ids") => r#"{"pdu_ids":["$a"],"auth_chain_ids":["$b","$c"]}"#,
            Some("state") => r#"{"pdus":[{"a":1}],"auth_chain":[{"b":1},{"c":1}]}"#,
            Some("event_auth") => r#"{"auth_chain":[{"b":1}]}"#,
            Some("get_missing_events") => r#"{"events":[{"m":1}]}"#,
            _ => r#"{"origin":"a.test","origin_server_ts":1,"pdus":[{"a":1}]}"#,
        };
        json(200, answer)
    })
    .await;
    let (a, room, event) = (name("a.test"), room_id!("!r:a.test"), event_id!("$e"));
    let room_path = "%21r%3Aa.test";
    let ids = federation.state_ids(a, room, event).await.unwrap();
    assert_eq!((ids.pdu_ids.len(), ids.auth_chain_ids.len()), (1, 2));
    let target = format!("v1/state_ids/{room_path}?event_id=%24e");
    assert_sent(&federation, &server, ("GET", &target, None)).await;
    let state = federation.state(a, room, event).await.unwrap();
    assert_eq!((state.pdus.len(), state.auth_chain.len()), (1, 2));
    let target = format!("v1/state/{room_path}?event_id=%24e");
    assert_sent(&federation, &server, ("GET", &target, None)).await;
    assert_eq!(
        federation.event(a, event).await.unwrap().get(),
        r#"{"a":1}"#
    );
    assert_sent(&federation, &server, ("GET", "v1/event/%24e", None)).await;
    assert_eq!(
        federation.event_auth(a, room, event).await.unwrap().len(),
        1
    );
    let target = format!("v1/event_auth/{room_path}/%24e");
    assert_sent(&federation, &server, ("GET", &target, None)).await;
    let (have, want): (Vec<OwnedEventId>, _) = (vec![], [event.to_owned()]);
    let missing = MissingEvents {
        earliest_events: &have,
        latest_events: &want,
        limit: 10,
        min_depth: 5,
    };
    let events = federation
        .get_missing_events(a, room, &missing)
        .await
        .unwrap();
    assert_eq!(events[0].get(), r#"{"m":1}"#);
    let body = r#"{"earliest_events":[],"latest_events":["$e"],"limit":10,"min_depth":5}"#;
    let target = format!("v1/get_missing_events/{room_path}");
    assert_sent(&federation, &server, ("POST", &target, Some(body))).await;
    let from = [event.to_owned(), event_id!("$f+").to_owned()];
    assert_eq!(
        federation
            .backfill(a, room, &from, 100)
            .await
            .unwrap()
            .len(),
        1
    );
    let target = format!("v1/backfill/{room_path}?v=%24e&v=%24f%2B&limit=100");
    assert_sent(&federation, &server, ("GET", &target, None)).await;
}

#[tokio::test]
async fn queries_and_transactions_are_sent() {
    let (_world, server, federation) = world(|seen| {
        let answer = match seen.target.split(['/', '?']).nth(4) {
            Some("query") if seen.target.contains("directory") => {
                r#"{"room_id":"!r:a.test","servers":["a.test"]}"#
            }
            Some("query") => r#"{"displayname":"U"}"#,
            Some("user") => r#"{"user_id":"@u:a.test","stream_id":5,"devices":[{}]}"#,
            Some("send") => r#"{"pdus":{"$a":{},"$b":{"error":"no"}}}"#,
            _ => r#"{"server":{"name":"Other","version":"1"}}"#,
        };
        json(200, answer)
    })
    .await;
    let a = name("a.test");
    let directory = federation
        .query_directory(a, room_alias_id!("#x y:a.test"))
        .await
        .unwrap();
    assert_eq!(directory.room_id, "!r:a.test");
    let target = "v1/query/directory?room_alias=%23x%20y%3Aa.test";
    assert_sent(&federation, &server, ("GET", target, None)).await;
    let user = user_id!("@u:a.test");
    let profile = federation
        .query_profile(a, user, Some("displayname"))
        .await
        .unwrap();
    assert_eq!(profile["displayname"], "U");
    let target = "v1/query/profile?user_id=%40u%3Aa.test&field=displayname";
    assert_sent(&federation, &server, ("GET", target, None)).await;
    assert_eq!(federation.user_devices(a, user).await.unwrap().stream_id, 5);
    assert_sent(
        &federation,
        &server,
        ("GET", "v1/user/devices/%40u%3Aa.test", None),
    )
    .await;
    let version = federation.version(a).await.unwrap();
    assert_eq!(version.name.as_deref(), Some("Other"));
    assert_sent(&federation, &server, ("GET", "v1/version", None)).await;
    let (pdus, edus) = ([raw(PDU)], [raw("{}")]);
    let transaction = Transaction {
        origin_server_ts: 7,
        pdus: &pdus,
        edus: &edus,
    };
    let verdicts = federation
        .send_transaction(a, "t/1", &transaction)
        .await
        .unwrap();
    assert_eq!(verdicts[event_id!("$a")], None);
    assert_eq!(verdicts[event_id!("$b")].as_deref(), Some("no"));
    let body =
        format!(r#"{{"origin":"us.test","origin_server_ts":7,"pdus":[{PDU}],"edus":[{{}}]}}"#);
    assert_sent(&federation, &server, ("PUT", "v1/send/t%2F1", Some(&body))).await;
}

#[tokio::test]
async fn a_transaction_that_is_too_large_is_not_sent() {
    let (_world, server, federation) = world(|_| json(200, "{}")).await;
    let (pdus, edus) = (vec![raw(PDU); 51], vec![raw("{}"); 101]);
    for (pdus, edus) in [(&pdus[..], &edus[..0]), (&pdus[..50], &edus[..])] {
        let transaction = Transaction {
            origin_server_ts: 7,
            pdus,
            edus,
        };
        let refused = federation
            .send_transaction(name("a.test"), "1", &transaction)
            .await;
        assert!(matches!(refused, Err(FederationError::Refused(_))));
    }
    assert_eq!(server.count(), 0);
}
