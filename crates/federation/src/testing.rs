//! Servers for tests: real ones, with TLS, on this machine's loopback, and names that lead to them.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _, future::BoxFuture};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use myelin_env::{Env, Random};
use myelin_storage::testing::Fresh;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ruma::{OwnedServerName, ServerName};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    Federation, FederationConfig, ResolveError, Resolver, Service, SigningKeys, federation::Names,
};

/// The status that makes a server of a test close the connection instead of answering.
pub(crate) const CLOSE: u16 = 499;

pub(crate) type Answer = Response<BoxBody<Bytes, io::Error>>;
type Handler = Arc<dyn Fn(&Seen) -> BoxFuture<'static, Answer> + Send + Sync>;

/// Everything around a server under test.
pub(crate) struct World {
    pub(crate) fresh: Fresh,
    pub(crate) names: Arc<Table>,
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

/// Name servers that know what a test tells them.
#[derive(Default)]
pub(crate) struct Table {
    hosts: Mutex<HashMap<String, Vec<IpAddr>>>,
    services: Mutex<HashMap<String, Result<Vec<Service>, ()>>>,
    asked: Mutex<Vec<String>>,
}

/// A server of a test.
pub(crate) struct TestServer {
    pub(crate) port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

/// A request that a server of a test got.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// How many came before.
    pub(crate) number: usize,
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) authorization: Option<String>,
    /// The name that the TLS client asked for; none for IP addresses.
    pub(crate) sni: Option<String>,
    pub(crate) body: Bytes,
}

impl World {
    pub(crate) async fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let world = Self {
            fresh: Fresh::sqlite().await,
            names: Arc::default(),
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        };
        std::fs::write(world.directory.path().join("ca.pem"), world.issuer.pem()).unwrap();
        world
    }

    pub(crate) fn env(&self) -> &Env {
        &self.fresh.env
    }

    /// Starts a server with a certificate for `names`, which may be IP addresses.
    pub(crate) async fn server<F>(&self, names: &[&str], handler: F) -> TestServer
    where
        F: Fn(&Seen) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    {
        self.server_at(Ipv4Addr::LOCALHOST, names, handler).await
    }

    /// The same at another address of this machine.
    pub(crate) async fn server_at<F>(
        &self,
        address: Ipv4Addr,
        names: &[&str],
        handler: F,
    ) -> TestServer
    where
        F: Fn(&Seen) -> BoxFuture<'static, Answer> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = TlsAcceptor::from(Arc::new(self.tls(names)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let handler: Handler = Arc::new(handler);
        let (env, all_seen) = (self.env().clone(), Arc::clone(&seen));
        self.env().tasks.spawn("test server", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, handler) = (acceptor.clone(), Arc::clone(&handler));
                let seen = Arc::clone(&all_seen);
                let counter = Arc::clone(&counter);
                env.tasks.spawn("test connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    counter.fetch_add(1, Ordering::SeqCst);
                    let sni = stream.get_ref().1.server_name().map(str::to_owned);
                    let service = service_fn(move |request| {
                        let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
                        let sni = sni.clone();
                        async move {
                            let request = see(request, sni).await;
                            let request = note(&seen, request);
                            let answer = handler(&request).await;
                            match answer.status().as_u16() {
                                CLOSE => Err(io::Error::other("closed")),
                                _ => Ok(answer),
                            }
                        }
                    });
                    let connection = http1::Builder::new();
                    let _ = connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        TestServer {
            port,
            seen,
            connections,
        }
    }

    fn tls(&self, names: &[&str]) -> ServerConfig {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap()
    }

    /// What makes the servers of this world believed and reachable.
    pub(crate) fn config(&self) -> FederationConfig {
        FederationConfig {
            extra_ca_certificates: vec![self.directory.path().join("ca.pem")],
            addresses: crate::AddressPolicy {
                allow_private: true,
                ..crate::AddressPolicy::default()
            },
            ..FederationConfig::default()
        }
    }

    /// A server under test, `us.test`.
    pub(crate) fn federation(&self) -> Federation {
        self.federation_with(self.config(), 1)
    }

    /// A server under test that looks for `.well-known` on another port.
    pub(crate) fn federation_with(&self, config: FederationConfig, https_port: u16) -> Federation {
        let keys = keys("us.test", 1);
        let names = Names {
            resolver: Arc::clone(&self.names) as Arc<dyn Resolver>,
            https_port,
        };
        let database = self.fresh.database.clone();
        Federation::assemble(config, self.env().clone(), database, Arc::new(keys), names).unwrap()
    }

    /// A server that publishes its keys, and answers everything else with 404. Returns its keys.
    pub(crate) async fn key_server(&self, name: &str) -> (SigningKeys, TestServer) {
        let keys = keys(name, name.len() as u64 + 100);
        let (publishing, env) = (keys.clone(), self.env().clone());
        let server = self
            .server(&[name], move |seen| match seen.target.as_str() {
                "/_matrix/key/v2/server" => {
                    let document = publishing.document(env.clock.now_ms());
                    json(200, &serde_json::to_string(&document).unwrap())
                }
                _ => json(404, "{}"),
            })
            .await;
        self.names.service(name, server.port);
        (keys, server)
    }
}

