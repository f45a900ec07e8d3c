//! Whether a request comes from the server that it says it comes from.

use std::time::Duration;

use http::{HeaderMap, Method, Uri, header};
use myelin_core::keys::verify_bytes;
use ruma::{OwnedServerName, ServerName};

use crate::{
    Federation, KeyNeed, Urgency,
    x_matrix::{Signed, XMatrix},
};

/// How long the sender of a request waits for its key to be found.
const KEY_DEADLINE: Duration = Duration::from_secs(20);
/// A server may sign with several keys and send a header for each.
const MOST_HEADERS: usize = 4;

/// Why a request isn't believed to come from another server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization` header of the scheme `X-Matrix`.
    #[error("the request has no X-Matrix authorization")]
    Missing,
    /// A header that can't be parsed.
    #[error("the X-Matrix authorization is malformed")]
    Malformed,
    /// It was meant for another server (N16).
    #[error("the request is signed for {0}, not for this server")]
    WrongDestination(OwnedServerName),
    /// The sender's key is not to be had, or not valid now.
    #[error("no valid key {key_id} of {origin} is known")]
    UnknownKey {
        /// Who says to have sent it.
        origin: OwnedServerName,
        /// The key it says it used.
        key_id: String,
    },
    /// The body isn't JSON, so it can't be what was signed.
    #[error("the body is not JSON")]
    NotJson,
    /// The signature doesn't match.
    #[error("the signature of {0} on the request is wrong")]
    BadSignature(OwnedServerName),
}

impl Federation {
    /// Finds out who sent a request: server-server API, "Request Authentication". `uri` is the one
    /// the sender used, with path and query untouched; `body` is empty for requests without one.
    ///
    /// # Errors
    /// Any [`AuthError`]; with several headers, that of the last.
    pub async fn authenticate(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<OwnedServerName, AuthError> {
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let signed = Signed {
            method: method.as_str(),
            target,
            body,
        };
        let mut outcome = Err(AuthError::Missing);
        let values = headers.get_all(header::AUTHORIZATION).iter();
        for value in values.take(MOST_HEADERS) {
            let text = value.to_str().unwrap_or_default();
            let scheme = text.trim().split([' ', '\t']).next().unwrap_or_default();
            if !scheme.eq_ignore_ascii_case("X-Matrix") {
                continue;
            }
            outcome = match XMatrix::parse(text) {
                Some(header) => self.check(header, signed).await,
                None => Err(AuthError::Malformed),
            };
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn check(
        &self,
        header: XMatrix,
        signed: Signed<'_>,
    ) -> Result<OwnedServerName, AuthError> {
        let destination = header.destination.as_deref();
        if let Some(other) = destination.filter(|name| !self.is_own(name)) {
            return Err(AuthError::WrongDestination(other.to_owned()));
        }
        // Before the key is looked for, which may cost a request.
        let bytes = signed.bytes(&header.origin, destination);
        let bytes = bytes.map_err(|_| AuthError::NotJson)?;
        let now_ms = self.env().clock.now_ms();
        let need = KeyNeed {
            server: header.origin.clone(),
            key_id: header.key_id.clone(),
            at_ms: now_ms,
        };
        let ring = self.key_ring();
        let keys = ring.find(&[need], KEY_DEADLINE, Urgency::Interactive).await;
        let Some(key) = keys.get(&header.origin, &header.key_id, now_ms) else {
            return Err(AuthError::UnknownKey {
                origin: header.origin,
                key_id: header.key_id.to_string(),
            });
        };
        match verify_bytes(&bytes, &header.signature, key) {
            Ok(()) => Ok(header.origin),
            Err(_) => Err(AuthError::BadSignature(header.origin)),
        }
    }

    fn is_own(&self, name: &ServerName) -> bool {
        name == self.server_name()
    }
}

#[cfg(test)]
mod tests;
