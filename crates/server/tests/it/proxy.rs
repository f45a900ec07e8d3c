//! A TLS-terminating proxy in front of a homeserver's federation port, which can record, hold,
//! delay and cut what other servers send to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::ca::Identity;
use crate::http;

/// A request that reached the proxy.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
}

/// The proxy; it stops with the runtime.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Where it listens: the server name of the homeserver behind it.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
    /// Whether connections are refused; those that are open end when it becomes true.
    cut: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    holds: Vec<Rule>,
    delay: Duration,
}

struct Rule {
    applies: Box<dyn Fn(&Seen) -> bool + Send>,
    gate: Arc<Gate>,
}

/// Holds matching requests until it is released or dropped.
pub(crate) struct Hold {
    gate: Arc<Gate>,
}

struct Gate {
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl Hold {
    /// Waits until a request is held.
    pub(crate) async fn arrived(&self) {
        self.gate
            .arrived
            .subscribe()
            .wait_for(|count| *count > 0)
            .await
            .unwrap();
    }

    /// Lets the held requests go, and all later ones.
    pub(crate) fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.gate.open.send_replace(true);
    }
}

impl Proxy {
    /// Listens on a free port of the address and passes requests on to a plain HTTP port.
    pub(crate) async fn start(
        address: Ipv4Addr,
        identity: &Identity,
        upstream: SocketAddr,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            cut: watch::Sender::new(false),
        });
        tokio::spawn(accept(listener, identity.acceptor(), Arc::clone(&shared)));
        Self { address, shared }
    }

    /// Holds each request that the predicate matches.
    pub(crate) fn hold(&self, applies: impl Fn(&Seen) -> bool + Send + 'static) -> Hold {
        let gate = Arc::new(Gate {
            arrived: watch::Sender::new(0),
            open: watch::Sender::new(false),
        });
        let rule = Rule {
            applies: Box::new(applies),
            gate: Arc::clone(&gate),
        };
        self.shared.state().holds.push(rule);
        Hold { gate }
    }

    /// Holds the requests whose path contains a text.
    pub(crate) fn hold_path(&self, text: &'static str) -> Hold {
        self.hold(move |seen| seen.path.contains(text))
    }

    /// Adds so much to the time that each request takes.
    pub(crate) fn delay(&self, delay: Duration) {
        self.shared.state().delay = delay;
    }

    /// Ends all connections and refuses new ones.
    pub(crate) fn cut(&self) {
        self.shared.cut.send_replace(true);
    }

    /// Accepts connections again.
    pub(crate) fn mend(&self) {
        self.shared.cut.send_replace(false);
    }

    /// What has come in so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How many requests came in whose path contains a text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.path.contains(text))
            .count()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Records a request; answers what it has to wait for.
    fn admit(&self, seen: Seen) -> (Vec<Arc<Gate>>, Duration) {
        let mut state = self.state();
        let matching = state.holds.iter().filter(|rule| (rule.applies)(&seen));
        let gates = matching.map(|rule| Arc::clone(&rule.gate)).collect();
        state.seen.push(seen);
        (gates, state.delay)
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, String> {
        let (parts, body) = request.into_parts();
        let path = parts
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let (gates, delay) = self.admit(Seen {
            method: parts.method.to_string(),
            path,
        });
        for gate in gates {
            gate.arrived.send_modify(|count| *count += 1);
            gate.open
                .subscribe()
                .wait_for(|open| *open)
                .await
                .map_err(|why| why.to_string())?;
        }
        tokio::time::sleep(delay).await;
        let body = body
            .collect()
            .await
            .map_err(|why| why.to_string())?
            .to_bytes();
        let answer = http::send(self.upstream, Request::from_parts(parts, Full::new(body))).await?;
        let (mut parts, body) = answer.into_parts();
        // The body is whole by now: its length says all there is to say.
        parts.headers.remove(hyper::header::TRANSFER_ENCODING);
        Ok(Response::from_parts(parts, Full::new(body)))
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            tokio::select! {
                biased;
                _ = cut.wait_for(|cut| *cut) => {}
                () = serve(stream, acceptor, &shared) => {}
            }
        });
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, shared: &Arc<Shared>) {
    // A failed handshake or exchange is the other server's to notice, and to log.
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let service = service_fn(|request| {
        let shared = Arc::clone(shared);
        async move { shared.forward(request).await }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    drop(served);
}

/// The proxy is part of the tests' judgement, so it is tested itself.
mod tests {
    use std::time::Instant;

    use rustls::pki_types::ServerName;

    use super::*;
    use crate::ca::Ca;

    /// A proxy in front of a server that answers each request with its path.
    async fn echo() -> (Ca, Proxy) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(|request: Request<Incoming>| async move {
                    Ok::<_, String>(Response::new(Full::<Bytes>::from(
                        request.uri().to_string(),
                    )))
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        let ca = Ca::generate();
        let proxy = Proxy::start(
            Ipv4Addr::LOCALHOST,
            &ca.identity(Ipv4Addr::LOCALHOST),
            upstream,
        )
        .await;
        (ca, proxy)
    }

    async fn get(ca: &Ca, proxy: &Proxy, path: &str) -> Result<String, String> {
        let stream = TcpStream::connect(proxy.address)
            .await
            .map_err(|why| why.to_string())?;
        let name = ServerName::from(proxy.address.ip());
        let connector = tokio_rustls::TlsConnector::from(ca.client_config());
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|why| why.to_string())?;
        let request = Request::get(path)
            .header("host", "x")
            .body(Full::default())
            .unwrap();
        let answer = http::send_over(stream, request).await?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }

    #[tokio::test]
    async fn it_passes_on_and_records() {
        let (ca, proxy) = echo().await;
        assert_eq!(get(&ca, &proxy, "/a?b=c").await.unwrap(), "/a?b=c");
        assert_eq!(
            (
                proxy.seen()[0].method.as_str(),
                proxy.seen()[0].path.as_str()
            ),
            ("GET", "/a?b=c")
        );
        assert_eq!((proxy.count("/a"), proxy.count("/b")), (1, 0));
    }

    #[tokio::test]
    async fn it_holds_what_matches_until_released() {
        let (ca, proxy) = echo().await;
        let hold = proxy.hold_path("/state");
        let mut held = Box::pin(get(&ca, &proxy, "/state"));
        tokio::select! {
            answer = &mut held => panic!("not held: {answer:?}"),
            () = hold.arrived() => {}
        }
        assert_eq!(get(&ca, &proxy, "/other").await.unwrap(), "/other");
        hold.release();
        assert_eq!(held.await.unwrap(), "/state");
        assert_eq!(get(&ca, &proxy, "/state").await.unwrap(), "/state");
    }

    #[tokio::test]
    async fn it_cuts_open_and_new_connections_until_mended() {
        let (ca, proxy) = echo().await;
        let hold = proxy.hold_path("/state");
        let mut held = Box::pin(get(&ca, &proxy, "/state"));
        tokio::select! {
            answer = &mut held => panic!("not held: {answer:?}"),
            () = hold.arrived() => proxy.cut(),
        }
        assert!(held.await.is_err());
        assert!(get(&ca, &proxy, "/other").await.is_err());
        proxy.mend();
        assert_eq!(get(&ca, &proxy, "/other").await.unwrap(), "/other");
    }

    #[tokio::test]
    async fn it_delays() {
        let (ca, proxy) = echo().await;
        proxy.delay(Duration::from_millis(300));
        let started = Instant::now();
        get(&ca, &proxy, "/").await.unwrap();
        assert!(started.elapsed() >= Duration::from_millis(300));
    }
}
