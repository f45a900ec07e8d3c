//! When, and to whom, events are sent: servers that fail are left alone for a while (R134), and while a
//! room is partial it isn't known who is in it (R137).

use std::collections::BTreeSet;
use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use ruma::OwnedServerName;
use serde_json::json;

use super::newcomer::Newcomer;
use super::rest::until_at_rest;
use crate::ca::Ca;
use crate::client::encode;
use crate::resident::{Conduct, Resident};

const MINUTE: Duration = Duration::from_secs(60);

async fn newcomer() -> Newcomer {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 12).await;
    Newcomer::start(&resident, &ca, "newcomer.test").await
}

/// A newcomer that has something for a server which refuses it, until the second attempt has failed.
async fn refused() -> Newcomer {
    let newcomer = newcomer().await;
    let resident = &newcomer.resident;
    let broken = || Conduct::Error(500, "M_UNKNOWN");
    resident.misbehave(None, "send", broken());
    newcomer.tell("important").await;
    resident.until_asked(newcomer.name(), "send", 1).await;
    for (attempt, pause) in [(2, 10 * MINUTE), (3, 20 * MINUTE)] {
        let again = resident.until_asked(newcomer.name(), "send", attempt);
        // Up to a tenth is taken off by chance.
        let expected = pause * 9 / 10..=pause;
        let nearly = *expected.start() - Duration::from_secs(1);
        let ((), waited) = newcomer.wait_out(nearly, again).await;
        assert!(
            expected.contains(&waited),
            "{waited:?} in place of {pause:?}"
        );
    }
    // The refusal is noted a moment after it was given.
    until_at_rest().await;
    newcomer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_rests_longer_each_time_and_until_it_is_heard_from() {
    let newcomer = refused().await;
    let newcomer = newcomer.crash(&[]).await;
    let resident = &newcomer.resident;
    resident.behave();
    let path = "/_matrix/federation/v1/query/profile?user_id=@newcomer:newcomer.test";
    let heard = resident.request(newcomer.name(), newcomer.address(), "GET", path, None);
    assert_eq!(heard.await.unwrap().0, 200);
    resident.until_asked(newcomer.name(), "send", 4).await;
    let sent = resident.asked(newcomer.name(), "send");
    assert_eq!(sent[3].body["edus"], sent[0].body["edus"]);
    newcomer.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_answered_something_else_rests_no_longer() {
    let newcomer = refused().await;
    let resident = &newcomer.resident;
    resident.behave();
    // A person waits for this, so it is asked all the same. That it knows no such user is an answer.
    let user = format!("@nobody:{}", resident.names(1));
    let path = format!("/_matrix/client/v3/profile/{}", encode(&user));
    let (status, answer) = newcomer.client.call("GET", &path, None).await;
    assert_eq!(status, 404, "{answer}");
    resident.until_asked(newcomer.name(), "send", 4).await;
    newcomer.stop().await;
}

/// Who was sent a message, alone in its transaction.
fn told(newcomer: &Newcomer, words: &str) -> BTreeSet<OwnedServerName> {
    let sent = newcomer.resident.asked(newcomer.name(), "send");
    let with_it = sent
        .into_iter()
        .filter(|sent| sent.body["pdus"][0]["content"]["body"] == words);
    with_it.map(|sent| sent.name).collect()
}

/// Waits until so many servers were sent a message.
pub(super) async fn until_told(newcomer: &Newcomer, words: &str, servers: usize) {
    for sent in 1.. {
        if told(newcomer, words).len() >= servers {
            return;
        }
        let resident = &newcomer.resident;
        resident.until_asked(newcomer.name(), "send", sent).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_rooms_events_go_to_the_servers_of_the_join_and_to_those_that_came_after() {
    let newcomer = newcomer().await;
    let (resident, server) = (newcomer.resident.clone(), newcomer.name());
    let (hold, _held) = Conduct::hold();
    resident.misbehave(None, "state_ids", hold);
    let named = [resident.names(0), resident.names(1)];
    let naming = named.clone();
    let lie = move |answer: &mut serde_json::Value| answer["servers_in_room"] = json!(naming);
    resident.misbehave(None, "send_join", Conduct::lie(lie));
    newcomer.join().await;
    let room = resident.room_id().as_str();

    newcomer.client.say(room, "who is there?").await;
    until_told(&newcomer, "who is there?", 2).await;
    let arrival = resident.room_of(server, |room| room.arrive(resident.key(2), 50));
    let at = newcomer.address();
    assert!(
        resident
            .push(server, at, std::slice::from_ref(&arrival))
            .await
            .is_some()
    );
    let mut watch = newcomer.client.watch();
    watch.until_event(room, arrival.event_id.as_str()).await;
    newcomer.client.say(room, "and now?").await;
    until_told(&newcomer, "and now?", 3).await;

    let mut servers = BTreeSet::from(named);
    assert_eq!(told(&newcomer, "who is there?"), servers);
    servers.insert(resident.names(2));
    assert_eq!(told(&newcomer, "and now?"), servers);
    // Neither the join nor what others have said was passed on.
    for sent in resident.asked(server, "send") {
        for pdu in sent.body["pdus"].as_array().unwrap() {
            assert_eq!(pdu["sender"], newcomer.client.user_id.as_str());
            assert_eq!(pdu["type"], "m.room.message");
        }
    }
    newcomer.stop().await;
}
