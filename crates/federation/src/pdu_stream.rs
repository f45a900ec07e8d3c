//! Large answers, read event by event as they arrive: the joiner of a room of 200,000 members
//! cannot afford to hold all their events twice.

use std::collections::VecDeque;

use bytes::Bytes;
use ruma::OwnedServerName;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    error::FederationError,
    http_client::Body,
    splitter::{SplitError, Splitter},
};

/// No valid event is this large, however wastefully it is written; larger ones are skipped.
const LARGEST_PDU: usize = 1024 * 1024;
/// For everything that isn't a PDU; `servers_in_room` of 100,000 servers fits.
const LARGEST_REST: usize = 8 * 1024 * 1024;
/// For the whole answer.
const LARGEST_ANSWER: u64 = 2 * 1024 * 1024 * 1024;

/// Which list of an answer a PDU is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PduList {
    /// The state of the room.
    State,
    /// The auth chain of that state.
    AuthChain,
}

/// A PDU out of an answer, as it is written there.
#[derive(Clone, Debug)]
pub struct StreamedPdu {
    /// The list it is in.
    pub list: PduList,
    /// JSON; nothing about it was checked.
    pub json: Box<RawValue>,
}

/// The PDUs of an answer, in the order of their arrival. The other server waits while the reader is
/// busy.
pub struct PduStream {
    body: Body,
    splitter: Option<Splitter>,
    ready: VecDeque<StreamedPdu>,
    received: u64,
    rest: Vec<u8>,
    oversized: u64,
}

impl PduStream {
    /// `lists`: what the list of state and that of the auth chain are called in this answer.
    pub(crate) fn new(body: Body, lists: &'static [&'static str; 2]) -> Self {
        Self {
            body,
            splitter: Some(Splitter::new(lists, LARGEST_PDU, LARGEST_REST)),
            ready: VecDeque::new(),
            received: 0,
            rest: Vec::new(),
            oversized: 0,
        }
    }

    /// The next PDU; `None` when the answer has ended and was whole.
    ///
    /// # Errors
    /// [`FederationError::Unreachable`] if it breaks off, [`FederationError::InvalidAnswer`] if it is
    /// not JSON of the right form. What came before may still be true.
    pub async fn next(&mut self) -> Result<Option<StreamedPdu>, FederationError> {
        loop {
            if let Some(pdu) = self.ready.pop_front() {
                return Ok(Some(pdu));
            }
            let Some(splitter) = &mut self.splitter else {
                return Ok(None);
            };
            match self.body.chunk().await? {
                Some(chunk) => self.split(&chunk)?,
                None => {
                    self.oversized = splitter.oversized();
                    if let Some(splitter) = self.splitter.take() {
                        self.rest = splitter.finish().map_err(invalid)?;
                    }
                }
            }
        }
    }

    /// How many PDUs were skipped because they were larger than 1 MiB; known at the end.
    #[must_use]
    pub fn oversized(&self) -> u64 {
        self.oversized
    }

    fn split(&mut self, chunk: &Bytes) -> Result<(), FederationError> {
        self.received += chunk.len() as u64;
        if self.received > LARGEST_ANSWER {
            return Err(FederationError::InvalidAnswer(format!(
                "larger than {LARGEST_ANSWER} bytes"
            )));
        }
        let Some(splitter) = &mut self.splitter else {
            return Ok(());
        };
        let mut malformed = None;
        let ready = &mut self.ready;
        let outcome = splitter.feed(chunk, |element| match raw(element.json) {
            Ok(json) => ready.push_back(StreamedPdu {
                list: match element.list {
                    0 => PduList::State,
                    _ => PduList::AuthChain,
                },
                json,
            }),
            Err(error) => malformed = Some(error),
        });
        outcome.map_err(invalid)?;
        malformed.map_or(Ok(()), Err)
    }

    /// Reads all that is left: state and auth chain.
    pub(crate) async fn collect(&mut self) -> Result<StateAnswer, FederationError> {
        let mut answer = StateAnswer::default();
        while let Some(pdu) = self.next().await? {
            match pdu.list {
                PduList::State => answer.pdus.push(pdu.json),
                PduList::AuthChain => answer.auth_chain.push(pdu.json),
            }
        }
        Ok(answer)
    }

    /// The fields beside the lists, when the end was reached.
    fn rest<T: DeserializeOwned>(&self) -> Result<T, FederationError> {
        serde_json::from_slice(&self.rest)
            .map_err(|error| FederationError::InvalidAnswer(error.to_string()))
    }
}

