//! What can go wrong with a room, by what the caller can do about it.

use myelin_core::validate::DropReason;
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
    /// The room lets no guests in.
    #[error("the room lets no guests in")]
    NoGuests,
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
    /// A room may announce its own aliases only.
    #[error("{0}")]
    BadAlias(String),
    /// The event is larger than events may be.
    #[error("{0}")]
    TooLarge(String),
    /// A server that had to help refused; its answer says why.
    #[error("{0}")]
    Remote(FederationError),
    /// No server that could have helped did.
    #[error("{0}")]
    NoServer(String),
    /// The room's policy server has not signed the event; its answer may say why.
    #[error("the room's policy server does not recommend the event: {0}")]
    NotRecommended(FederationError),
    /// What was asked for can't be done to what is there, as ending a ban of who isn't banned.
    #[error("{0}")]
    BadState(String),
    /// The user said the same about the event before.
    #[error("You have annotated the event with this already")]
    DuplicateAnnotation,
    /// An event can't relate to another in this way.
    #[error("{0}")]
    BadRelation(String),
    /// The user has to leave the room first.
    #[error("{0}")]
    StillInRoom(String),
    /// The room's state isn't complete yet: try again.
    #[error("the room's members are still being loaded")]
    StillPartial,
    /// The server is stopping, or failed in a way that is logged.
    #[error("{0}")]
    Internal(String),
    /// The database failed.
    #[error(transparent)]
    Storage(StorageError),
}

/// A room that is deleted while something goes on in it is unknown from then on.
impl From<StorageError> for RoomError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Gone => Self::unknown_room(),
            error => Self::Storage(error),
        }
    }
}

impl RoomError {
    pub(crate) fn unknown_room() -> Self {
        Self::NotFound("this server does not know the room".into())
    }
}

/// Why another server does not get what it asks for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no such event or room, or nothing is known of the state there.
    #[error("{0}")]
    NotFound(String),
    /// The asking server is not in the room, or the room's rules don't permit it.
    #[error("{0}")]
    Forbidden(String),
    /// The room's state isn't complete here (MSC3895).
    #[error("the state of the room is not complete on this server")]
    Partial,
    /// The request is malformed.
    #[error("{0}")]
    BadJson(String),
    /// A part of the request is not what it has to be.
    #[error("{0}")]
    InvalidParam(String),
    /// The room has a version that the asking server, or this one, does not know.
    #[error("the room has version {0}")]
    IncompatibleVersion(String),
    /// Whether the user may join depends on rooms that this server does not know well enough.
    #[error("this server can't tell whether the user may join")]
    UnableToAuthorise,
    /// The user may join, and nobody here has the power to say so.
    #[error("no user of this server may let others into the room")]
    UnableToGrant,
    /// This server lacks what the event builds upon.
    #[error("{0}")]
    Behind(String),
    /// This server failed in a way that is logged.
    #[error("{0}")]
    Internal(String),
    /// The database failed.
    #[error(transparent)]
    Storage(StorageError),
}

impl From<StorageError> for ServeError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Gone => Self::unknown_room(),
            error => Self::Storage(error),
        }
    }
}

impl From<DropReason> for ServeError {
    fn from(reason: DropReason) -> Self {
        Self::InvalidParam(reason.to_string())
    }
}

impl From<RoomError> for ServeError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Forbidden(why) => Self::Forbidden(why),
            RoomError::NotRecommended(FederationError::Storage(error)) => Self::Storage(error),
            error @ RoomError::NotRecommended(_) => Self::Forbidden(error.to_string()),
            RoomError::NotFound(why) => Self::NotFound(why),
            RoomError::Storage(error) => Self::Storage(error),
            error => Self::Internal(error.to_string()),
        }
    }
}

impl ServeError {
    pub(crate) fn unknown_room() -> Self {
        Self::NotFound("this server does not know the room".into())
    }
}

/// Why a transaction was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Another transaction of this server is being taken (R35).
    #[error("another transaction of this server is in progress")]
    Busy,
    /// The database failed: nothing was acknowledged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
