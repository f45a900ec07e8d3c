//! What an operator sees of a server's work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use myelin_core::pdu::Pdu;
use myelin_core::room_version::RoomVersion;
use serde_json::json;

use super::newcomer::Newcomer;
use super::resync::partial;
use crate::ca::Ca;
use crate::http;
use crate::resident::{Conduct, Resident, user};

/// How long the longest pause of a worker is that counts.
const PAUSE: Duration = Duration::from_secs(15);

/// What a server with a partially joined room has counted after a message each way.
const COUNTED: [&str; 13] = [
    "myelin_http_requests_total{",
    "myelin_http_request_duration_seconds_bucket{",
    "myelin_http_requests_in_progress{",
    "myelin_events_total{verdict=\"accepted\"}",
    "myelin_events_waiting ",
    "myelin_resyncs_running ",
    "myelin_federation_requests_total{",
    "myelin_federation_answer_seconds_bucket{",
    "myelin_storage_commit_seconds_bucket{",
    "myelin_queued{queue=\"outbox\"}",
    "myelin_destinations{state=\"failing\"} 0",
    "myelin_cached_entries{cache=\"states\"}",
    "myelin_cached_bytes{cache=\"events\"}",
];

pub(super) async fn figures(address: SocketAddr) -> String {
    let request = Request::get("/metrics").header("host", "newcomer.test");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = http::send(address, request).await.unwrap();
    String::from_utf8(answer.into_body().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_does_is_counted() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 12).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    let (server, room) = (newcomer.name(), resident.room_id().as_str());
    newcomer.client.say(room, "ahoy").await;
    let arrival = resident.room_of(server, |room| room.arrive(resident.key(2), 50));
    let pushed = resident.push(server, newcomer.address(), std::slice::from_ref(&arrival));
    assert!(pushed.await.is_some());
    newcomer.until_shown(&arrival).await;
    let mut seen = String::new();
    // A worker's pause may begin late; whenever it does, it ends here.
    for _ in 0..1_000 {
        newcomer.pass(PAUSE);
        seen = figures(newcomer.address()).await;
        if COUNTED.iter().all(|figure| seen.contains(figure)) {
            break;
        }
    }
    for figure in COUNTED {
        assert!(seen.contains(figure), "{figure}\n{seen}");
    }
    newcomer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_another_room_in_an_answer_are_thrown_away_and_counted() {
    const COUNTER: &str = "myelin_foreign_events_total";
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V12, 12).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    let counted = figures(newcomer.address()).await;
    assert!(!counted.contains(&format!("{COUNTER} 3")), "{counted}");
    let another = Resident::start(&ca, RoomVersion::V12, 3).await;
    let foreign = another.room_of(newcomer.name(), |room| room.events()[..3].to_vec());
    let read = |event: &Arc<Pdu>| serde_json::from_str(&event.json).unwrap();
    let told: Vec<serde_json::Value> = foreign.iter().map(read).collect();
    let lie = Conduct::lie(move |answer| {
        answer["events"]
            .as_array_mut()
            .unwrap()
            .extend(told.clone());
    });
    resident.misbehave(None, "get_missing_events", lie);
    let key = resident.key(1);
    let said = resident.room_of(newcomer.name(), |room| {
        [room.say(key, "missing"), room.say(key, "pushed")]
    });
    let pushed = resident.push(newcomer.name(), newcomer.address(), &said[1..]);
    assert!(pushed.await.is_some());
    newcomer.until_shown(&said[1]).await;
    assert!(newcomer.has(&said[0]).await);
    let counted = figures(newcomer.address()).await;
    assert!(counted.contains(&format!("{COUNTER} 3")), "{counted}");
    newcomer
        .stop_and_expect(&["SELECT COUNT(*) - 1 FROM rooms"])
        .await;
}

/// A citizen is banned, and what they say beside the ban.
fn banned(newcomer: &Newcomer, number: usize) -> [Arc<Pdu>; 2] {
    let resident = &newcomer.resident;
    let (key, founder) = (resident.key(number), user(0, resident.key(0)));
    let citizen = user(number, key);
    resident.room_of(newcomer.name(), |room| {
        let said = room.draft(
            &citizen,
            "m.room.message",
            None,
            &json!({ "body": "still here" }),
        );
        let said = said.finish(room.version, key).unwrap().into_pdu();
        room.put_aside(said.clone());
        let name = ("m.room.member", citizen.as_str());
        let ban = room.write(
            resident.key(0),
            &founder,
            name,
            &json!({ "membership": "ban" }),
        );
        [ban, said]
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_failures_are_counted_and_a_partial_room_has_none() {
    const COUNTER: &str = "myelin_events_total{verdict=\"soft_failed\"}";
    let (newcomer, release) = partial().await;
    let (server, at) = (newcomer.name(), newcomer.address());
    let resident = newcomer.resident.clone();
    for event in banned(&newcomer, 1) {
        let pushed = resident.push(server, at, std::slice::from_ref(&event));
        assert!(pushed.await.is_some());
        newcomer.until_shown(&event).await;
    }
    assert!(!figures(at).await.contains(COUNTER));
    release.send_replace(true);
    assert_eq!(newcomer.members().await, newcomer.everybody());

    let [ban, beside] = banned(&newcomer, 2);
    let next = resident.room_of(server, |room| room.say(resident.key(3), "the next"));
    let all = [ban, beside, next.clone()];
    assert!(resident.push(server, at, &all).await.is_some());
    newcomer.until_shown(&next).await;
    let counted = figures(at).await;
    assert!(counted.contains(&format!("{COUNTER} 1")), "{counted}");
    newcomer.stop().await;
}
