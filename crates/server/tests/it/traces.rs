//! Traces: what an operator's collector is told of one event, from its receipt until it is shown.

mod collector;

use serde_json::json;

use self::collector::{Collector, Traced};
use crate::ca::Ca;
use crate::client::{Client, PATIENCE};
use crate::homeserver::{Homeserver, Kind};
use crate::http;

/// What every event goes through.
const STEPS: [&str; 4] = ["wait for the turn", "decide", "commit", "wake"];

async fn figures(server: &Homeserver) -> String {
    let request = hyper::Request::get("/metrics").header("host", "localhost");
    let request = request.body(Default::default()).unwrap();
    let answer = http::send(server.address(), request).await.unwrap();
    String::from_utf8(answer.into_body().to_vec()).unwrap()
}

/// A room of two users of the same server; the second has been shown it.
async fn room_of(server: &Homeserver) -> (Client, Client, String) {
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    (alice, bob, room)
}

/// The trace of an event that a server of that name was given, once a user was shown it.
async fn trace_of(collector: &Collector, server: &str, event: &str, reader: &str) -> Traced {
    let what = format!("{event} on {server}, shown to {reader}");
    collector
        .until(&what, |spans| {
            let traced = Traced::find(spans, server, event)?;
            let shown = traced.below_event("sync");
            shown
                .iter()
                .any(|sync| sync.has("user", reader))
                .then_some(traced)
        })
        .await
}

#[tokio::test]
async fn one_trace_leads_from_a_request_to_send_to_the_sync_that_is_woken() {
    let collector = Collector::start().await;
    let server =
        Homeserver::start_with(Kind::Myelin, &Ca::generate(), &collector.section(1.0)).await;
    let (alice, bob, room) = room_of(&server).await;
    let mut bob_sees = bob.watch();
    bob_sees.until_member(&room, &bob.user_id, "join").await;
    let event = alice.say(&room, "ahoy").await;
    bob_sees.until_event(&room, &event).await;

    let traced = trace_of(&collector, server.name(), &event, &bob.user_id).await;
    assert!(traced.event.has("room_id", &room), "{:?}", traced.event);
    assert!(traced.event.has("verdict", "accepted"));
    assert_eq!(traced.root.name, "request");
    let path = "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}";
    assert!(traced.root.has("method", "PUT") && traced.root.has("path", path));
    assert!(traced.root.has("status", "200"), "{:?}", traced.root);
    for step in STEPS {
        assert_eq!(traced.below_event(step).len(), 1, "{step}");
    }
    // The request that waited has a trace of its own, and the one names the other.
    let syncs = traced.below_event("sync");
    let links = &syncs[0].links;
    assert_eq!(links.len(), 1, "{syncs:?}");
    let is_linked = |spans: &[collector::Span]| {
        let linked = spans.iter().find(|span| span.id == links[0])?;
        (linked.trace != traced.event.trace).then(|| linked.clone())
    };
    let sync = collector.until("the sync's own request", is_linked).await;
    assert!(sync.has("path", "/_matrix/client/v3/sync"), "{sync:?}");
}

#[tokio::test]
async fn one_trace_leads_from_another_servers_transaction_to_the_sync_that_is_woken() {
    let (collector, ca) = (Collector::start().await, Ca::generate());
    let section = collector.section(1.0);
    let first = Homeserver::start_with(Kind::Myelin, &ca, &section).await;
    let second = Homeserver::start_with(Kind::Myelin, &ca, &section).await;
    let alice = first.register("alice").await;
    let bob = second.register("bob").await;
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join_via(&room, first.name()).await;
    let mut bob_sees = bob.watch();
    bob_sees.until_member(&room, &bob.user_id, "join").await;
    let event = alice.say(&room, "ahoy").await;
    bob_sees.until_event(&room, &event).await;

    let received = trace_of(&collector, second.name(), &event, &bob.user_id).await;
    assert!(received.event.has("verdict", "accepted"));
    let path = "/_matrix/federation/v1/send/{txn_id}";
    assert!(received.root.has("path", path), "{:?}", received.root);
    assert!(
        received.root.has("origin", first.name()),
        "{:?}",
        received.root
    );
    for step in STEPS {
        assert_eq!(received.below_event(step).len(), 1, "{step}");
    }
    for part in ["check signatures", "stage"] {
        assert_eq!(received.below_root(part).len(), 1, "{part}");
    }
    // On the server where it was made, that it was sent on.
    let is_delivered = |spans: &[collector::Span]| {
        let traced = Traced::find(spans, first.name(), &event)?;
        let deliveries = traced.below_event("deliver");
        let to_second = |delivery: &&collector::Span| delivery.has("server", second.name());
        deliveries.iter().find(to_second).cloned()
    };
    collector.until("a delivery", is_delivered).await;
}

#[tokio::test]
async fn what_is_not_sampled_is_not_exported() {
    let collector = Collector::start().await;
    let ca = Ca::generate();
    let mut server = Homeserver::start_with(Kind::Myelin, &ca, &collector.section(0.0)).await;
    let (alice, bob, room) = room_of(&server).await;
    let event = alice.say(&room, "ahoy").await;
    bob.watch().until_event(&room, &event).await;
    // What waits to be exported is exported at the end.
    let ended = tokio::task::spawn_blocking(move || server.terminate());
    ended.await.unwrap();
    assert_eq!(collector.requests(), 0);
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nothing_up() {
    // Connections are made, and nobody reads.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let section = collector::section(silent.local_addr().unwrap(), 1.0);
    let mut server = Homeserver::start_with(Kind::Myelin, &Ca::generate(), &section).await;
    let (alice, bob, room) = room_of(&server).await;
    let failed = r#"myelin_trace_spans_total{outcome="export failed"}"#;
    let dropped = async {
        while !figures(&server).await.contains(failed) {
            let event = alice.say(&room, "ahoy").await;
            bob.watch().until_event(&room, &event).await;
        }
    };
    tokio::time::timeout(PATIENCE, dropped).await.expect(failed);
    let ended = tokio::task::spawn_blocking(move || server.terminate());
    ended.await.unwrap();
}
