//! What the resident's users do elsewhere: they join rooms of the server under test.

use std::net::SocketAddr;

use myelin_core::build::EventDraft;
use myelin_core::room_version::RoomVersion;
use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{Resident, history};
use crate::client::encode;

/// A join as `make_join` proposes it.
#[derive(Deserialize)]
struct Proposed {
    event: ProposedEvent,
}

#[derive(Deserialize)]
struct ProposedEvent {
    content: Box<RawValue>,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    depth: i64,
}

impl Resident {
    /// Lets a user of the second name join a room of a server, through that server.
    pub async fn visit(&self, server: &str, at: SocketAddr, room: &str, version: RoomVersion) {
        const FEDERATION: &str = "/_matrix/federation";
        let user = history::user(1, self.key(1));
        let named = encode(room);
        let path = format!(
            "{FEDERATION}/v1/make_join/{named}/{}?ver={}",
            encode(user.as_str()),
            version.as_str()
        );
        let (status, proposed) = self.request(server, at, "GET", &path, None).await.unwrap();
        assert_eq!(status, 200, "{proposed}");
        let Proposed { event } = serde_json::from_value(proposed).unwrap();
        let draft = EventDraft {
            room_id: Some(room.try_into().unwrap()),
            state_key: Some(user.to_string()),
            sender: user,
            event_type: "m.room.member".to_owned(),
            content: event.content,
            prev_events: event.prev_events,
            auth_events: event.auth_events,
            depth: event.depth,
            origin_server_ts: history::now(),
            redacts: None,
        };
        let join = draft.finish(version, self.key(1)).unwrap().into_pdu();
        let path = format!(
            "{FEDERATION}/v2/send_join/{named}/{}",
            encode(join.event_id.as_str())
        );
        let body: Value = serde_json::from_str(&join.json).unwrap();
        let answer = self.request(server, at, "PUT", &path, Some(body)).await;
        let (status, answer) = answer.unwrap();
        assert_eq!(status, 200, "{answer}");
    }
}
