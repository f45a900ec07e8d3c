//! Requests to servers by name: delegation, connection, answer or error.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use myelin_env::Clock;
use ruma::ServerName;

use crate::{
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
        let endpoint = call.endpoint;
        let start = self.clock.instant();
        let outcome = self.open_unmeasured(server, call).await;
        let seconds = start.elapsed(&self.clock).as_secs_f64();
        let word = outcome
            .as_ref()
            .map_or_else(FederationError::outcome, |_| "ok");
        metrics::counter!(
            "myelin_federation_requests_total", "endpoint" => endpoint, "outcome" => word
        )
        .increment(1);
        metrics::histogram!("myelin_federation_answer_seconds", "endpoint" => endpoint)
            .record(seconds);
        match &outcome {
            Ok(_) => tracing::debug!(%server, endpoint, seconds, "answered"),
            Err(error) => tracing::debug!(%server, endpoint, seconds, %error, "failed"),
        }
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

    async fn open_unmeasured(
        &self,
        server: &ServerName,
        call: Call,
    ) -> Result<Body, FederationError> {
        let start = self.clock.instant();
        let delegating = self.well_known.delegate(server);
        let authority = self.clock.timeout(call.timeout, delegating).await;
        let authority = authority
            .map_err(|_| FederationError::Unreachable("out of time resolving it".to_owned()))?;
        let outgoing = Outgoing {
            method: call.method,
            host: authority.to_string(),
            authority: authority.to_string(),
            target: call.target,
            authorization: call.authorization,
            body: call.body,
            timeout: call.timeout.saturating_sub(start.elapsed(&self.clock)),
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
