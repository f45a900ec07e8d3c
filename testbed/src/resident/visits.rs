//! What the resident's users do elsewhere: they join rooms of the server under test.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use myelin_core::build::EventDraft;
use myelin_core::room_version::RoomVersion;
use myelin_env::Clock;
use ruma::{OwnedEventId, UserId};
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

/// How a visit was received.
#[derive(Debug)]
pub struct Visit {
    /// How long the answer to `send_join` took, until its last byte.
    pub took: Duration,
    /// What it answered.
    pub answer: Bytes,
}

const FEDERATION: &str = "/_matrix/federation";

impl Resident {
    /// Lets a user of the second name join a room of a server, through that server.
    pub async fn visit(&self, server: &str, at: SocketAddr, room: &str, version: RoomVersion) {
        let user = history::user(1, self.key(1));
        self.visit_as(&user, (server, at), (room, version), "")
            .await;
    }

    /// Lets a user of the second name join a room of a server, through that server; with a query for
    /// `send_join`.
    ///
    /// # Panics
    /// If the user is not let in.
    pub async fn visit_as(
        &self,
        user: &UserId,
        to: (&str, SocketAddr),
        (room, version): (&str, RoomVersion),
        query: &str,
    ) -> Visit {
        let named = encode(room);
        let path = format!(
            "{FEDERATION}/v1/make_join/{named}/{}?ver={}",
            encode(user.as_str()),
            version.as_str()
        );
        let proposed = self.request_as(1, to, ("GET", &path), None).await.unwrap();
        assert_eq!(proposed.status(), 200, "{:?}", proposed.body());
        let Proposed { event } = serde_json::from_slice(proposed.body()).unwrap();
        let draft = EventDraft {
            room_id: Some(room.try_into().unwrap()),
            state_key: Some(user.to_string()),
            sender: user.to_owned(),
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
            "{FEDERATION}/v2/send_join/{named}/{}{query}",
            encode(join.event_id.as_str())
        );
        let body: Value = serde_json::from_str(&join.json).unwrap();
        let clock = Clock::real();
        let sent = clock.instant();
        let answer = self.request_as(1, to, ("PUT", &path), Some(body)).await;
        let (answer, took) = (answer.unwrap(), sent.elapsed(&clock));
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        let answer = answer.into_body();
        Visit { took, answer }
    }
}
