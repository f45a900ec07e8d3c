//! What servers tell each other beside the events of rooms: messages to devices, who types, who has
//! read, who is there.

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
            let thread = follow.until("a receipt", |answer| {
                thread_read(answer, (&meeting.room, &event), from)
            });
            assert_eq!(thread.await, body["thread_id"]);
        }
        let reply = in_thread(to, &meeting.room, &event).await;
        from.watch().until_event(&meeting.room, &reply).await;
        let path = format!("receipt/m.read/{}", encode(&reply));
        let body = json!({ "thread_id": event });
        from.post(&in_room(&meeting.room, &path), body).await;
        let thread = follow.until("a receipt of a thread", |answer| {
            thread_read(answer, (&meeting.room, &reply), from)
        });
        assert_eq!(thread.await, event.as_str());
    }
}

/// In which thread a user has read an event, if that is shown.
fn thread_read(answer: &Value, (room, event): (&str, &str), user: &Client) -> Option<Value> {
    let content = beside(answer, room, "m.receipt")?;
    let of_event = content[event].as_object()?;
    assert!(!of_event.contains_key("m.read.private"), "{answer}");
    let receipt = &of_event.get("m.read")?[&user.user_id];
    receipt["ts"].is_u64().then(|| receipt["thread_id"].clone())
}

/// Replies to an event in a thread.
async fn in_thread(from: &Client, room: &str, root: &str) -> String {
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let content = json!({ "msgtype": "m.text", "body": "a reply", "m.relates_to": relation });
    let path = format!("send/m.room.message/reply-{}", encode(&from.user_id));
    let answer = from.put(&in_room(room, &path), content).await;
    answer["event_id"].as_str().unwrap().to_owned()
}

/// How a user is shown to be, if it is shown.
fn shown<'a>(answer: &'a Value, user: &Client) -> Option<&'a Value> {
    let events = answer["presence"]["events"].as_array()?;
    let event = events
        .iter()
        .find(|event| event["sender"] == user.user_id.as_str())?;
    Some(&event["content"])
}

async fn presence(meeting: &Meeting) {
    let (alice, bob) = (&meeting.alice, &meeting.bob);
    for (from, to) in [(alice, bob), (bob, alice)] {
        let mut follow = Follow::begin(to).await;
        let path = format!(
            "/_matrix/client/v3/presence/{}/status",
            encode(&from.user_id)
        );
        for body in [
            json!({ "presence": "unavailable", "status_msg": "at lunch" }),
            json!({ "presence": "online", "status_msg": "back again" }),
            json!({ "presence": "online" }),
            json!({ "presence": "offline" }),
        ] {
            from.put(&path, body.clone()).await;
            let wanted = |answer: &Value| {
                let content = shown(answer, from)?;
                let is_as_said = content["presence"] == body["presence"]
                    && content["status_msg"] == body["status_msg"];
                is_as_said.then(|| content.clone())
            };
            let content = follow.until(&body.to_string(), wanted).await;
            assert!(content["last_active_ago"].is_u64(), "{content}");
            let is_online = body["presence"] == "online";
            let active = is_online.then_some(true);
            assert_eq!(content["currently_active"].as_bool(), active, "{content}");
            let status = to.get(&path).await;
            assert_eq!(status["presence"], body["presence"], "{status}");
            assert_eq!(status["status_msg"], body["status_msg"], "{status}");
        }
    }
}

async fn everything_beside_events_goes_both_ways(resident: Kind, joining: Kind) {
    let meeting = Meeting::hold(resident, joining, "11").await;
    messages_to_devices(&meeting).await;
    typing(&meeting).await;
    receipts(&meeting).await;
    presence(&meeting).await;
}

#[tokio::test]
async fn messages_to_devices_typing_receipts_and_presence_go_both_ways() {
    everything_beside_events_goes_both_ways(Kind::Synapse, Kind::Myelin).await;
}

#[tokio::test]
async fn messages_to_devices_typing_receipts_and_presence_go_both_ways_with_myelin_as_resident() {
    everything_beside_events_goes_both_ways(Kind::Myelin, Kind::Synapse).await;
}
