//! What can go wrong with a room, by what the caller can do about it.

use myelin_federation::FederationError;
use myelin_storage::StorageError;

/// Why something was not done in a room.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RoomError {
    /// The room, event or alias is not known here.
    #[error("{0}")]
    NotFound(String),
    /// The rules of the room don't permit it.
    #[error("{0}")]
    Forbidden(String),
    /// What was asked for is malformed.
    #[error("{0}")]
    BadJson(String),
    /// A value that was given can't be used.
    #[error("{0}")]
    InvalidParam(String),
    /// The room has a version that this server does not know.
    #[error("room version {0:?} is not supported")]
    UnsupportedVersion(String),
    /// The alias is taken.
    #[error("{0}")]
    AliasInUse(String),
    /// The event is larger than events may be.
    #[error("{0}")]
    TooLarge(String),
    /// A server that had to help refused; its answer says why.
    #[error("{0}")]
    Remote(FederationError),
    /// No server that could have helped did.
    #[error("{0}")]
    NoServer(String),
    /// The room's state isn't complete yet: try again.
    #[error("the room's members are still being loaded")]
    StillPartial,
    /// The server is stopping, or failed in a way that is logged.
    #[error("{0}")]
    Internal(String),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl RoomError {
    pub(crate) fn unknown_room() -> Self {
        Self::NotFound("this server does not know the room".into())
    }
}