/// Signing keys that follow from a seed.
pub(crate) fn keys(name: &str, seed: u64) -> SigningKeys {
    let name = OwnedServerName::try_from(name).unwrap();
    SigningKeys::generate(name, &Random::seeded(seed))
}

pub(crate) fn name(name: &str) -> &ServerName {
    name.try_into().unwrap()
}

/// An answer with a body.
pub(crate) fn json(status: u16, body: &str) -> BoxFuture<'static, Answer> {
    let answer = whole(status, body);
    Box::pin(async { answer })
}

/// An answer with a body, at once.
pub(crate) fn whole(status: u16, body: &str) -> Answer {
    let body = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {});
    Response::builder()
        .status(status)
        .body(body.boxed())
        .unwrap()
}

/// A successful answer that arrives piece by piece. An error breaks it off.
pub(crate) fn pieces<S>(pieces: S) -> Answer
where
    S: Stream<Item = io::Result<Bytes>> + Send + Sync + 'static,
{
    let body = StreamBody::new(pieces.map_ok(Frame::data));
    Response::new(BodyExt::boxed(body))
}

async fn see(request: Request<Incoming>, sni: Option<String>) -> Seen {
    let (head, body) = request.into_parts();
    let text = |name| {
        let value = head.headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    Seen {
        number: 0,
        host: text(header::HOST).unwrap(),
        authorization: text(header::AUTHORIZATION),
        method: head.method,
        target: head.uri.to_string(),
        sni,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

/// Numbers a request and keeps it for the test.
fn note(all: &Mutex<Vec<Seen>>, seen: Seen) -> Seen {
    let mut all = all.lock().unwrap();
    let number = all.len();
    let seen = Seen { number, ..seen };
    all.push(seen.clone());
    seen
}

impl TestServer {
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> Seen {
        self.seen().pop().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen().len()
    }

    /// How many TLS connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Table {
    /// Gives a host addresses.
    pub(crate) fn host(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap());
        let mut hosts = self.hosts.lock().unwrap();
        hosts.insert(host.to_owned(), addresses.collect());
    }

    /// Makes `name` lead to a port of this machine. It has no addresses itself, so that nothing but the
    /// SRV record is followed.
    pub(crate) fn service(&self, name: &str, port: u16) {
        self.records(
            &format!("_matrix-fed._tcp.{name}"),
            &[(0, 0, port, "loopback.test")],
        );
        self.host("loopback.test", &["127.0.0.1"]);
    }

    /// Gives a name SRV records: priority, weight, port, target.
    pub(crate) fn records(&self, name: &str, records: &[(u16, u16, u16, &str)]) {
        let records = records
            .iter()
            .map(|(priority, weight, port, target)| Service {
                priority: *priority,
                weight: *weight,
                port: *port,
                target: (*target).to_owned(),
            });
        let records = Ok(records.collect());
        self.services
            .lock()
            .unwrap()
            .insert(name.to_owned(), records);
    }

    /// Makes questions about SRV records fail.
    pub(crate) fn broken(&self, name: &str) {
        self.services
            .lock()
            .unwrap()
            .insert(name.to_owned(), Err(()));
    }

    /// What was asked for since the last call.
    pub(crate) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Resolver for Table {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveError>> {
        self.asked.lock().unwrap().push(host.to_owned());
        let found = self.hosts.lock().unwrap().get(host).cloned();
        Box::pin(async move { Ok(found.unwrap_or_default()) })
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<Service>, ResolveError>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let found = self.services.lock().unwrap().get(name).cloned();
        let found = found.unwrap_or_else(|| Ok(Vec::new()));
        let found = found.map_err(|()| ResolveError {
            name: name.to_owned(),
            why: "SERVFAIL".to_owned(),
        });
        Box::pin(async move { found })
    }
}
