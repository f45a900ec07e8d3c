//! Which answer each error of the other crates becomes.

use http::StatusCode;
use myelin_federation::{AuthError, FederationError, TransactionError};
use myelin_rooms::{ReceiveError, RoomError, ServeError};
use myelin_storage::StorageError;
use myelin_sync::SyncError;
use myelin_users::{Challenge, LimitExceeded, UserError};
use serde_json::{Map, Value, json};

use crate::ApiError;

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        if error.is_temporary() || error == StorageError::Closed {
            tracing::warn!(%error, "the database is not available");
            return Self::unavailable("The database is not available at the moment");
        }
        if error == StorageError::Gone {
            return Self::not_found("It was deleted");
        }
        if let StorageError::Unstorable(what) = error {
            return Self::invalid_param(format!("The request has {what} where that cannot be"));
        }
        tracing::error!(%error, "the database failed");
        Self::internal()
    }
}

impl From<LimitExceeded> for ApiError {
    fn from(error: LimitExceeded) -> Self {
        Self::limit_exceeded(error.retry_after)
    }
}

/// What another server says counts for the client too where it says no; where it failed, this server
/// could not do its work.
impl From<FederationError> for ApiError {
    fn from(error: FederationError) -> Self {
        match error {
            FederationError::Storage(error) => error.into(),
            FederationError::Remote(remote) => {
                let status = StatusCode::from_u16(remote.status).ok();
                match (status, remote.errcode) {
                    (
                        Some(
                            status @ (StatusCode::BAD_REQUEST
                            | StatusCode::FORBIDDEN
                            | StatusCode::NOT_FOUND),
                        ),
                        Some(errcode),
                    ) => {
                        let error = Self::new(status, errcode, remote.message);
                        // Joins of versions that this server does not know say which it was.
                        match serde_json::from_slice::<Map<String, Value>>(&remote.body) {
                            Ok(body) => match body.get("room_version") {
                                Some(version) => error.with("room_version", version.clone()),
                                None => error,
                            },
                            Err(_) => error,
                        }
                    }
                    _ => Self::bad_gateway(format!("The other server failed: {}", remote.message)),
                }
            }
            FederationError::Refused(why) => Self::forbidden(why),
            error @ (FederationError::Unreachable(_)
            | FederationError::Backoff { .. }
            | FederationError::InvalidAnswer(_)) => {
                Self::bad_gateway(format!("The other server could not be asked: {error}"))
            }
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            // Nothing can have been signed, and the reason is more than that.
            AuthError::NotJson => Self::not_json(error.to_string()),
            // A header that can't be read too, to which Synapse answers 400: the specification knows 401 only
            // (server-server API, "Request Authentication"), and by either the other server is not let in.
            error => Self::unauthorized(error.to_string()),
        }
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> Self {
        let message = error.to_string();
        match error {
            UserError::Forbidden(_) => Self::forbidden(message),
            UserError::NoGuests => Self::guests_forbidden(message),
            UserError::Deactivated => {
                Self::new(StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", message)
            }
            UserError::SessionEnded => Self::session_ended(message),
            UserError::UserInUse => Self::new(StatusCode::BAD_REQUEST, "M_USER_IN_USE", message),
            UserError::InvalidUsername(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_INVALID_USERNAME", message)
            }
            UserError::MissingParam(name) => Self::missing_param(name),
            UserError::InvalidParam(_) => Self::invalid_param(message),
            UserError::BadJson(_) => Self::bad_json(message),
            UserError::KeyTooLarge => {
                Self::new(StatusCode::BAD_REQUEST, "M_KEY_TOO_LARGE", message)
            }
            UserError::ProfileTooLarge => {
                Self::new(StatusCode::BAD_REQUEST, "M_PROFILE_TOO_LARGE", message)
            }
            UserError::Unsupported(_) | UserError::Unknown(_) => Self::unknown(message),
            UserError::SetElsewhere(_) => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, "M_BAD_JSON", message)
            }
            UserError::NotFound(_) => Self::not_found(message),
            UserError::Challenge(challenge) => challenged(&challenge),
            UserError::Remote(error) => error.into(),
            UserError::LimitExceeded(error) => error.into(),
            UserError::Storage(error) => error.into(),
        }
    }
}

