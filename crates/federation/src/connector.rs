//! Connections to other servers.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use myelin_env::{Env, Stream};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use crate::{
    address::AddressPolicy, authority::Authority, discovery::Discovery, error::FederationError,
};

/// For resolving, connecting and the TLS handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For one address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one address has before the next is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(300);

/// Opens a secured connection to an authority, given as the authority of a URI. Ports mean what
/// they mean in server names: without one, DNS decides.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) env: Env,
    pub(crate) discovery: Discovery,
    /// None where connections stay within this process.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) addresses: AddressPolicy,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Channel>;
    type Error = FederationError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let authority = uri.authority().and_then(|a| Authority::parse(a.as_str()));
            let authority = authority
                .ok_or_else(|| FederationError::Refused(format!("{uri} doesn't name a server")))?;
            let connecting = connector.connect(&authority);
            let connected = connector.env.clock.timeout(CONNECT_TIMEOUT, connecting);
            let stream = connected.await.map_err(|_| {
                FederationError::Unreachable(format!("no connection to {authority} in time"))
            })?;
            Ok(TokioIo::new(Channel(stream?)))
        })
    }
}

impl Connector {
    async fn connect(&self, authority: &Authority) -> Result<Box<dyn Stream>, FederationError> {
        let mut addresses = self.discovery.addresses(authority).await?;
        // Here, on what DNS said this time: no redirect, delegation or second answer gets round it.
        addresses.retain(|address| self.addresses.permits(address.ip()));
        if addresses.is_empty() {
            return Err(FederationError::Refused(format!(
                "{authority} has no address that this server may connect to"
            )));
        }
        let stream = self.first_to_answer(addresses).await?;
        self.secure(authority, stream).await
    }

    /// Connects to whichever address answers first; each has a head start over the next.
    async fn first_to_answer(
        &self,
        addresses: Vec<SocketAddr>,
    ) -> Result<Box<dyn Stream>, FederationError> {
        let mut waiting = addresses.into_iter();
        let mut attempts = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            if let Some(address) = waiting.next() {
                attempts.push(self.dial(address));
            }
            match self.env.clock.timeout(STAGGER, attempts.next()).await {
                Ok(Some(Ok(stream))) => return Ok(stream),
                Ok(Some(Err(failure))) => failures.push(failure),
                Ok(None) => return Err(FederationError::Unreachable(failures.join("; "))),
                // The head start is over.
                Err(_) => {}
            }
        }
    }

    async fn dial(&self, address: SocketAddr) -> Result<Box<dyn Stream>, String> {
        let connecting = self.env.network.connect(address);
        match self.env.clock.timeout(ADDRESS_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(format!("{address}: {error}")),
            Err(_) => Err(format!("{address}: no answer")),
        }
    }

    async fn secure(
        &self,
        authority: &Authority,
        stream: Box<dyn Stream>,
    ) -> Result<Box<dyn Stream>, FederationError> {
        let Some(tls) = &self.tls else {
            return Ok(stream);
        };
        let name = authority.tls_name().ok_or_else(|| {
            FederationError::Unreachable(format!("no certificate can be for {authority}"))
        })?;
        let tls = TlsConnector::from(Arc::clone(tls));
        match tls.connect(name, stream).await {
            Ok(secured) => Ok(Box::new(secured)),
            Err(error) => Err(FederationError::Unreachable(format!(
                "TLS with {authority}: {error}"
            ))),
        }
    }
}

/// An open connection.
pub(crate) struct Channel(Box<dyn Stream>);

impl Connection for Channel {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
