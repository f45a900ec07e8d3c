//! HTTPS requests with bounds on time and size.

use std::{
    error::Error as _,
    io::{self, ErrorKind},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client},
    rt::TokioExecutor,
};
use myelin_env::Clock;

use crate::{
    authority::Authority, connector::Connector, error::FederationError, pool_timer::PoolTimer,
};

/// How long an unused connection is kept, and how many to one authority.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MOST_IDLE: usize = 8;

/// Sends requests over a pool of connections, one pool for each authority. Clones share it.
///
/// HTTP/1.1 only: large answers flow best over a connection of their own, and every server and
/// proxy speaks it.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    clock: Clock,
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    /// Where to connect to.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: String,
    /// The `Host` header.
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
    /// JSON; `None` for requests without a body.
    pub(crate) body: Option<Bytes>,
    /// For everything, from resolving the name to the last byte of the answer.
    pub(crate) timeout: Duration,
}

impl Outgoing {
    /// A GET with a time of 60 seconds.
    pub(crate) fn get(authority: &Authority, target: &str) -> Self {
        Self {
            method: Method::GET,
            authority: authority.to_string(),
            target: target.to_owned(),
            host: authority.to_string(),
            authorization: None,
            body: None,
            timeout: Duration::from_secs(60),
        }
    }

    pub(crate) fn host(self, host: String) -> Self {
        Self { host, ..self }
    }

    pub(crate) fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }
}

/// An answer whose body is still to come.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// The rest of an answer.
pub(crate) struct Body {
    incoming: Incoming,
    clock: Clock,
    /// How long may still be waited for. Only waiting counts: a reader may take its time.
    left: Duration,
}

impl HttpClient {
    pub(crate) fn new(connector: Connector) -> Self {
        let clock = connector.env.clock.clone();
        // Tokio's own executor: a connection's task does nothing of its own accord, ends with the
        // pool, and shutting down must not wait for idle connections.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(PoolTimer::new(clock.clone()))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MOST_IDLE)
            .build(connector);
        Self { client, clock }
    }

    /// Sends a request and returns when the head of the answer is there, whatever its status.
    ///
    /// # Errors
    /// [`FederationError::Unreachable`] or [`FederationError::Refused`].
    pub(crate) async fn open(&self, outgoing: Outgoing) -> Result<Answer, FederationError> {
        let timeout = outgoing.timeout;
        let request = build(outgoing)?;
        let start = self.clock.instant();
        let sending = self.clock.timeout(timeout, self.send(request));
        let answer = sending.await.map_err(|_| out_of_time())?;
        let (head, incoming) = answer.map_err(|error| explain(&error))?.into_parts();
        let body = Body {
            incoming,
            left: timeout.saturating_sub(start.elapsed(&self.clock)),
            clock: self.clock.clone(),
        };
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

impl HttpClient {
    /// Servers close connections that were idle for some time, perhaps at the very moment when one is
    /// used again. All requests of federation can be repeated, so that is worth a second try.
    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, legacy::Error> {
        let again = request.clone();
        match self.client.request(request).await {
            Err(error) if was_closed(&error) => self.client.request(again).await,
            outcome => outcome,
        }
    }
}

impl Body {
    /// The next piece; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, FederationError> {
        loop {
            let start = self.clock.instant();
            let frame = self.clock.timeout(self.left, self.incoming.frame()).await;
            self.left = self.left.saturating_sub(start.elapsed(&self.clock));
            match frame.map_err(|_| out_of_time())? {
                None => return Ok(None),
                Some(Err(error)) => {
                    let why = format!("the answer broke off: {error}");
                    return Err(FederationError::Unreachable(why));
                }
                // Trailers are of no use here.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
    }

    /// The whole, if it has at most `limit` bytes.
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Bytes, FederationError> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Err(FederationError::InvalidAnswer(format!(
                    "larger than {limit} bytes"
                )));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// At most the first `limit` bytes.
    pub(crate) async fn collect_some(mut self, limit: usize) -> Bytes {
        let mut start = BytesMut::new();
        while start.len() < limit
            && let Ok(Some(chunk)) = self.chunk().await
        {
            start.extend_from_slice(&chunk);
        }
        start.truncate(limit);
        start.freeze()
    }
}

fn build(outgoing: Outgoing) -> Result<Request<Full<Bytes>>, FederationError> {
    let uri = format!("https://{}{}", outgoing.authority, outgoing.target);
    let mut request = Request::builder()
        .method(outgoing.method)
        .uri(uri)
        .header(header::HOST, outgoing.host)
        .header(
            header::USER_AGENT,
            concat!("Myelin/", env!("CARGO_PKG_VERSION")),
        );
    if let Some(authorization) = outgoing.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    if outgoing.body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request
        .body(Full::new(outgoing.body.unwrap_or_default()))
        .map_err(|error| FederationError::Refused(format!("not a request: {error}")))
}

fn out_of_time() -> FederationError {
    FederationError::Unreachable("out of time".to_owned())
}

/// Whether the connection was closed before any answer.
fn was_closed(error: &legacy::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_canceled() || error.is_closed())
        {
            return true;
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
            );
        }
        source = cause.source();
    }
    false
}

/// The connector's own error if it was that, else what HTTP says.
fn explain(error: &legacy::Error) -> FederationError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(own) = cause.downcast_ref::<FederationError>() {
            return own.clone();
        }
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    FederationError::Unreachable(text)
}
