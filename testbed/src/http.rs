//! One HTTP request over one connection, and TLS connections that are served: all that the tests need.

use std::net::SocketAddr;

use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

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

/// A connection that is kept between requests, as most clients do.
pub struct Kept {
    sender: SendRequest<Full<Bytes>>,
}

impl Kept {
    /// Connects.
    pub async fn open(to: SocketAddr) -> Result<Self, String> {
        let failed = |why: &dyn std::fmt::Display| format!("connecting to {to}: {why}");
        let stream = TcpStream::connect(to).await.map_err(|why| failed(&why))?;
        stream.set_nodelay(true).map_err(|why| failed(&why))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|why| failed(&why))?;
        // It ends with the sender. What goes wrong is told to whoever waits for an answer.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, hyper::Error> {
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(
            parts,
            body.collect().await?.to_bytes(),
        ))
    }
}

/// Serves whoever connects, over TLS, for as long as there is a runtime.
pub async fn serve(router: Router, listener: TcpListener, tls: TlsAcceptor) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            // A server that goes away in the middle of a request is what these tests are about.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}
