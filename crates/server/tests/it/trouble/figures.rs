//! What an operator sees of a server's work.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use myelin_core::room_version::RoomVersion;

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::http;
use crate::resident::Resident;

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

async fn figures(address: SocketAddr) -> String {
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
