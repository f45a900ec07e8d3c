//! Floods: a server of which users are in a room sends as many transactions as it can, each as full as it may
//! be. They are answered, what may be kept of them has a bound, and nobody else waits for them.

use std::sync::Arc;
use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::figures::figures;
use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::resident::Resident;

/// How many of the server's transactions are under way together.
const AT_ONCE: usize = 3;

/// What the client does meanwhile, each after another transaction of the flood was taken.
const MESSAGES: usize = 30;

/// What a server asks others about events and rooms.
const ASKED: [&str; 8] = [
    "event",
    "event_auth",
    "get_missing_events",
    "make_join",
    "query",
    "send_join",
    "state",
    "state_ids",
];

/// A flood of transactions of the resident's second name.
struct Flood {
    senders: JoinSet<Vec<u16>>,
    /// How many were taken.
    taken: watch::Receiver<usize>,
    over: watch::Sender<bool>,
}

impl Flood {
    /// Begins it. `fill` makes what is in a transaction, by its number.
    fn begin(newcomer: &Newcomer, fill: impl Fn(usize) -> Value + Send + Sync + 'static) -> Self {
        let (counter, taken) = watch::channel(0);
        let (counter, fill) = (Arc::new(counter), Arc::new(fill));
        let over = watch::Sender::new(false);
        let mut senders = JoinSet::new();
        for sender in 0..AT_ONCE {
            let (resident, server) = (newcomer.resident.clone(), newcomer.name().to_owned());
            let at = newcomer.address();
            let (fill, counter, over) = (fill.clone(), counter.clone(), over.subscribe());
            senders.spawn(async move {
                let mut statuses = Vec::new();
                for number in (sender..).step_by(AT_ONCE) {
                    if *over.borrow() {
                        break;
                    }
                    let path = format!("/_matrix/federation/v1/send/flood{number}");
                    let sent = resident.request(&server, at, "PUT", &path, Some(fill(number)));
                    let (status, answer) = sent.await.unwrap();
                    assert!(status != 200 || answer["pdus"].is_object(), "{answer}");
                    statuses.push(status);
                    counter.send_modify(|taken| *taken += usize::from(status == 200));
                }
                statuses
            });
        }
        Self {
            senders,
            taken,
            over,
        }
    }

    /// Until one more was taken.
    async fn goes_on(&mut self) {
        let before = *self.taken.borrow();
        self.taken.wait_for(|taken| *taken > before).await.unwrap();
    }

    /// Ends it. Answers how each of its transactions was.
    async fn end(self) -> Vec<u16> {
        self.over.send_replace(true);
        self.senders.join_all().await.concat()
    }
}

/// Two users of a server talk while it is flooded, and each of them sees what the other says.
async fn talk_during(newcomer: &Newcomer, mut flood: Flood) {
    let (alice, bob) = (&newcomer.client, newcomer.register("bob").await);
    let room = alice.create_room(json!({ "preset": "public_chat" })).await;
    bob.join(&room).await;
    let (mut alice_sees, mut bob_sees) = (alice.watch(), bob.watch());
    for number in 0..MESSAGES {
        flood.goes_on().await;
        let said = alice.say(&room, &format!("{number}")).await;
        bob_sees.until_event(&room, &said).await;
        let said = bob.say(&room, &format!("{number} too")).await;
        alice_sees.until_event(&room, &said).await;
    }
    let statuses = flood.end().await;
    // One is taken at a time; the others are to come again.
    let proper = |status: &u16| matches!(status, 200 | 429);
    assert!(statuses.iter().all(proper), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_edus_keeps_nobody_waiting_and_leaves_what_has_a_bound() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 12).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    let member = resident.room_of(newcomer.name(), |room| room.speaker(resident.key(1)));
    let (name, sender) = (newcomer.name().to_owned(), resident.clone());
    let fill = move |number| sender.flood_of_edus(1, &name, number);
    let flood = Flood::begin(&newcomer, fill);
    talk_during(&newcomer, flood).await;

    let shown = newcomer.client.sync("{}", None, Duration::ZERO).await;
    let room = &shown["rooms"]["join"][resident.room_id().as_str()];
    let beside = room["ephemeral"]["events"].as_array().unwrap();
    for typing in beside.iter().filter(|event| event["type"] == "m.typing") {
        let typists = typing["content"]["user_ids"].as_array().unwrap();
        assert!(typists.iter().all(|typist| typist == member.as_str()));
    }
    newcomer
        .stop_and_expect(&[
            // So many threads of a user.
            "SELECT COUNT(*) FROM (SELECT user_id FROM receipts GROUP BY room, user_id
                HAVING COUNT(*) > 200) AS many",
            // And many were in the flood.
            "SELECT 200 - COUNT(*) FROM receipts",
            "SELECT COUNT(*) FROM receipts WHERE user_id LIKE '@stranger%'",
            "SELECT COUNT(*) FROM to_device_taken",
            "SELECT COUNT(*) FROM to_device_inbox",
            "SELECT COUNT(*) FROM received_transactions",
        ])
        .await;
}

/// How many rooms are in memory.
async fn rooms_in_memory(newcomer: &Newcomer) -> String {
    const FIGURE: &str = "myelin_cached_entries{cache=\"rooms\"}";
    let figures = figures(newcomer.address()).await;
    let found = figures.lines().find(|line| line.starts_with(FIGURE));
    found.unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_events_of_unknown_rooms_leaves_nothing_and_asks_nobody() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 12).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join().await;
    assert_eq!(newcomer.members().await, newcomer.everybody());
    let server = newcomer.name().to_owned();
    let asked = || ASKED.map(|endpoint| resident.asked(&server, endpoint).len());
    let asked_before = asked();
    let push = async |txn_id: usize, body: Value| {
        let path = format!("/_matrix/federation/v1/send/before{txn_id}");
        let sent = resident.request(&server, newcomer.address(), "PUT", &path, Some(body));
        let (status, answer) = sent.await.unwrap();
        assert_eq!(status, 200, "{answer}");
        answer["pdus"].clone()
    };
    let before = rooms_in_memory(&newcomer).await;
    for number in 0..10 {
        let body = resident.flood_of_unknown_rooms(1, number);
        assert_eq!(push(number, body).await, json!({}));
    }
    assert_eq!(rooms_in_memory(&newcomer).await, before);

    let sender = resident.clone();
    let fill = move |number| sender.flood_of_unknown_rooms(1, number + 10);
    let flood = Flood::begin(&newcomer, fill);
    talk_during(&newcomer, flood).await;
    // One that is known is judged among the others.
    let said = resident.room_of(&server, |room| room.say(resident.key(1), "among them"));
    let mut body = resident.flood_of_unknown_rooms(1, 5);
    body["pdus"][20] = serde_json::from_str(&said.json).unwrap();
    let answer = push(10, body).await;
    assert_eq!(answer, json!({ said.event_id.as_str(): {} }));
    newcomer.until_shown(&said).await;
    assert_eq!(asked(), asked_before);
    newcomer
        .stop_and_expect(&[
            // The resident's, and the two users' own.
            "SELECT COUNT(*) - 2 FROM rooms",
            "SELECT COUNT(*) FROM staged_pdus",
            "SELECT COUNT(*) FROM pull_failures",
            "SELECT COUNT(*) - 1 FROM received_transactions",
        ])
        .await;
}
