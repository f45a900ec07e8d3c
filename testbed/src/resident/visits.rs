//! What the resident's users do elsewhere: they join rooms of the server under test.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use myelin_core::build::EventDraft;
use myelin_core::pdu::Pdu;
use myelin_core::room_version::RoomVersion;
use myelin_env::Clock;
use ruma::{OwnedEventId, UserId};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use super::{Resident, history};
use crate::client::encode;

/// A membership as the first step of a handshake proposes it.
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
        let draft = self.proposed(to, (room, version), (user, "join")).await;
        let join = draft.finish(version, self.key(1)).unwrap().into_pdu();
        let path = format!(
            "{FEDERATION}/v2/send_join/{}/{}{query}",
            encode(room),
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

    /// Lets a user of the second name, given by number, join, leave or knock upon a room of a server, through
    /// that server. Answers what it says to the event.
    pub async fn hand(
        &self,
        to: (&str, SocketAddr),
        (room, version): (&str, RoomVersion),
        (number, what): (usize, &str),
    ) -> (u16, Value) {
        let user = history::user(number, self.key(1));
        let draft = self.proposed(to, (room, version), (&user, what)).await;
        let endpoint = if what == "knock" { "v1" } else { "v2" };
        let endpoint = format!("{endpoint}/send_{what}");
        let event = draft.finish(version, self.key(1)).unwrap().into_pdu();
        let body = serde_json::from_str(&event.json).unwrap();
        self.put_event(to, &endpoint, &event, body).await
    }

    /// Lets the user of the second name who is in a room of a server invite a user of that server. Answers what
    /// it says to that.
    pub async fn invite(
        &self,
        to: (&str, SocketAddr),
        (room, version): (&str, RoomVersion),
        target: &str,
    ) -> (u16, Value) {
        let user = history::user(1, self.key(1));
        // What authorises a user's leave suffices for an invite by the same user.
        let mut draft = self.proposed(to, (room, version), (&user, "leave")).await;
        draft.state_key = Some(target.to_owned());
        draft.content = to_raw_value(&json!({ "membership": "invite" })).unwrap();
        let event = draft.finish(version, self.key(1)).unwrap().into_pdu();
        let body: Value = serde_json::from_str(&event.json).unwrap();
        let body = json!({
            "room_version": version.as_str(),
            "event": body,
            "invite_room_state": [],
        });
        self.put_event(to, "v2/invite", &event, body).await
    }

    /// The membership of a user that a server proposes.
    async fn proposed(
        &self,
        to: (&str, SocketAddr),
        (room, version): (&str, RoomVersion),
        (user, what): (&UserId, &str),
    ) -> EventDraft {
        let path = format!(
            "{FEDERATION}/v1/make_{what}/{}/{}?ver={}",
            encode(room),
            encode(user.as_str()),
            version.as_str()
        );
        let proposed = self.request_as(1, to, ("GET", &path), None).await.unwrap();
        assert_eq!(proposed.status(), 200, "{:?}", proposed.body());
        let Proposed { event } = serde_json::from_slice(proposed.body()).unwrap();
        EventDraft {
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
        }
    }

    async fn put_event(
        &self,
        to: (&str, SocketAddr),
        endpoint: &str,
        event: &Pdu,
        body: Value,
    ) -> (u16, Value) {
        let room = encode(event.room_id.as_str());
        let id = encode(event.event_id.as_str());
        let path = format!("{FEDERATION}/{endpoint}/{room}/{id}");
        let answer = self.request_as(1, to, ("PUT", &path), Some(body)).await;
        let answer = answer.unwrap();
        let body = serde_json::from_slice(answer.body()).unwrap_or_default();
        (answer.status().as_u16(), body)
    }
}
