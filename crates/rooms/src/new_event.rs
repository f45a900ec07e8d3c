//! What a user of this server wants to send, and the queue of it.

use myelin_storage::client_transactions::ClientTransaction;
use ruma::{OwnedEventId, OwnedUserId};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::RoomError;

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

/// A local event that waits for the room's turn.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) event: NewEvent,
    pub(crate) answer: oneshot::Sender<Result<OwnedEventId, RoomError>>,
}
