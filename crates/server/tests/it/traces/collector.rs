//! A collector of traces that keeps what it is sent.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::client::PATIENCE;

/// A span as it was exported.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) trace: Vec<u8>,
    pub(super) id: Vec<u8>,
    pub(super) name: String,
    /// The spans in other traces that it names.
    pub(super) links: Vec<Vec<u8>>,
    parent: Vec<u8>,
    /// The server that exported it.
    server: String,
    attributes: Vec<(String, String)>,
}

impl Span {
    /// Whether it has an attribute with that value.
    pub(super) fn has(&self, key: &str, value: &str) -> bool {
        let mut attributes = self.attributes.iter();
        attributes.any(|(known, has)| known == key && has == value)
    }
}

fn texts(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    let text = |attribute: KeyValue| {
        let value = match attribute.value?.value? {
            any_value::Value::StringValue(text) => text,
            any_value::Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        };
        Some((attribute.key, value))
    };
    attributes.into_iter().filter_map(text).collect()
}

fn read(body: &[u8]) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = Vec::new();
    for of_server in request.resource_spans {
        let resource = texts(of_server.resource.unwrap().attributes);
        let instance = resource
            .iter()
            .find(|(key, _)| key == "service.instance.id");
        let server = &instance.unwrap().1;
        let exported = of_server
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans);
        spans.extend(exported.map(|span| Span {
            trace: span.trace_id,
            id: span.span_id,
            name: span.name,
            links: span.links.into_iter().map(|link| link.span_id).collect(),
            parent: span.parent_span_id,
            server: server.clone(),
            attributes: texts(span.attributes),
        }));
    }
    spans
}

/// What the collector was sent.
#[derive(Debug, Default)]
struct Received {
    requests: usize,
    spans: Vec<Span>,
}

/// A collector that listens until the test ends.
pub(super) struct Collector {
    address: SocketAddr,
    received: watch::Sender<Received>,
}

/// What a server's configuration says of a collector.
pub(super) fn section(address: SocketAddr, sample_ratio: f64) -> String {
    format!("[traces]\ncollector = \"http://{address}\"\nsample_ratio = {sample_ratio:?}")
}

impl Collector {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = watch::Sender::default();
        tokio::spawn(serve(listener, received.clone()));
        Self { address, received }
    }

    pub(super) fn section(&self, sample_ratio: f64) -> String {
        section(self.address, sample_ratio)
    }

    /// How many requests were sent to it.
    pub(super) fn requests(&self) -> usize {
        self.received.borrow().requests
    }

    /// Waits until something is found among all the spans that it was sent.
    pub(super) async fn until<T>(&self, what: &str, find: impl Fn(&[Span]) -> Option<T>) -> T {
        let mut received = self.received.subscribe();
        let searching = async {
            loop {
                let found = find(&received.borrow_and_update().spans);
                if let Some(found) = found {
                    return found;
                }
                received.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, searching).await {
            Ok(found) => found,
            Err(_) => panic!("{what} is not among {:#?}", self.received.borrow().spans),
        }
    }
}

async fn serve(listener: TcpListener, received: watch::Sender<Received>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let received = received.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let received = received.clone();
            async move {
                assert_eq!(request.uri().path(), "/v1/traces");
                assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                let spans = read(&request.into_body().collect().await.unwrap().to_bytes());
                received.send_modify(|received| {
                    received.requests += 1;
                    received.spans.extend(spans);
                });
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        tokio::spawn(async move {
            let mut http = hyper::server::conn::http1::Builder::new();
            // A server that ends breaks off.
            let http = http.keep_alive(true);
            http.serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

/// The trace of an event.
pub(super) struct Traced {
    pub(super) root: Span,
    pub(super) event: Span,
    spans: Vec<Span>,
}

impl Traced {
    /// The trace in which a server got an event, if all of it has ended up to the event's own span.
    pub(super) fn find(spans: &[Span], server: &str, event_id: &str) -> Option<Self> {
        let mut of_server = spans.iter().filter(|span| span.server == server);
        let is_event = |span: &&Span| span.name == "event" && span.has("event_id", event_id);
        let event = of_server.find(is_event)?.clone();
        let in_trace = spans.iter().filter(|span| span.trace == event.trace);
        let spans: Vec<Span> = in_trace.cloned().collect();
        let root = spans.iter().find(|span| span.parent.is_empty())?.clone();
        assert_eq!(event.parent, root.id, "{spans:#?}");
        Some(Self { root, event, spans })
    }

    fn below(&self, parent: &Span, name: &str) -> Vec<Span> {
        let spans = self.spans.iter();
        let below = spans.filter(|span| span.parent == parent.id && span.name == name);
        below.cloned().collect()
    }

    /// The spans of that name that belong to the event itself.
    pub(super) fn below_event(&self, name: &str) -> Vec<Span> {
        self.below(&self.event, name)
    }

    /// The spans of that name that belong to the request itself.
    pub(super) fn below_root(&self, name: &str) -> Vec<Span> {
        self.below(&self.root, name)
    }
}
