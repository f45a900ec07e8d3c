//! A server that is away for long, and what it gets when it is back (R134, R135).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use myelin_core::room_version::RoomVersion;
use serde_json::json;

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::client::encode;
use crate::resident::{Asked, Conduct, Resident, user};

const ROOMS: usize = 200;
const MESSAGES: usize = 50;

/// How many requests are made at once.
const AT_ONCE: usize = 50;

/// How often the outbox is looked through.
const WORKER: Duration = Duration::from_secs(600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The rooms, each with a user of the resident's.
async fn visited_rooms(newcomer: &Newcomer) -> Vec<String> {
    let wish = || json!({ "preset": "public_chat", "room_version": "11" });
    let created = stream::iter(0..ROOMS).map(|_| newcomer.client.create_room(wish()));
    let rooms: Vec<String> = created.buffer_unordered(AT_ONCE).collect().await;
    let (name, at) = (newcomer.name(), newcomer.address());
    let visits = rooms
        .iter()
        .map(|room| newcomer.resident.visit(name, at, room, RoomVersion::V11));
    let visits = stream::iter(visits).buffer_unordered(AT_ONCE);
    visits.collect::<Vec<()>>().await;
    rooms
}

/// Says all messages in each room, in order.
async fn talk(newcomer: &Newcomer, rooms: &[String]) {
    for number in 0..MESSAGES {
        let said = rooms.iter().map(|room| async move {
            let path = format!(
                "/_matrix/client/v3/rooms/{}/send/m.room.message/{number}",
                encode(room)
            );
            let message = json!({ "msgtype": "m.text", "body": number.to_string() });
            newcomer.client.put(&path, message).await
        });
        let said = stream::iter(said).buffer_unordered(AT_ONCE);
        said.collect::<Vec<_>>().await;
    }
}

/// The numbers of the messages that came, by room. What came again counts once.
fn arrived(transactions: &[Asked]) -> BTreeMap<String, Vec<usize>> {
    let mut arrived: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let by_path = transactions.iter().map(|sent| (&sent.path, sent));
    let transactions: BTreeMap<_, _> = by_path.collect();
    for pdu in transactions
        .values()
        .flat_map(|transaction| transaction.body["pdus"].as_array().unwrap())
    {
        let text = |field: &serde_json::Value| field.as_str().unwrap().to_owned();
        let number = text(&pdu["content"]["body"]).parse().unwrap();
        arrived
            .entry(text(&pdu["room_id"]))
            .or_default()
            .push(number);
    }
    arrived
}

#[tokio::test]
async fn a_server_that_was_away_for_a_day_gets_the_last_event_of_each_room() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 10).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    let rooms = visited_rooms(&newcomer).await;
    resident.misbehave(None, "send", Conduct::Error(502, "M_UNKNOWN"));
    talk(&newcomer, &rooms).await;
    // It is tried again after 10, 20, 40, 80 and 160 minutes.
    let tried = resident.asked(newcomer.name(), "send").len();
    let again = resident.until_asked(newcomer.name(), "send", tried + 5);
    newcomer.wait_for_hours(WORKER, again).await;
    newcomer.pass(DAY);
    let newcomer = newcomer.crash(&[]).await;
    let before = resident.asked(newcomer.name(), "send").len();
    resident.behave();
    let all = || arrived(&resident.asked(newcomer.name(), "send")[before..]);
    let complete = async {
        for sent in before.. {
            if all().len() == ROOMS {
                break;
            }
            resident
                .until_asked(newcomer.name(), "send", sent + 1)
                .await;
        }
    };
    newcomer.wait_for_hours(WORKER, complete).await;
    // Of each room the last message suffices; who gets it can ask for the others.
    let expected = rooms.iter().map(|room| (room.clone(), vec![MESSAGES - 1]));
    assert_eq!(all(), expected.collect());
    newcomer.stop().await;
}

/// Takes no transactions.
const AWAY: Conduct = Conduct::Error(502, "M_UNKNOWN");

impl Newcomer {
    /// What is said in each transaction that one of the resident's names was sent.
    fn told(&self, number: usize) -> Vec<BTreeSet<String>> {
        let name = self.resident.names(number);
        let sent = self.resident.asked(self.name(), "send").into_iter();
        let to_it = sent.filter(|sent| sent.name == name);
        let words = |sent: Asked| {
            let pdus = sent.body["pdus"].as_array().unwrap().iter();
            let words = pdus.filter_map(|pdu| pdu["content"]["body"].as_str());
            words.map(str::to_owned).collect()
        };
        to_it.map(words).collect()
    }

    /// Waits until both of the servers that were away have been sent so many transactions.
    async fn until_told(&self, times: usize) {
        for sent in 0.. {
            if self.told(0).len() >= times && self.told(3).len() >= times {
                return;
            }
            self.resident
                .until_asked(self.name(), "send", sent + 1)
                .await;
        }
    }
}

/// What two servers hear when they come back. While they were away, we have said something that nobody
/// has seen, the second one was thrown out, and others have talked.
async fn after_an_absence(is_partial: bool) -> [BTreeSet<String>; 2] {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 6).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    let (hold, release) = Conduct::hold();
    resident.misbehave(None, "state_ids", hold);
    for number in [0, 3] {
        resident.misbehave(Some(&resident.names(number)), "send", AWAY);
    }
    newcomer.join().await;
    if !is_partial {
        release.send_replace(true);
        assert_eq!(newcomer.members().await, newcomer.everybody());
    }
    let room = resident.room_id().as_str();
    newcomer.client.say(room, "ours").await;
    newcomer.until_told(1).await;
    let events = resident.room_of(newcomer.name(), |room| {
        let (founder, target) = (user(0, resident.key(0)), user(3, resident.key(3)));
        let name = ("m.room.member", target.as_str());
        let kick = json!({ "membership": "leave" });
        let kick = room.write(resident.key(0), &founder, name, &kick);
        [kick, room.say(resident.key(1), "theirs")]
    });
    let pushed = resident.push(newcomer.name(), newcomer.address(), &events);
    assert!(pushed.await.is_some());
    let mut watch = newcomer.client.watch();
    watch.until_event(room, events[1].event_id.as_str()).await;
    newcomer.pass(DAY);
    newcomer
        .wait_for_hours(WORKER, newcomer.until_told(2))
        .await;
    for number in [0, 3] {
        let there = Conduct::lie(|_| {});
        resident.misbehave(Some(&resident.names(number)), "send", there);
    }
    newcomer
        .wait_for_hours(WORKER, newcomer.until_told(3))
        .await;
    let heard = [0, 3].map(|number| newcomer.told(number).pop().unwrap());
    newcomer.stop().await;
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_hears_how_far_the_room_has_come_as_far_as_they_may_see_it() {
    let ours = BTreeSet::from(["ours".to_owned()]);
    let both = BTreeSet::from(["ours".to_owned(), "theirs".to_owned()]);
    assert_eq!(after_an_absence(false).await, [both, ours]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_hears_of_a_partial_room_only_what_is_ours() {
    let ours = BTreeSet::from(["ours".to_owned()]);
    assert_eq!(after_an_absence(true).await, [ours.clone(), ours]);
}
