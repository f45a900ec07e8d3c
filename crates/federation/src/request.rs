//! Requests to the federation endpoints: how they are written, bounded and sent.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::ServerName;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    Federation, Urgency,
    destinations::Failure,
    error::{FederationError, RemoteError},
    http_client::Body,
    transport::Call,
    x_matrix::Signed,
};

/// What needs no escape anywhere in a path or query (RFC 3986, 2.3).
pub(crate) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// For answers that cost the other server long work.
pub(crate) const LONG_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) const KIB: usize = 1024;
pub(crate) const MIB: usize = 1024 * KIB;

/// A request, not yet signed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    endpoint: &'static str,
    method: Method,
    target: String,
    has_query: bool,
    body: Option<Bytes>,
    urgency: Urgency,
    timeout: Duration,
    limit: usize,
}

impl Request {
    /// A request to `/_matrix/federation/{path}`, for nobody in particular, with 60 seconds and an
    /// answer of at most 1 MiB. `endpoint` is its name in metrics.
    pub(crate) fn new(method: Method, endpoint: &'static str, path: &str) -> Self {
        Self::to(method, endpoint, format!("/_matrix/federation/{path}"))
    }

    /// The same to any path.
    pub(crate) fn to(method: Method, endpoint: &'static str, target: String) -> Self {
        Self {
            endpoint,
            method,
            target,
            has_query: false,
            body: None,
            urgency: Urgency::Background,
            timeout: DEFAULT_TIMEOUT,
            limit: MIB,
        }
    }

    pub(crate) fn get(endpoint: &'static str, path: &str) -> Self {
        Self::new(Method::GET, endpoint, path)
    }

    pub(crate) fn put(endpoint: &'static str, path: &str) -> Self {
        Self::new(Method::PUT, endpoint, path)
    }

    /// One more segment of the path. Must come before any [`Request::query`].
    pub(crate) fn segment(mut self, segment: impl AsRef<str>) -> Self {
        self.target.push('/');
        self.target
            .extend(utf8_percent_encode(segment.as_ref(), ESCAPED));
        self
    }

    pub(crate) fn query(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.target.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.target.push_str(name);
        self.target.push('=');
        self.target
            .extend(utf8_percent_encode(value.as_ref(), ESCAPED));
        self
    }

    /// # Errors
    /// [`FederationError::Refused`] if `body` can't be written as JSON.
    pub(crate) fn json(
        mut self,
        body: &(impl Serialize + ?Sized),
    ) -> Result<Self, FederationError> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| FederationError::Refused(format!("not JSON: {error}")))?;
        self.body = Some(bytes.into());
        Ok(self)
    }

    /// Somebody waits for the answer.
    pub(crate) fn interactive(self) -> Self {
        let urgency = Urgency::Interactive;
        Self { urgency, ..self }
    }

    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The largest answer that is read.
    pub(crate) fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }
}

impl Federation {
    /// Signs and sends a request, and returns the body of a successful answer.
    pub(crate) async fn open(
        &self,
        server: &ServerName,
        request: Request,
    ) -> Result<Body, FederationError> {
        let call = self.prepare(server, request).await?;
        let outcome = self.transport().open(server, call).await;
        self.note(server, outcome.as_ref().err()).await;
        outcome
    }

    /// Like [`Federation::open`], and reads the body.
    pub(crate) async fn fetch(
        &self,
        server: &ServerName,
        request: Request,
    ) -> Result<Bytes, FederationError> {
        let limit = request.limit;
        let call = self.prepare(server, request).await?;
        let outcome = self.transport().fetch(server, call, limit).await;
        self.note(server, outcome.as_ref().err()).await;
        outcome
    }

    /// Like [`Federation::fetch`], and parses the body.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        server: &ServerName,
        request: Request,
    ) -> Result<T, FederationError> {
        let body = self.fetch(server, request).await?;
        serde_json::from_slice(&body)
            .map_err(|error| FederationError::InvalidAnswer(error.to_string()))
    }

    async fn prepare(
        &self,
        server: &ServerName,
        request: Request,
    ) -> Result<Call, FederationError> {
        if server == self.server_name() {
            let why = "a request to this server itself".to_owned();
            return Err(FederationError::Refused(why));
        }
        let urgency = self.urgency_of(request.urgency);
        self.destinations().check(server, urgency).await?;
        let signed = Signed {
            method: request.method.as_str(),
            target: &request.target,
            body: request.body.as_deref().unwrap_or_default(),
        };
        let authorization = signed.sign(self.signing_keys().active(), server);
        let authorization =
            authorization.map_err(|error| FederationError::Refused(error.to_string()))?;
        Ok(Call {
            endpoint: request.endpoint,
            timeout: self.timeout_of(request.timeout),
            method: request.method,
            target: request.target,
            body: request.body,
            authorization: Some(authorization),
        })
    }

    /// Remembers whether the server works.
    async fn note(&self, server: &ServerName, error: Option<&FederationError>) {
        let destinations = self.destinations();
        let noted = match error {
            // Nothing was sent, so nothing was learnt.
            Some(FederationError::Refused(_) | FederationError::Backoff { .. }) => Ok(()),
            Some(error) if error.is_failing() => {
                destinations.failed(server, failure_of(error)).await
            }
            _ => destinations.succeeded(server).await,
        };
        if let Err(error) = noted {
            tracing::error!(%server, %error, "cannot note whether a server works");
        }
    }
}

/// What an error for which a server is left alone says about when to come back.
fn failure_of(error: &FederationError) -> Failure {
    match error.remote() {
        Some(RemoteError {
            retry_after: Some(asked),
            ..
        }) => Failure::ComeBackIn(*asked),
        Some(RemoteError { status: 429, .. }) => Failure::Busy,
        _ => Failure::OutOfOrder,
    }
}
