//! What a user of this server wants to send, and the queue of it.

use myelin_core::{key_table::MEMBER, policy_server::PolicyServer, validate::ValidPdu};
use myelin_storage::{StorageError, client_transactions::ClientTransaction};
use ruma::{OwnedEventId, OwnedUserId, UserId};
use serde_json::{Map, Value, value::RawValue};
use tokio::sync::oneshot;

use crate::{RoomError, trace::Trace};

/// What a user wants to send.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The author.
    pub sender: OwnedUserId,
    /// The type.
    pub event_type: String,
    /// The state key of a state event.
    pub state_key: Option<String>,
    /// The content, a JSON object.
    pub content: Box<RawValue>,
    /// For redactions: the event to redact.
    pub redacts: Option<OwnedEventId>,
    /// The request, if the client may repeat it.
    pub transaction: Option<ClientTransaction>,
}

impl NewEvent {
    /// A state event with an empty state key.
    pub(crate) fn state(sender: &UserId, event_type: &str, content: Value) -> Self {
        Self {
            sender: sender.to_owned(),
            event_type: event_type.to_owned(),
            state_key: Some(String::new()),
            content: raw(&content),
            redacts: None,
            transaction: None,
        }
    }

    /// A membership event. `content` says all of it.
    pub(crate) fn membership(
        sender: &UserId,
        target: &UserId,
        content: Map<String, Value>,
    ) -> Self {
        Self {
            sender: sender.to_owned(),
            event_type: MEMBER.to_owned(),
            state_key: Some(target.as_str().to_owned()),
            content: raw(&Value::Object(content)),
            redacts: None,
            transaction: None,
        }
    }
}

/// JSON as text.
pub(crate) fn raw(value: &Value) -> Box<RawValue> {
    // A `Value` is valid JSON by construction.
    serde_json::value::to_raw_value(value).expect("a JSON value")
}

/// A local event that waits for the room's turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) event: NewEvent,
    pub(crate) trace: Trace,
    pub(crate) answer: oneshot::Sender<Result<OwnedEventId, SendError>>,
}

/// A local event that the room permits, if its policy server signs it.
#[derive(Debug)]
pub(crate) struct Unsigned {
    pub(crate) pdu: ValidPdu,
    pub(crate) server: PolicyServer,
}

/// Why a local event was not taken in its turn.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The policy server has to be asked, which can't be done in a turn.
    Unsigned(Box<Unsigned>),
    /// Anything else.
    Room(RoomError),
}

impl From<RoomError> for SendError {
    fn from(error: RoomError) -> Self {
        Self::Room(error)
    }
}

impl From<StorageError> for SendError {
    fn from(error: StorageError) -> Self {
        Self::Room(error.into())
    }
}

/// For events that are made where the policy server can't be asked.
impl From<SendError> for RoomError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Room(error) => error,
            SendError::Unsigned(unsigned) => {
                let name = &unsigned.server.name;
                Self::Forbidden(format!("the policy server {name} has not been asked"))
            }
        }
    }
}
