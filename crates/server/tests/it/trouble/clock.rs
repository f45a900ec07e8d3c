//! The machine's clock is set while the server runs.

use myelin_core::room_version::RoomVersion;

use super::newcomer::Newcomer;
use super::sending::until_told;
use crate::ca::Ca;
use crate::resident::Resident;

const HOUR_MS: i64 = 3_600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_clock_jumps_by_an_hour_either_way_messages_come_and_go_in_their_order() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 12).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join().await;
    let (server, room) = (newcomer.name(), resident.room_id().as_str());
    let mut watch = newcomer.client.watch();
    let mut shown = Vec::new();
    for (number, jump_ms) in [HOUR_MS, -2 * HOUR_MS, HOUR_MS].into_iter().enumerate() {
        newcomer.set_clock_by_ms(jump_ms);
        // The client has the session it had, and its sync goes on where it was.
        let words = format!("after a jump by {jump_ms} ms, the {number}th");
        let said = newcomer.client.say(room, &words).await;
        watch.until_event(room, &said).await;
        let servers = resident.room_of(server, |room| room.servers());
        until_told(&newcomer, &words, servers.len() - 1).await;
        let arrival = resident.room_of(server, |room| room.arrive(resident.key(2), 50 + number));
        let pushed = resident.push(server, newcomer.address(), std::slice::from_ref(&arrival));
        assert!(pushed.await.is_some());
        watch.until_event(room, arrival.event_id.as_str()).await;
        shown.extend([said, arrival.event_id.to_string()]);
    }
    let history = newcomer
        .client
        .history(room, |events| events.len() >= shown.len())
        .await;
    let ids = history
        .iter()
        .map(|event| event["event_id"].as_str().unwrap());
    let mut latest: Vec<_> = ids.take(shown.len()).collect();
    latest.reverse();
    assert_eq!(latest, shown);
    newcomer.stop().await;
}
