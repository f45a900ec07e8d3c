//! Why a read was refused.

use myelin_core::pdu::MalformedPdu;
use myelin_rooms::RoomError;
use myelin_storage::StorageError;

/// What the caller has to tell the client. The texts are for people.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// There is no such thing, or the user may not know of it (`M_NOT_FOUND`).
    #[error("{0}")]
    NotFound(String),
    /// The user may not read this (`M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(String),
    /// A token, filter or other parameter makes no sense (`M_INVALID_PARAM`).
    #[error("{0}")]
    InvalidParam(String),
    /// The answer needs memberships that another server hasn't sent yet, and the wait for them was
    /// too long. Asking again later helps.
    #[error("the room's members are still being fetched; try again later")]
    StillPartial,
    /// Something about the room itself.
    #[error(transparent)]
    Room(RoomError),
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl SyncError {
    pub(crate) fn not_in_room() -> Self {
        Self::Forbidden("You are not in this room, and never were".to_owned())
    }
}

impl From<RoomError> for SyncError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::StillPartial => Self::StillPartial,
            RoomError::Storage(error) => Self::Storage(error),
            error => Self::Room(error),
        }
    }
}

impl From<MalformedPdu> for SyncError {
    fn from(error: MalformedPdu) -> Self {
        Self::Storage(StorageError::Corrupt(error.to_string()))
    }
}
