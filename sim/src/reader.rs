//! A client that reads: it asks `/sync` again and again and keeps what it was shown.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use myelin_env::CancellationToken;
use serde_json::Value;

use crate::client::{Client, encode};

/// Timelines without gaps, nothing but rooms.
const FILTER: &str = r#"{"presence":{"types":[]},"room":{"timeline":{"limit":1000}}}"#;

/// What a client was shown.
pub struct Reader {
    client: Client,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    user_id: String,
    /// The room of which nothing is to be missing from where it begins.
    bound_to: Option<String>,
    since: Option<String>,
    /// The timeline events of each room, in order.
    rooms: BTreeMap<String, Vec<String>>,
    complaints: Vec<String>,
}

impl Reader {
    /// A client that has been shown nothing. Its user is in the room `bound_to` from the beginning to the end.
    #[must_use]
    pub fn new(client: Client, bound_to: Option<String>) -> Self {
        Self {
            shown: Mutex::new(Shown {
                user_id: client.user_id.clone(),
                bound_to,
                ..Shown::default()
            }),
            client,
        }
    }

    /// Whose client it is.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether the user is in a room from the beginning to the end.
    #[must_use]
    pub fn is_bound_to(&self, room: &str) -> bool {
        self.with(|shown| shown.bound_to.as_deref() == Some(room))
    }

    /// Reads until told to stop.
    pub async fn read(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let asked = stop.run_until_cancelled(self.once(20_000)).await;
            if asked == Some(false) {
                self.client.pause().await;
            }
        }
    }

    /// Asks once, and waits so many milliseconds for news. False without an answer.
    pub async fn once(&self, timeout_ms: u64) -> bool {
        let since = self.with(|shown| shown.since.clone());
        let mut path = format!(
            "/_matrix/client/v3/sync?timeout={timeout_ms}&filter={}",
            encode(FILTER)
        );
        if let Some(since) = since {
            path.push_str("&since=");
            path.push_str(&encode(&since));
        }
        let Some((status, answer)) = self.client.ask("GET", &path, None).await else {
            return false;
        };
        self.with(|shown| shown.take(status, &answer));
        status == 200
    }

    /// The events of a room that were shown, in order.
    #[must_use]
    pub fn shown(&self, room: &str) -> Vec<String> {
        self.with(|shown| shown.rooms.get(room).cloned().unwrap_or_default())
    }

    /// What was wrong with the answers alone.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.with(|shown| shown.complaints.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Shown) -> T) -> T {
        look(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shown {
    fn take(&mut self, status: u16, answer: &Value) {
        if status != 200 {
            if status < 500 {
                self.complaints.push(format!("/sync: {status} {answer}"));
            }
            return;
        }
        self.since = answer["next_batch"].as_str().map(str::to_owned);
        for section in ["join", "leave"] {
            let rooms = answer["rooms"][section].as_object();
            for (room, news) in rooms.into_iter().flatten() {
                self.take_room(room, &news["timeline"], section == "leave");
            }
        }
    }

    fn take_room(&mut self, room: &str, timeline: &Value, has_left: bool) {
        let events: Vec<&Value> = timeline["events"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let is_own =
            |event: &Value| event["type"] == "m.room.member" && event["state_key"] == *self.user_id;
        let is_join = |event: &&Value| is_own(event) && event["content"]["membership"] == "join";
        let came_in = events.iter().any(is_join);
        let shown = self.rooms.entry(room.to_owned()).or_default();
        // A room that a user has come into is shown anew. So is one of which the server missed something, and one
        // that could not be shown for a while, because the server itself had come into it.
        if came_in || timeline["limited"] == true {
            shown.clear();
        }
        let length = events.len();
        for event in events {
            let Some(id) = event["event_id"].as_str() else {
                continue;
            };
            // That it is out a user is told again, by the same event, when a resolution has put it out once more.
            if has_left && is_own(event) {
                continue;
            }
            if shown.iter().any(|known| known == id) {
                self.complaints
                    .push(format!("{id} of {room} again, among {length} events"));
            }
            shown.push(id.to_owned());
        }
    }
}
