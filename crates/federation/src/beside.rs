//! Requests to programs that the operator runs beside this server. They are named in the configuration, so they may
//! be at private addresses, and they are spoken to without TLS.

use std::{error::Error, io};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use myelin_env::{Network, Stream};

/// How long an answer may be, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Sends a request to a host, by name or address, over a connection of its own. There is no limit of time: use
/// [`Clock::timeout`](myelin_env::Clock::timeout).
///
/// # Errors
/// Whatever goes wrong; nobody but the operator has to know what.
pub async fn send_beside(
    network: &Network,
    (host, port): (&str, u16),
    mut request: Request<Bytes>,
) -> Result<Response<Bytes>, Box<dyn Error + Send + Sync>> {
    let authority = request.uri().authority().map_or(host, |of| of.as_str());
    let name = HeaderValue::from_str(authority)?;
    let path = request.uri().path_and_query().map_or("/", |of| of.as_str());
    *request.uri_mut() = Uri::try_from(path)?;
    request.headers_mut().insert(header::HOST, name);
    let stream = TokioIo::new(connect(network, host, port).await?);
    let (mut sender, connection) = http1::handshake(stream).await?;
    let exchange = async move {
        let answer = sender.send_request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    // The connection ends when the exchange has dropped its sender.
    let (_, answer) = tokio::join!(connection, exchange);
    answer
}

async fn connect(network: &Network, host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
    let mut failed = None;
    for address in tokio::net::lookup_host((host, port)).await? {
        match network.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::Error::other(format!("{host} has no address"))))
}