/// Client-server API, "User-interactive API in the REST API".
fn challenged(challenge: &Challenge) -> ApiError {
    let names = |stages: &[myelin_users::Stage]| -> Vec<&'static str> {
        stages.iter().map(|stage| stage.name()).collect()
    };
    let flows: Vec<Value> = challenge
        .flows
        .iter()
        .map(|flow| json!({ "stages": names(flow) }))
        .collect();
    let error = match &challenge.refused {
        None => ApiError::challenge(),
        Some(why) => ApiError::forbidden_stage(why),
    };
    error
        .with("session", challenge.session.clone())
        .with("flows", flows)
        .with("completed", names(&challenge.completed))
        .with("params", json!({}))
}

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> Self {
        let message = error.to_string();
        match error {
            RoomError::NotFound(_) => Self::not_found(message),
            RoomError::Forbidden(_) => Self::forbidden(message),
            RoomError::NoGuests => Self::guests_forbidden(message),
            RoomError::BadJson(_) => Self::bad_json(message),
            RoomError::InvalidParam(_) => Self::invalid_param(message),
            RoomError::UnsupportedVersion(_) => Self::new(
                StatusCode::BAD_REQUEST,
                "M_UNSUPPORTED_ROOM_VERSION",
                message,
            ),
            RoomError::AliasInUse(_) => {
                Self::new(StatusCode::BAD_REQUEST, "M_ROOM_IN_USE", message)
            }
            RoomError::BadAlias(_) => Self::new(StatusCode::BAD_REQUEST, "M_BAD_ALIAS", message),
            RoomError::TooLarge(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE", message)
            }
            RoomError::BadState(_) => Self::new(StatusCode::FORBIDDEN, "M_BAD_STATE", message),
            RoomError::DuplicateAnnotation => {
                Self::new(StatusCode::BAD_REQUEST, "M_DUPLICATE_ANNOTATION", message)
            }
            RoomError::BadRelation(_) | RoomError::StillInRoom(_) => Self::unknown(message),
            RoomError::Remote(error) | RoomError::NotRecommended(error) => error.into(),
            RoomError::NoServer(_) => Self::bad_gateway(message),
            RoomError::StillPartial => Self::unavailable(message),
            RoomError::Internal(why) => {
                tracing::error!(why, "something about a room failed");
                Self::internal()
            }
            RoomError::Storage(error) => error.into(),
        }
    }
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> Self {
        let message = error.to_string();
        match error {
            SyncError::NotFound(_) => Self::not_found(message),
            SyncError::Forbidden(_) => Self::forbidden(message),
            SyncError::InvalidParam(_) => Self::invalid_param(message),
            SyncError::StillPartial => Self::unavailable(message),
            SyncError::Room(error) => error.into(),
            SyncError::Storage(error) => error.into(),
        }
    }
}

impl From<TransactionError> for ApiError {
    fn from(error: TransactionError) -> Self {
        let message = error.to_string();
        match error {
            TransactionError::BadJson(_) => Self::bad_json(message),
            TransactionError::TooMany => Self::unknown(message),
        }
    }
}

impl From<ReceiveError> for ApiError {
    fn from(error: ReceiveError) -> Self {
        let message = error.to_string();
        match error {
            ReceiveError::Busy => Self::new(StatusCode::TOO_MANY_REQUESTS, "M_UNKNOWN", message),
            ReceiveError::Storage(error) => error.into(),
        }
    }
}

impl From<ServeError> for ApiError {
    fn from(error: ServeError) -> Self {
        let message = error.to_string();
        match error {
            ServeError::NotFound(_) => Self::not_found(message),
            ServeError::Forbidden(_) => Self::forbidden(message),
            // MSC3895; there is no stable name yet.
            ServeError::Partial => Self::new(
                StatusCode::FORBIDDEN,
                "ORG.MATRIX.MSC3895_UNABLE_DUE_TO_PARTIAL_STATE",
                message,
            ),
            ServeError::BadJson(_) => Self::bad_json(message),
            ServeError::InvalidParam(_) => Self::invalid_param(message),
            ServeError::IncompatibleVersion(version) => {
                let errcode = "M_INCOMPATIBLE_ROOM_VERSION";
                Self::new(StatusCode::BAD_REQUEST, errcode, message).with("room_version", version)
            }
            ServeError::UnableToAuthorise => {
                let errcode = "M_UNABLE_TO_AUTHORISE_JOIN";
                Self::new(StatusCode::BAD_REQUEST, errcode, message)
            }
            ServeError::UnableToGrant => {
                Self::new(StatusCode::BAD_REQUEST, "M_UNABLE_TO_GRANT_JOIN", message)
            }
            ServeError::Behind(_) => Self::unavailable(message),
            ServeError::Internal(why) => {
                tracing::error!(why, "a server could not be answered");
                Self::internal()
            }
            ServeError::Storage(error) => error.into(),
        }
    }
}
