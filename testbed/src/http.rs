//! One HTTP request over one connection: all that the tests need of a client.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Sends a request over a new plain connection and reads the whole answer.
///
/// The connection is dropped with the future, so that a server sees a client that goes away.
pub async fn send(
    to: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, String> {
    let stream = TcpStream::connect(to)
        .await
        .map_err(|why| format!("connecting to {to}: {why}"))?;
    send_over(stream, request).await
}

/// The same over a stream that is there already.
pub async fn send_over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, String> {
    let failed = |why: hyper::Error| format!("request: {why}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let exchange = async {
        let (parts, body) = sender
            .send_request(request)
            .await
            .map_err(failed)?
            .into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            // The server may close right after its answer, which is then still to be read.
            Ok(()) => exchange.await,
            Err(why) => Err(failed(why)),
        },
    }
}
