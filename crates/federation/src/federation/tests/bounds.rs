//! Bounds on time and size, and what failures lead to.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use http::HeaderValue;
use myelin_storage::testing::START_MS;
use ruma::{event_id, room_id, user_id};
use tokio::sync::Notify;

use super::world;
use crate::{
    FederationError, Urgency,
    testing::{World, json, name, pieces, whole},
};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_error_answer_is_passed_on_whole() {
    let body = r#"{"errcode":"M_FORBIDDEN","error":"no","extra":[1]}"#;
    let (_world, _server, federation) = world(move |_| json(403, body)).await;
    let error = federation.version(name("a.test")).await.unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!(
        (remote.status, remote.errcode.as_deref()),
        (403, Some("M_FORBIDDEN"))
    );
    assert_eq!(
        (remote.message.as_str(), &remote.body[..]),
        ("no", body.as_bytes())
    );
    assert!(!remote.is_unrecognized());
    assert_eq!(federation.backoff(name("a.test")).await.unwrap(), None);
}

#[tokio::test]
async fn an_answer_beyond_its_bound_is_refused() {
    let (_world, _server, federation) = world(|_| {
        json(
            200,
            &format!("{{\"x\":\"{}\"}}", "x".repeat(2 * 1024 * 1024)),
        )
    })
    .await;
    let refused = federation.version(name("a.test")).await;
    assert!(
        matches!(refused, Err(FederationError::InvalidAnswer(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_huge_error_answer_is_cut_off() {
    let (_world, _server, federation) = world(|_| json(400, &"x".repeat(1024 * 1024))).await;
    let error = federation.version(name("a.test")).await.unwrap_err();
    assert_eq!(error.remote().unwrap().body.len(), 64 * 1024);
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_invalid() {
    let cases = [
        "",
        "[]",
        "{",
        r#"{"room_version":"1"}"#,
        r#"{"event":{"a":}}"#,
    ];
    for body in cases {
        let (_world, _server, federation) = world(move |_| json(200, body)).await;
        let (room, user) = (room_id!("!r:a.test"), user_id!("@u:us.test"));
        let refused = federation
            .make_join(name("a.test"), room, user, &["11"])
            .await;
        assert!(
            matches!(refused, Err(FederationError::InvalidAnswer(_))),
            "{body}"
        );
        assert_eq!(federation.backoff(name("a.test")).await.unwrap(), None);
    }
}

/// Runs a request while time passes as soon as the server has it.
async fn while_waiting<T>(
    world: &World,
    arrived: &Notify,
    by: Duration,
    request: impl Future<Output = T>,
) -> T {
    let passing = async {
        arrived.notified().await;
        world.env().clock.advance(by);
    };
    futures_util::join!(request, passing).0
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_after_the_timeout() {
    let arrived = Arc::new(Notify::new());
    let arriving = Arc::clone(&arrived);
    let (world, server, federation) = world(move |_| {
        arriving.notify_one();
        Box::pin(std::future::pending())
    })
    .await;
    let asking = federation.version(name("a.test"));
    let refused = while_waiting(&world, &arrived, MINUTE, asking).await;
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
    assert!(federation.backoff(name("a.test")).await.unwrap().is_some());
    let brief = federation.within(Duration::from_secs(3));
    let asking = brief.version(name("a.test"));
    let refused = while_waiting(&world, &arrived, Duration::from_secs(3), asking).await;
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn an_answer_that_stalls_is_given_up_after_the_timeout() {
    let (world, _server, federation) = world(|_| {
        let start = stream::iter([Ok(Bytes::from_static(b"{\"pdus\":[{},"))]);
        let stalling = pieces(start.chain(stream::pending()));
        Box::pin(async { stalling })
    })
    .await;
    let (a, room, event) = (name("a.test"), room_id!("!r:a.test"), event_id!("$e"));
    let mut stream = federation.state_stream(a, room, event).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().json.get(), "{}");
    // Polled in this order: time passes when the wait has begun.
    let passing = async { world.env().clock.advance(10 * MINUTE) };
    let (refused, ()) = futures_util::join!(stream.next(), passing);
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
}

/// Each byte comes in time for somebody who waits only for the next one.
#[tokio::test]
async fn an_answer_of_one_byte_a_second_is_given_up_after_the_timeout_of_the_whole() {
    let world = World::new().await;
    let clock = world.env().clock.clone();
    let server = world.server(&["a.test"], move |_| {
        let clock = clock.clone();
        let trickle = stream::iter(0..3600).then(move |_| {
            clock.advance(Duration::from_secs(1));
            // Whoever reads has a turn between two of them.
            async {
                tokio::task::yield_now().await;
                Ok(Bytes::from_static(b" "))
            }
        });
        let answer = pieces(trickle.chain(stream::pending()));
        Box::pin(async { answer })
    });
    world.names.service("a.test", server.await.port);
    let federation = world.federation();
    let refused = federation.version(name("a.test")).await;
    assert!(
        matches!(refused, Err(FederationError::Unreachable(_))),
        "{refused:?}"
    );
    assert!(federation.backoff(name("a.test")).await.unwrap().is_some());
}

/// An answer as gzip writes it. Nothing unpacks it: a small answer does not become a large one.
const PACKED: [u8; 54] = [
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 42, 78, 45, 42, 75, 45, 82, 178, 170, 86, 202, 75,
    204, 77, 85, 178, 82, 170, 80, 210, 81, 2, 138, 20, 103, 230, 231, 1, 121, 134, 74, 181, 181,
    0, 112, 183, 111, 213, 37, 0, 0, 0,
];

#[tokio::test]
async fn a_compressed_answer_is_not_unpacked() {
    let (_world, _server, federation) = world(|_| {
        let mut answer = pieces(stream::iter([Ok(Bytes::from_static(&PACKED))]));
        let encoding = HeaderValue::from_static("gzip");
        answer.headers_mut().insert("content-encoding", encoding);
        Box::pin(async { answer })
    })
    .await;
    let refused = federation.version(name("a.test")).await;
    assert!(
        matches!(refused, Err(FederationError::InvalidAnswer(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_until_it_calls() {
    let (world, server, federation) = world(|_| json(503, "")).await;
    let (a, event) = (name("a.test"), event_id!("$e"));
    assert!(federation.event(a, event).await.is_err());
    let left_alone = federation.event(a, event).await;
    assert!(
        matches!(left_alone, Err(FederationError::Backoff { .. })),
        "{left_alone:?}"
    );
    assert_eq!(server.count(), 1);
    // Somebody waits for this.
    assert!(federation.version(a).await.is_err());
    let urgent = federation.with_urgency(Urgency::Interactive);
    assert!(urgent.event(a, event).await.is_err());
    assert_eq!(server.count(), 3);
    federation.mark_alive(a).await.unwrap();
    assert!(
        federation
            .event(a, event)
            .await
            .unwrap_err()
            .remote()
            .is_some()
    );
    world.env().clock.advance(10 * MINUTE);
    assert!(
        federation
            .event(a, event)
            .await
            .unwrap_err()
            .remote()
            .is_some()
    );
    assert_eq!(server.count(), 5);
}

#[tokio::test]
async fn statuses_tell_against_the_server_or_only_against_the_request() {
    let cases = [
        (200, false),
        (302, false),
        (400, false),
        (401, true),
        (403, false),
        (404, false),
        (429, true),
        (500, true),
        (502, true),
    ];
    for (status, failing) in cases {
        let (_world, _server, federation) = world(move |_| json(status, "{}")).await;
        let _ = federation.version(name("a.test")).await;
        let backoff = federation.backoff(name("a.test")).await.unwrap();
        assert_eq!(backoff.is_some(), failing, "{status}");
    }
}

#[tokio::test]
async fn a_server_that_is_busy_says_when_to_come_back() {
    let cases = [
        (Some("120"), "{}", 120_000),
        (Some("Tue, 14 Nov 2023 22:14:20 GMT"), "{}", 60_000),
        (None, r#"{"retry_after_ms":5000}"#, 5000),
        // It does not say. Then it is tried again soon.
        (None, "{}", 2000),
    ];
    for (header, body, expected) in cases {
        let (_world, _server, federation) = world(move |_| {
            let mut answer = whole(429, body);
            if let Some(value) = header {
                answer
                    .headers_mut()
                    .insert("retry-after", HeaderValue::from_static(value));
            }
            Box::pin(async { answer })
        })
        .await;
        assert!(federation.version(name("a.test")).await.is_err());
        let until = federation.backoff(name("a.test")).await.unwrap();
        assert_eq!(until, Some(START_MS + expected), "{header:?}");
    }
}
