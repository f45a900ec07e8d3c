//! What can go wrong, by what the caller has to do about it.

use std::time::Duration;

use myelin_federation::FederationError;
use myelin_storage::StorageError;

use crate::interactive::Challenge;

/// Somebody has done something too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Too many requests")]
pub struct LimitExceeded {
    /// After this time it may be done again.
    pub retry_after: Duration,
}

/// Why something about a user could not be done.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Who asks is known, or has shown to be wrong, and may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The operator wants no guests.
    #[error("This server has no guests")]
    NoGuests,
    /// The account was closed.
    #[error("This account has been deactivated")]
    Deactivated,
    /// The token has ended; the device and what belongs to it stay for another one.
    #[error("The session has to be renewed")]
    SessionEnded,
    /// Somebody else has this name.
    #[error("This user ID is taken")]
    UserInUse,
    /// Nobody can have this name.
    #[error("{0}")]
    InvalidUsername(String),
    /// A field that has to be there is missing.
    #[error("Missing {0}")]
    MissingParam(&'static str),
    /// A field has a value that it can't have.
    #[error("{0}")]
    InvalidParam(String),
    /// A value is of the wrong form.
    #[error("{0}")]
    BadJson(String),
    /// A name of a profile field is longer than such names are.
    #[error("The name of a profile field has at most 255 bytes")]
    KeyTooLarge,
    /// A profile would become larger than profiles are.
    #[error("A profile has at most 64 KiB")]
    ProfileTooLarge,
    /// This server does not do that, and never will without being told otherwise by its operator.
    #[error("{0}")]
    Unsupported(String),
    /// Account data of this type is set by other means.
    #[error("Cannot set {0} through this API")]
    SetElsewhere(String),
    /// It names something beside itself that is not there.
    #[error("{0}")]
    Unknown(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// User-interactive authentication has to go on.
    #[error("more authentication is needed")]
    Challenge(Box<Challenge>),
    /// Something was done too often.
    #[error(transparent)]
    LimitExceeded(#[from] LimitExceeded),
    /// Another server could not be asked, or refused.
    #[error(transparent)]
    Remote(#[from] FederationError),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Refuses what the databases cannot hold as text, or what is longer than anybody needs.
pub(crate) fn check_text(
    name: &str,
    text: Option<&str>,
    max_bytes: usize,
) -> Result<(), UserError> {
    match text {
        Some(text) if text.len() > max_bytes => Err(UserError::InvalidParam(format!(
            "{name} is longer than {max_bytes} bytes"
        ))),
        Some(text) if text.contains('\0') => Err(UserError::InvalidParam(format!(
            "{name} contains the character U+0000"
        ))),
        _ => Ok(()),
    }
}
