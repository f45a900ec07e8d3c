//! What servers tell each other beside the events of rooms: messages to devices, who types, who has
//! read.

use std::time::Duration;

use serde_json::{Value, json};

use super::meeting::Meeting;
use crate::client::{Client, EAGER, PATIENCE, encode};
use crate::homeserver::Kind;

/// A client's `/sync` loop that looks for something in each answer.
struct Follow<'a> {
    client: &'a Client,
    since: Option<String>,
}

impl<'a> Follow<'a> {
    /// Follows from now on.
    async fn begin(client: &'a Client) -> Self {
        let answer = client.sync(EAGER, None, Duration::ZERO).await;
        Self {
            client,
            since: answer["next_batch"].as_str().map(str::to_owned),
        }
    }

    /// Waits for an answer with the wanted in it.
    async fn until<T>(&mut self, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        let search = async {
            loop {
                let since = self.since.as_deref();
                let wait = Duration::from_secs(10);
                let answer = self.client.sync(EAGER, since, wait).await;
                self.since = answer["next_batch"].as_str().map(str::to_owned);
                if let Some(found) = wanted(&answer) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("{} was not shown {what}", self.client.user_id))
    }

    /// Waits for a message to the device.
    async fn until_told(&mut self, words: &str) -> Value {
        self.until(words, |answer| {
            let events = answer["to_device"]["events"].as_array()?;
            let found = events
                .iter()
                .find(|event| event["content"]["words"] == words);
            found.cloned()
        })
        .await
    }
}

fn in_room(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", encode(room))
}

/// Sends a message to a device, twice as a client does that got no answer.
async fn tell(from: &Client, to: &Client, device: &str, words: &str) {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example.tell/{words}");
    let messages = json!({ &to.user_id: { device: { "words": words } } });
    for _ in 0..2 {
        let body = json!({ "messages": messages });
        from.put(&path, body).await;
    }
}

async fn messages_to_devices(meeting: &Meeting) {
    let (alice, bob) = (&meeting.alice, &meeting.bob);
    for (from, to) in [(alice, bob), (bob, alice)] {
        let mut follow = Follow::begin(to).await;
        tell(from, to, "*", "to-all").await;
        let event = follow.until_told("to-all").await;
        assert_eq!(event["sender"], from.user_id.as_str());
        assert_eq!(event["type"], "org.example.tell");
        let device = to.get("/_matrix/client/v3/account/whoami").await;
        let device = device["device_id"].as_str().unwrap();
        tell(from, to, device, "to-one").await;
        follow.until_told("to-one").await;
        // What was acknowledged is gone, and nothing came twice.
        tell(from, to, "*", "the-last").await;
        let last = follow
            .until("the last", |answer| {
                let events = answer["to_device"]["events"].as_array()?;
                (!events.is_empty()).then(|| events.clone())
            })
            .await;
        assert_eq!(last.len(), 1, "{last:?}");
        assert_eq!(last[0]["content"]["words"], "the-last");
    }
}

/// An event of the room beside its timeline.
fn beside<'a>(answer: &'a Value, room: &str, event_type: &str) -> Option<&'a Value> {
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array()?;
    let event = events.iter().find(|event| event["type"] == event_type)?;
    Some(&event["content"])
}

async fn typing(meeting: &Meeting) {
    let (alice, bob) = (&meeting.alice, &meeting.bob);
    for (from, to) in [(alice, bob), (bob, alice)] {
        let mut follow = Follow::begin(to).await;
        let path = in_room(&meeting.room, &format!("typing/{}", encode(&from.user_id)));
        for (body, expected) in [
            (
                json!({ "typing": true, "timeout": 30_000 }),
                json!([from.user_id]),
            ),
            (json!({ "typing": false }), json!([])),
        ] {
            from.put(&path, body).await;
            let typing = follow.until("typing", |answer| {
                beside(answer, &meeting.room, "m.typing").cloned()
            });
            assert_eq!(typing.await["user_ids"], expected);
        }
    }
}

async fn receipts(meeting: &Meeting) {
    let (alice, bob) = (&meeting.alice, &meeting.bob);
    for (from, to) in [(alice, bob), (bob, alice)] {
        let event = to.say(&meeting.room, "read this").await;
        from.watch().until_event(&meeting.room, &event).await;
        let mut follow = Follow::begin(to).await;
        let send = async |receipt_type: &str, body: Value| {
            let path = format!("receipt/{receipt_type}/{}", encode(&event));
            from.post(&in_room(&meeting.room, &path), body).await;
        };
        // Nobody else sees this one. It would come first.
        send("m.read.private", json!({})).await;
        for body in [json!({ "thread_id": "main" }), json!({})] {
            send("m.read", body.clone()).await;
            let wanted = |answer: &Value| {
                let content = beside(answer, &meeting.room, "m.receipt")?;
                let of_event = content[&event].as_object()?;
                assert!(!of_event.contains_key("m.read.private"), "{answer}");
                let receipt = &of_event["m.read"][&from.user_id];
                receipt["ts"].is_u64().then(|| receipt["thread_id"].clone())
            };
            let thread = follow.until("a receipt", wanted).await;
            assert_eq!(thread, body["thread_id"]);
        }
    }
}

async fn everything_beside_events_goes_both_ways(resident: Kind, joining: Kind) {
    let meeting = Meeting::hold(resident, joining, "11").await;
    messages_to_devices(&meeting).await;
    typing(&meeting).await;
    receipts(&meeting).await;
}

#[tokio::test]
async fn messages_to_devices_typing_and_receipts_go_both_ways() {
    everything_beside_events_goes_both_ways(Kind::Synapse, Kind::Myelin).await;
}