/// The state at an event and its auth chain.
#[derive(Clone, Debug, Default)]
pub struct StateAnswer {
    /// The state before the event.
    pub pdus: Vec<Box<RawValue>>,
    /// The auth chain of that state.
    pub auth_chain: Vec<Box<RawValue>>,
}

/// An answer to `send_join` that is still arriving.
pub struct SendJoinStream(pub(crate) PduStream);

/// What an answer to `send_join` says beside its lists of PDUs.
#[derive(Clone, Debug, Deserialize)]
pub struct SendJoinRest {
    /// The join as the resident server signed it. Restricted joins need it.
    #[serde(default)]
    pub event: Option<Box<RawValue>>,
    /// Whether memberships were left out of the state.
    #[serde(default)]
    pub members_omitted: bool,
    /// The servers that were in the room before the join; given if `members_omitted`.
    #[serde(default, deserialize_with = "server_names")]
    pub servers_in_room: Option<Vec<OwnedServerName>>,
}

/// An answer to `send_join`.
#[derive(Clone, Debug)]
pub struct SendJoinAnswer {
    /// The join as the resident server signed it. Restricted joins need it.
    pub event: Option<Box<RawValue>>,
    /// The state before the join.
    pub state: Vec<Box<RawValue>>,
    /// The auth chain of that state; may lack events that are in `state`.
    pub auth_chain: Vec<Box<RawValue>>,
    /// Whether memberships were left out of the state.
    pub members_omitted: bool,
    /// The servers that were in the room before the join; given if `members_omitted`.
    pub servers_in_room: Option<Vec<OwnedServerName>>,
}

impl SendJoinStream {
    /// The next PDU; `None` when all have come.
    ///
    /// # Errors
    /// As [`PduStream::next`].
    pub async fn next(&mut self) -> Result<Option<StreamedPdu>, FederationError> {
        self.0.next().await
    }

    /// What the answer says beside the PDUs. PDUs that were not read yet are dropped.
    ///
    /// # Errors
    /// As [`PduStream::next`].
    pub async fn finish(mut self) -> Result<SendJoinRest, FederationError> {
        while self.0.next().await?.is_some() {}
        self.0.rest()
    }

    /// The whole answer at once.
    pub(crate) async fn collect(mut self) -> Result<SendJoinAnswer, FederationError> {
        let lists = self.0.collect().await?;
        let rest: SendJoinRest = self.0.rest()?;
        Ok(SendJoinAnswer {
            event: rest.event,
            state: lists.pdus,
            auth_chain: lists.auth_chain,
            members_omitted: rest.members_omitted,
            servers_in_room: rest.servers_in_room,
        })
    }
}

/// Names that can't be server names can't be asked or sent anything, so they are left out.
fn server_names<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<OwnedServerName>>, D::Error> {
    let names: Option<Vec<String>> = Deserialize::deserialize(deserializer)?;
    Ok(names.map(|names| {
        let valid = |name: String| OwnedServerName::try_from(name).ok();
        names.into_iter().filter_map(valid).collect()
    }))
}

fn raw(json: Vec<u8>) -> Result<Box<RawValue>, FederationError> {
    let text = String::from_utf8(json)
        .map_err(|error| FederationError::InvalidAnswer(error.to_string()))?;
    RawValue::from_string(text).map_err(|error| FederationError::InvalidAnswer(error.to_string()))
}

fn invalid(error: SplitError) -> FederationError {
    FederationError::InvalidAnswer(error.to_string())
}
