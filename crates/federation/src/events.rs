//! Fetching events and state from another server.

use http::Method;
use ruma::{EventId, OwnedEventId, RoomId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Federation, PduStream, StateAnswer,
    error::FederationError,
    request::{LONG_TIMEOUT, MIB, Request},
};

/// For the IDs of 200,000 events of state and twice as many of auth chain.
const LARGEST_STATE_IDS: usize = 128 * MIB;
/// For some 100,000 events of an auth chain.
const LARGEST_AUTH_CHAIN: usize = 128 * MIB;
/// For one event, with room for a wasteful form.
const LARGEST_EVENT: usize = MIB;
/// For 100 events of the largest size.
const LARGEST_BACKFILL: usize = 16 * MIB;

/// The IDs of the state at an event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StateIds {
    /// The state before the event.
    pub pdu_ids: Vec<OwnedEventId>,
    /// The auth chain of that state.
    pub auth_chain_ids: Vec<OwnedEventId>,
}

/// An event that another server found by time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EventAtTime {
    /// The event.
    pub event_id: OwnedEventId,
    /// When it says that it was made, by the other server's word, in Unix milliseconds.
    pub origin_server_ts: i64,
}

/// Which events of a gap are asked for.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MissingEvents<'a> {
    /// What is held already: the answer stops there.
    pub earliest_events: &'a [OwnedEventId],
    /// The events whose ancestors are missing.
    pub latest_events: &'a [OwnedEventId],
    /// The most events to be sent.
    pub limit: u32,
    /// Events below this depth aren't wanted.
    pub min_depth: i64,
}

/// PDUs in the form of a transaction.
#[derive(Deserialize)]
struct Pdus {
    pdus: Vec<Box<RawValue>>,
}

impl Federation {
    /// `GET /v1/state_ids`: the state before `event_id`, as IDs.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn state_ids(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<StateIds, FederationError> {
        let request = Request::get("state_ids", "v1/state_ids")
            .segment(room_id)
            .query("event_id", event_id)
            .timeout(LONG_TIMEOUT)
            .limit(LARGEST_STATE_IDS);
        self.ask(server, request).await
    }

    /// `GET /v1/state`: the state before `event_id`, whole and in memory.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn state(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<StateAnswer, FederationError> {
        let mut stream = self.state_stream(server, room_id, event_id).await?;
        stream.collect().await
    }

    /// `GET /v1/state`: the state before `event_id`, read as it arrives.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn state_stream(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<PduStream, FederationError> {
        let request = Request::get("state", "v1/state")
            .segment(room_id)
            .query("event_id", event_id)
            .timeout(LONG_TIMEOUT);
        let body = self.open(server, request).await?;
        Ok(PduStream::new(body, &["pdus", "auth_chain"]))
    }

    /// `GET /v1/event`: one event.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn event(
        &self,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<Box<RawValue>, FederationError> {
        let request = Request::get("event", "v1/event")
            .segment(event_id)
            .limit(LARGEST_EVENT);
        let answer: Pdus = self.ask(server, request).await?;
        let mut pdus = answer.pdus.into_iter();
        match (pdus.next(), pdus.next()) {
            (Some(pdu), None) => Ok(pdu),
            _ => Err(FederationError::InvalidAnswer(
                "not exactly one event".to_owned(),
            )),
        }
    }

    /// `GET /v1/event_auth`: the auth chain of an event.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn event_auth(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Vec<Box<RawValue>>, FederationError> {
        #[derive(Deserialize)]
        struct Answer {
            auth_chain: Vec<Box<RawValue>>,
        }
        let request = Request::get("event_auth", "v1/event_auth")
            .segment(room_id)
            .segment(event_id)
            .timeout(LONG_TIMEOUT)
            .limit(LARGEST_AUTH_CHAIN);
        let answer: Answer = self.ask(server, request).await?;
        Ok(answer.auth_chain)
    }

    /// `POST /v1/get_missing_events`: ancestors of events, newest last as the server has them.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn get_missing_events(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        missing: &MissingEvents<'_>,
    ) -> Result<Vec<Box<RawValue>>, FederationError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            events: Vec<Box<RawValue>>,
        }
        let request = Request::new(Method::POST, "get_missing_events", "v1/get_missing_events")
            .segment(room_id)
            .limit(LARGEST_BACKFILL)
            .json(missing)?;
        let answer: Answer = self.ask(server, request).await?;
        Ok(answer.events)
    }

    /// `GET /v1/timestamp_to_event`: the event nearest to a time in Unix milliseconds, going forward or
    /// backward from it.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn timestamp_to_event(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        ts: i64,
        forward: bool,
    ) -> Result<EventAtTime, FederationError> {
        let request = Request::get("timestamp_to_event", "v1/timestamp_to_event")
            .segment(room_id)
            .limit(LARGEST_EVENT)
            .query("ts", ts.to_string())
            .query("dir", if forward { "f" } else { "b" });
        self.ask(server, request).await
    }

    /// `GET /v1/backfill`: up to `limit` events at and before some others.
    ///
    /// # Errors
    /// Any [`FederationError`].
    pub async fn backfill(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: u32,
    ) -> Result<Vec<Box<RawValue>>, FederationError> {
        let mut request = Request::get("backfill", "v1/backfill")
            .segment(room_id)
            .limit(LARGEST_BACKFILL);
        for event_id in from {
            request = request.query("v", event_id);
        }
        let request = request.query("limit", limit.to_string());
        let answer: Pdus = self.ask(server, request).await?;
        Ok(answer.pdus)
    }
}
