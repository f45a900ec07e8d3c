//! What servers tell each other beside the events of rooms: messages to devices.

use std::time::Duration;

use serde_json::{Value, json};

use super::meeting::Meeting;
use crate::client::{Client, EAGER, PATIENCE};
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

async fn everything_beside_events_goes_both_ways(resident: Kind, joining: Kind) {
    let meeting = Meeting::hold(resident, joining, "11").await;
    messages_to_devices(&meeting).await;
}

#[tokio::test]
async fn messages_to_devices_go_both_ways() {
    everything_beside_events_goes_both_ways(Kind::Synapse, Kind::Myelin).await;
}
