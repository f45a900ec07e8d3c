//! What can go wrong with another server, by what the caller can do about it.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use myelin_storage::StorageError;

/// Why a request to another server brought no usable answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FederationError {
    /// No answer at all: the name doesn't resolve, no connection, wrong certificate, out of time.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// It failed before and is left alone until then (Unix milliseconds). Nothing was sent.
    #[error("left alone until {until_ms} after failures")]
    Backoff {
        /// When it may be asked again.
        until_ms: u64,
    },
    /// It answered with an error.
    #[error("{0}")]
    Remote(Box<RemoteError>),
    /// It answered with something that isn't what was asked for.
    #[error("invalid answer: {0}")]
    InvalidAnswer(String),
    /// This server does not send such a request. Nothing was sent.
    #[error("refused: {0}")]
    Refused(String),
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl FederationError {
    /// The error answer of the other server, if this is one.
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Remote(remote) => Some(remote),
            _ => None,
        }
    }

    /// A word for metrics and logs.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Backoff { .. } => "backoff",
            Self::Remote(remote) if remote.status >= 500 => "server_error",
            Self::Remote(_) => "client_error",
            Self::InvalidAnswer(_) => "invalid",
            Self::Refused(_) => "refused",
            Self::Storage(_) => "storage",
        }
    }

    /// Whether it tells against the server as a whole rather than against this one request
    /// (R134): then it is left alone for a while.
    pub(crate) fn is_failing(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            // 401: it doesn't believe who we are, for instance because it can't fetch our keys.
            Self::Remote(remote) => matches!(remote.status, 401 | 429 | 500..),
            _ => false,
        }
    }
}

/// An error answer of another server.
#[derive(Clone, Debug, thiserror::Error)]
#[error("status {status}, {}: {message}", errcode.as_deref().unwrap_or("no error code"))]
pub struct RemoteError {
    /// The HTTP status.
    pub status: u16,
    /// The Matrix error code, as in `M_FORBIDDEN`.
    pub errcode: Option<String>,
    /// What the answer says for people; empty if nothing.
    pub message: String,
    /// How long it asks to be left alone.
    pub retry_after: Option<Duration>,
    /// The whole answer, at most 64 KiB.
    pub body: Bytes,
}

impl RemoteError {
    /// Reads what it can of the body.
    pub(crate) fn new(status: StatusCode, retry_after: Option<Duration>, body: Bytes) -> Self {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Standard {
            errcode: Option<String>,
            error: Option<String>,
            retry_after_ms: Option<u64>,
        }
        let standard: Standard = serde_json::from_slice(&body).unwrap_or_default();
        Self {
            status: status.as_u16(),
            errcode: standard.errcode,
            message: standard.error.unwrap_or_default(),
            retry_after: retry_after.or(standard.retry_after_ms.map(Duration::from_millis)),
            body,
        }
    }

    /// Whether the server doesn't know the endpoint (N22), so that an older one may be tried.
    #[must_use]
    pub fn is_unrecognized(&self) -> bool {
        matches!(self.status, 404 | 405) && self.errcode.as_deref() == Some("M_UNRECOGNIZED")
    }
}

/// Why a federation client can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file of certificates can't be read.
    #[error("cannot read certificates from {path}: {why}")]
    Certificates {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// TLS can't be set up at all.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}
