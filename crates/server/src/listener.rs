//! One port: accepting connections, and serving them until the server stops.

mod addresses;
mod impatient;

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use ipnet::IpNet;
use myelin_api::Peer;
use myelin_env::Env;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower_http::add_extension::AddExtension;

use self::{addresses::Addresses, impatient::Impatient};

/// More connections than this wait until others end.
const MAX_CONNECTIONS: usize = 8192;

/// The TLS handshake has to be finished within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);

/// The head of a request has to arrive within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests at the same time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 200;

/// After a failure to accept, such as too many open files, there is a pause.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port that is open.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) router: Router,
    /// Reverse proxies, which connect for others.
    pub(crate) proxies: Vec<IpNet>,
}

impl Listener {
    /// Accepts connections until the server stops.
    pub(crate) async fn serve(self, env: Env) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let stopping = env.tasks.stopping();
        let builder = Arc::new(builder());
        let addresses = Addresses::new(self.proxies);
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await;
            let accepted = stopping.run_until_cancelled(self.socket.accept()).await;
            let (stream, peer) = match accepted {
                None => return,
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    env.clock.sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(place) = addresses.enter(peer.ip()) else {
                tracing::debug!(%peer, "an address has too many connections");
                continue;
            };
            let connection = Connection {
                builder: Arc::clone(&builder),
                // Each request is told where it comes from.
                service: AddExtension::new(self.router.clone(), Peer(peer.ip())),
                env: env.clone(),
            };
            let tls = self.tls.clone();
            // It is tracked; nobody waits for it.
            drop(env.tasks.spawn("connection", async move {
                let _held = (permit, place);
                connection.greet(stream, tls).await;
            }));
        }
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(HEAD_TIMEOUT);
    builder
}

struct Connection {
    builder: Arc<Builder<TokioExecutor>>,
    service: AddExtension<Router, Peer>,
    env: Env,
}

impl Connection {
    async fn greet(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it began");
            return;
        }
        let clock = self.env.clock.clone();
        match tls {
            None => self.serve(stream).await,
            Some(tls) => match clock.timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.serve(stream).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            },
        }
    }

    /// Answers requests until the other side has no more, or the server stops: then those that have
    /// begun are finished.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = TowerToHyperService::new(self.service);
        let stream = TokioIo::new(Impatient::new(stream, self.env.clock.clone()));
        let serving = self.builder.serve_connection(stream, service);
        let mut serving = pin!(serving);
        let stopping = self.env.tasks.stopping();
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = stopping.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke off");
        }
    }
}
