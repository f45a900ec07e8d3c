//! Requests to servers by name: delegation, connection, answer or error.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use myelin_env::Clock;
use ruma::ServerName;

use crate::{
    authority::Authority,
    error::{FederationError, RemoteError},
    http_client::{Body, HttpClient, Outgoing},
    well_known::WellKnown,
};

/// How much of an error answer is read.
const LARGEST_ERROR: usize = 64 * 1024;

/// Sends requests to servers. Clones share connections and delegations.
#[derive(Clone)]
pub(crate) struct Transport {
    pub(crate) clock: Clock,
    pub(crate) http: HttpClient,
    pub(crate) well_known: WellKnown,
}

/// A request to a server.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// For metrics and logs.
    pub(crate) endpoint: &'static str,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    /// JSON.
    pub(crate) body: Option<Bytes>,
    pub(crate) authorization: Option<String>,
    /// For everything, from resolving the name to the last byte of the answer.
    pub(crate) timeout: Duration,
}

impl Transport {
    /// Sends a request and returns the body of a successful answer.
    ///
    /// # Errors
    /// [`FederationError::Remote`] for any status but 2xx; otherwise what went wrong before.
    pub(crate) async fn open(
        &self,
        server: &ServerName,
        call: Call,
    ) -> Result<Body, FederationError> {
        let (endpoint, start) = (call.endpoint, self.clock.instant());
        let outcome = self.open_delegated(server, call).await;
        let seconds = start.elapsed(&self.clock).as_secs_f64();
        measure(server, endpoint, seconds, outcome.as_ref().err());
        outcome
    }

    /// Like [`Transport::open`], and reads the body, of at most `limit` bytes.
    pub(crate) async fn fetch(
        &self,
        server: &ServerName,
        call: Call,
        limit: usize,
    ) -> Result<Bytes, FederationError> {
        self.open(server, call).await?.collect(limit).await
    }

    /// Sends a request to an authority itself, and reads the body of a successful answer.
    ///
    /// # Errors
    /// As [`Transport::open`].
    pub(crate) async fn fetch_from(
        &self,
        authority: &Authority,
        call: Call,
        limit: usize,
    ) -> Result<Bytes, FederationError> {
        let (endpoint, start) = (call.endpoint, self.clock.instant());
        let outcome = self.open_at(authority, call).await;
        let seconds = start.elapsed(&self.clock).as_secs_f64();
        measure(authority, endpoint, seconds, outcome.as_ref().err());
        outcome?.collect(limit).await
    }

    async fn open_delegated(
        &self,
        server: &ServerName,
        mut call: Call,
    ) -> Result<Body, FederationError> {
        let start = self.clock.instant();
        let delegating = self.well_known.delegate(server);
        let authority = self.clock.timeout(call.timeout, delegating).await;
        let authority = authority
            .map_err(|_| FederationError::Unreachable("out of time resolving it".to_owned()))?;
        call.timeout = call.timeout.saturating_sub(start.elapsed(&self.clock));
        self.open_at(&authority, call).await
    }

    async fn open_at(&self, authority: &Authority, call: Call) -> Result<Body, FederationError> {
        let outgoing = Outgoing {
            method: call.method,
            host: authority.to_string(),
            authority: authority.to_string(),
            target: call.target,
            authorization: call.authorization,
            body: call.body,
            timeout: call.timeout,
        };
        let answer = self.http.open(outgoing).await?;
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        let retry_after = retry_after(&answer.headers, self.clock.now_ms());
        let body = answer.body.collect_some(LARGEST_ERROR).await;
        let error = RemoteError::new(answer.status, retry_after, body);
        Err(FederationError::Remote(Box::new(error)))
    }
}

fn measure(
    server: impl fmt::Display,
    endpoint: &'static str,
    seconds: f64,
    error: Option<&FederationError>,
) {
    let outcome = error.map_or("ok", FederationError::outcome);
    metrics::counter!(
        "myelin_federation_requests_total", "endpoint" => endpoint, "outcome" => outcome
    )
    .increment(1);
    metrics::histogram!("myelin_federation_answer_seconds", "endpoint" => endpoint).record(seconds);
    match error {
        None => tracing::debug!(%server, endpoint, seconds, "answered"),
        Some(error) => tracing::debug!(%server, endpoint, seconds, %error, "failed"),
    }
}

/// Seconds or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now_ms: u64) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let since_epoch = date.duration_since(UNIX_EPOCH).ok()?;
    Some(since_epoch.saturating_sub(Duration::from_millis(now_ms)))
}
