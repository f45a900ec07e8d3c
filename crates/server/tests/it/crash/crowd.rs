//! Many who send to one room, and what is right about what the room shows afterwards.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::client::{Client, encode};

/// How many messages are on their way at the same time, and how many each sender sends.
const SENDERS: usize = 250;
const EACH: usize = 4;

/// A message that was begun to be sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    text: String,
    /// When the request began, and when it was answered, on one clock of all senders.
    began: u64,
    answered: Option<(u64, String)>,
}

/// Sends from many tasks, each until all of its messages are sent or one is refused.
pub(super) struct Crowd {
    client: Client,
    room: String,
    /// Counts what is begun and answered.
    clock: AtomicU64,
    log: Mutex<Vec<Sent>>,
    acknowledged: watch::Sender<usize>,
}

impl Crowd {
    pub(super) fn new(client: &Client, room: &str) -> Arc<Self> {
        Arc::new(Self {
            client: client.clone(),
            room: room.to_owned(),
            clock: AtomicU64::new(0),
            log: Mutex::default(),
            acknowledged: watch::Sender::new(0),
        })
    }

    /// Until all have ended. Answers what was sent; nothing may have been refused unless that is
    /// expected then.
    pub(super) async fn send(self: &Arc<Self>, is_expected: impl Fn() -> bool) -> Vec<Sent> {
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let crowd = self.clone();
                tokio::spawn(async move { crowd.send_all(sender).await })
            })
            .collect();
        for sender in senders {
            if let Err(other) = sender.await.unwrap() {
                assert!(is_expected(), "refused: {other:?}");
            }
        }
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// Until so many messages are acknowledged.
    pub(super) async fn until_acknowledged(&self, messages: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        let enough = acknowledged.wait_for(|acknowledged| *acknowledged >= messages);
        enough.await.unwrap();
    }

    /// One sender: each message after the one before it was answered.
    async fn send_all(&self, sender: usize) -> Result<(), Refusal> {
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
            answer?;
            self.acknowledged
                .send_modify(|acknowledged| *acknowledged += 1);
        }
        Ok(())
    }
}

/// Status and body, if there was an answer.
type Refusal = Option<(u16, Value)>;

/// The event ID if the message was acknowledged, or what was answered instead. The text is the
/// transaction's ID too, so sending it again is repeating the request.
async fn send(client: &Client, room: &str, text: &str) -> Result<String, Refusal> {
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

/// The messages of a room, oldest first: event IDs and texts.
pub(super) async fn timeline(client: &Client, room: &str) -> Vec<(String, String)> {
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
pub(super) fn assert_kept(timeline: &[(String, String)], log: &[Sent]) {
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

/// How many were acknowledged.
pub(super) fn acknowledged(log: &[Sent]) -> usize {
    log.iter().filter(|sent| sent.answered.is_some()).count()
}

/// Sends again what was not acknowledged. It is there once, whether it had been stored or not.
pub(super) async fn send_the_rest(client: &Client, room: &str, log: &mut [Sent]) {
    let open = log.iter_mut().filter(|sent| sent.answered.is_none());
    let again = open.map(async |sent| {
        let event = send(client, room, &sent.text).await.unwrap();
        sent.answered = Some((u64::MAX, event));
    });
    join_all(again).await;
}
