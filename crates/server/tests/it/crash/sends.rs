//! Power cuts while 1,000 messages are sent to one room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use myelin_env::Random;
use serde_json::{Value, json};

use crate::ca::Ca;
use crate::client::{Client, encode};
use crate::machine::{Machine, loss};

/// How many messages are on their way at the same time, and how many each sender sends.
const SENDERS: usize = 250;
const EACH: usize = 4;

/// How many power cuts each test makes: 50 in all. The tests run side by side.
const MOMENTS: u64 = 10;

/// A message that was begun to be sent.
#[derive(Clone, Debug)]
struct Sent {
    text: String,
    /// When the request began, and when it was answered, on one clock of all senders.
    began: u64,
    answered: Option<(u64, String)>,
}

/// Sends from many tasks until all is sent or the power is gone.
struct Crowd {
    client: Client,
    machine: Arc<Machine>,
    room: String,
    /// Counts what is begun and answered.
    clock: AtomicU64,
    log: Mutex<Vec<Sent>>,
}

impl Crowd {
    /// One sender: each message after the one before it was answered.
    async fn send_all(&self, sender: usize) {
        for number in 0..EACH {
            let text = format!("{sender}.{number}");
            let began = self.clock.fetch_add(1, Ordering::SeqCst);
            let answer = send(&self.client, &self.room, &text).await;
            let end = self.clock.fetch_add(1, Ordering::SeqCst);
            self.log.lock().unwrap().push(Sent {
                text,
                began,
                answered: answer.clone().ok().map(|event| (end, event)),
            });
            if let Err(other) = answer {
                assert!(!self.machine.power.is_on(), "refused: {other:?}");
                return;
            }
        }
    }
}

/// The event ID if the message was acknowledged, or what was answered instead. The text is the
/// transaction's ID too, so sending it again is repeating the request.
async fn send(client: &Client, room: &str, text: &str) -> Result<String, Option<(u16, Value)>> {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/send/m.room.message/{text}",
        encode(room)
    );
    let body = json!({ "msgtype": "m.text", "body": text });
    match client.try_call("PUT", &path, Some(body)).await {
        Some((200, answer)) => Ok(answer["event_id"].as_str().unwrap().to_owned()),
        other => Err(other),
    }
}

/// Sends until the power goes, after so many operations or when all is sent. Answers how many
/// operations there were.
async fn send_until_the_power_goes(
    machine: &Arc<Machine>,
    operations: Option<u64>,
) -> (Client, String, Vec<Sent>, u64) {
    let life = machine.start().await;
    let client = Client::register(life.address(), "alice").await;
    let room = client.create_room(json!({})).await;
    let before = machine.power.operations();
    if let Some(operations) = operations {
        machine.power.cut_after(operations);
    }
    let crowd = Arc::new(Crowd {
        client: client.clone(),
        machine: machine.clone(),
        room: room.clone(),
        clock: AtomicU64::new(0),
        log: Mutex::default(),
    });
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let crowd = crowd.clone();
            tokio::spawn(async move { crowd.send_all(sender).await })
        })
        .collect();
    let sending = async {
        for sender in senders {
            sender.await.unwrap();
        }
        let operations = machine.power.operations() - before;
        machine.power.cut();
        operations
    };
    let crash = async {
        machine.power.lost().await;
        life.end().await;
    };
    let (operations, ()) = tokio::join!(sending, crash);
    let log = std::mem::take(&mut *crowd.log.lock().unwrap());
    (client, room, log, operations)
}

/// The messages of a room, oldest first: event IDs and texts.
async fn timeline(client: &Client, room: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let history = client.history(room, |_| false).await;
    let messages = history
        .iter()
        .rev()
        .filter(|event| event["type"] == "m.room.message");
    messages
        .map(|event| (text(&event["event_id"]), text(&event["content"]["body"])))
        .collect()
}

/// Fails unless each message is there once at most, those that were acknowledged under their IDs, and
/// none before one that was answered before it was begun.
fn assert_kept(timeline: &[(String, String)], log: &[Sent]) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, (_, text)) in timeline.iter().enumerate() {
        places.entry(text).or_default().push(place);
    }
    let mut placed = Vec::new();
    for sent in log {
        let found = places.get(&*sent.text).map_or(&[][..], Vec::as_slice);
        match (found, &sent.answered) {
            ([place], Some((_, event))) => {
                assert_eq!(&timeline[*place].0, event, "{}", sent.text);
                placed.push((*place, sent));
            }
            ([place], None) => placed.push((*place, sent)),
            ([], None) => {}
            (found, answered) => panic!("{} at {found:?}, {answered:?}", sent.text),
        }
    }
    placed.sort_by_key(|(place, _)| *place);
    let mut latest_began: Option<&Sent> = None;
    for (_, sent) in placed {
        if let (Some(before), Some((answered, _))) = (latest_began, &sent.answered) {
            assert!(
                before.began < *answered,
                "{before:?} stands before {sent:?}"
            );
        }
        if latest_began.is_none_or(|latest| latest.began < sent.began) {
            latest_began = Some(sent);
        }
    }
}

/// Cuts the power at random moments that follow from the seed.
async fn send_and_cut_the_power(seed: u64) {
    let ca = Ca::generate();
    let random = Random::seeded(seed);
    let mut whole = None;
    // The first time it goes when all is sent: that tells how much there is to be cut.
    for moment in 0..=MOMENTS {
        let machine = Arc::new(Machine::new("sends.test", &ca, None, loss(moment)));
        let operations = whole.map(|whole| random.below(whole));
        let (client, room, mut log, took) = send_until_the_power_goes(&machine, operations).await;
        whole.get_or_insert(took);
        let acknowledged = log.iter().filter(|sent| sent.answered.is_some()).count();
        eprintln!(
            "seed {seed}, moment {moment}: cut after {operations:?} of {whole:?}, acknowledged: {acknowledged}"
        );

        machine.power.restore();
        let life = machine.start().await;
        let client = client.at(life.address());
        // What was not acknowledged is tried again, and is there once whether it had been stored or
        // not. What was acknowledged is not: it has to be there.
        let open = log.iter_mut().filter(|sent| sent.answered.is_none());
        let again = open.map(async |sent| {
            let event = send(&client, &room, &sent.text).await.unwrap();
            sent.answered = Some((u64::MAX, event));
        });
        join_all(again).await;
        let last = client.say(&room, "the room goes on").await;
        let timeline = timeline(&client, &room).await;
        assert_kept(&timeline, &log);
        assert_eq!(timeline.last().unwrap().0, last);
        assert_eq!(timeline.len(), log.len() + 1);
        life.stop().await;
        machine.assert_at_rest(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_1() {
    send_and_cut_the_power(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_2() {
    send_and_cut_the_power(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_3() {
    send_and_cut_the_power(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_4() {
    send_and_cut_the_power(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_5() {
    send_and_cut_the_power(5).await;
}
