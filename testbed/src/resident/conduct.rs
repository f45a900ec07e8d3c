//! What the resident does instead of answering as it should, and who asked it what.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{future, stream};
use ruma::{OwnedServerName, ServerName};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Resident;
use super::answers::Name;
use crate::client::PATIENCE;

/// Changes an honest answer.
type Lie = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// What is answered to a request.
#[derive(Clone)]
pub enum Conduct {
    /// An error with this status and code.
    Error(u16, &'static str),
    /// Something that is no JSON, as if it were the answer.
    Nonsense,
    /// The first half of the honest answer; then the connection breaks.
    CutOff,
    /// Nothing, ever.
    Silence,
    /// The honest answer with a change in it.
    Lie(Lie),
    /// The honest answer, when the other end says `true`.
    Hold(watch::Receiver<bool>),
}

impl Conduct {
    /// An answer that is not true.
    pub fn lie(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Self {
        Self::Lie(Arc::new(change))
    }

    /// An answer that waits, and what lets it go.
    pub fn hold() -> (Self, watch::Sender<bool>) {
        let (release, held) = watch::channel(false);
        (Self::Hold(held), release)
    }
}

/// For which requests something else is done than usual.
pub(super) struct Rule {
    /// The name that is asked; any if there is none.
    name: Option<OwnedServerName>,
    endpoint: &'static str,
    conduct: Conduct,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The name that was asked.
    pub name: OwnedServerName,
    /// The server that asked.
    pub origin: String,
    /// What the path calls it: `state_ids`, for example.
    pub endpoint: String,
    /// With the query.
    pub path: String,
    /// The JSON body, if there was one.
    pub body: Value,
    /// How many requests of this kind were under way when it came, this one too.
    pub at_once: usize,
}

/// All requests so far, and which are under way.
#[derive(Default)]
pub(super) struct Diary {
    asked: watch::Sender<Vec<Asked>>,
    /// By endpoint.
    under_way: Mutex<HashMap<String, usize>>,
}

/// A request that is under way until it is answered or given up.
struct UnderWay<'a>(&'a Diary, &'a str);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        *self.0.under_way.lock().unwrap().get_mut(self.1).unwrap() -= 1;
    }
}

impl Diary {
    /// Notes the beginning of a request. Answers how many like it are under way.
    fn begin<'a>(&'a self, endpoint: &'a str) -> (UnderWay<'a>, usize) {
        let mut under_way = self.under_way.lock().unwrap();
        let count = under_way.entry(endpoint.to_owned()).or_default();
        *count += 1;
        (UnderWay(self, endpoint), *count)
    }
}

impl Resident {
    /// From now on, whoever asks `name` (any name, if none is given) at an endpoint gets this. What
    /// was said later goes before what was said earlier.
    pub fn misbehave(&self, name: Option<&ServerName>, endpoint: &'static str, conduct: Conduct) {
        self.rules.lock().unwrap().push(Rule {
            name: name.map(ToOwned::to_owned),
            endpoint,
            conduct,
        });
    }

    /// From now on everything is answered honestly.
    pub fn behave(&self) {
        self.rules.lock().unwrap().clear();
    }

    /// What a server asked at an endpoint, in order.
    pub fn asked(&self, origin: &str, endpoint: &str) -> Vec<Asked> {
        let all = self.diary.asked.borrow();
        let wanted = |asked: &&Asked| asked.origin == origin && asked.endpoint == endpoint;
        all.iter().filter(wanted).cloned().collect()
    }

    /// Waits until a server has asked at an endpoint so many times.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn until_asked(&self, origin: &str, endpoint: &str, times: usize) {
        let what = format!("{origin} to ask {endpoint} {times} times");
        self.until(&what, || self.asked(origin, endpoint).len() >= times)
            .await;
    }

    /// Waits until a server has asked at an endpoint with a body that names an event.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn until_asked_about(&self, origin: &str, endpoint: &str, event: &str) {
        let names = |asked: &Asked| asked.body.to_string().contains(event);
        let what = format!("{origin} to ask {endpoint} about {event}");
        self.until(&what, || self.asked(origin, endpoint).iter().any(names))
            .await;
    }

    /// Waits until a server has sent a transaction with these words in it to so many of the names.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn until_told(&self, origin: &str, words: &str, names: usize) {
        let (mut told, mut seen) = (HashSet::new(), 0);
        let mut asked = self.diary.asked.subscribe();
        let waiting = async {
            while told.len() < names {
                for asked in &asked.borrow_and_update()[seen..] {
                    seen += 1;
                    let is_told = asked.origin == origin && asked.endpoint == "send";
                    if is_told && asked.body.to_string().contains(words) {
                        told.insert(asked.name.clone());
                    }
                }
                if told.len() < names {
                    // Its sender is `self`.
                    asked.changed().await.ok();
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        let told = told.len();
        assert!(
            waited.is_ok(),
            "{told} of {names} servers were told: {words}"
        );
    }

    async fn until(&self, what: &str, happened: impl Fn() -> bool) {
        let mut asked = self.diary.asked.subscribe();
        let waiting = async {
            while !happened() {
                // Its sender is `self`.
                asked.changed().await.ok();
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "waited in vain for {what}");
    }

    fn conduct(&self, name: &ServerName, endpoint: &str) -> Option<Conduct> {
        let rules = self.rules.lock().unwrap();
        let applies = |rule: &&Rule| {
            rule.endpoint == endpoint && rule.name.as_deref().is_none_or(|named| named == name)
        };
        rules
            .iter()
            .rev()
            .find(applies)
            .map(|rule| rule.conduct.clone())
    }
}

/// The word of a path that names the endpoint.
fn endpoint(path: &str) -> &str {
    let rest = path.strip_prefix("/_matrix/federation/");
    let rest = rest.or_else(|| path.strip_prefix("/_matrix/policy/"));
    rest.unwrap_or(path).split('/').nth(1).unwrap_or_default()
}

/// Notes each request, and answers it as the rules say.
pub(super) async fn watched(State(name): State<Name>, request: Request, next: Next) -> Response {
    let server = name.server_name().to_owned();
    let resident = name.resident;
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let endpoint = endpoint(parts.uri.path()).to_owned();
    let (_under_way, at_once) = resident.diary.begin(&endpoint);
    let asked = Asked {
        name: server.clone(),
        origin: origin(&parts.headers),
        path: parts.uri.to_string(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        at_once,
        endpoint: endpoint.clone(),
    };
    // Whoever sees the request in the diary may change the rules for the next one, not for this.
    let conduct = resident.conduct(&server, &endpoint);
    resident.diary.asked.send_modify(|all| all.push(asked));
    let honest = next.run(Request::from_parts(parts, Body::from(body)));
    match conduct {
        None => honest.await,
        Some(Conduct::Error(status, code)) => {
            let body = json!({ "errcode": code, "error": "the test says so" });
            (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
        }
        Some(Conduct::Nonsense) => "<h1>It works!</h1>".into_response(),
        Some(Conduct::Silence) => future::pending().await,
        Some(Conduct::CutOff) => {
            let whole = read(honest.await).await;
            let half = whole.slice(..whole.len() / 2);
            let broken = || std::io::Error::other("the test says so");
            Body::from_stream(stream::iter([Ok(half), Err(broken())])).into_response()
        }
        Some(Conduct::Lie(lie)) => {
            let answer = honest.await;
            let status = answer.status();
            let mut answer = serde_json::from_slice(&read(answer).await).unwrap();
            lie(&mut answer);
            (status, Json(answer)).into_response()
        }
        Some(Conduct::Hold(mut held)) => {
            // Who holds it may go away: then it is held for ever.
            if held.wait_for(|released| *released).await.is_err() {
                future::pending::<()>().await;
            }
            honest.await
        }
    }
}

async fn read(answer: Response) -> Bytes {
    to_bytes(answer.into_body(), usize::MAX).await.unwrap()
}

/// The server that asks. Its signature is not checked: there is nobody else here.
pub(super) fn origin(headers: &HeaderMap) -> String {
    let authorization = headers
        .get("authorization")
        .map_or("", |value| value.to_str().unwrap());
    let (_, after) = authorization.split_once("origin=").unwrap_or_default();
    let end = |c: char| c == '"' || c == ',';
    after
        .trim_start_matches('"')
        .split(end)
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// An event whose signatures are not those that its servers made.
pub fn forge(event: &mut Value) {
    let signatures = event["signatures"].as_object_mut().unwrap();
    for keys in signatures.values_mut() {
        for signature in keys.as_object_mut().unwrap().values_mut() {
            *signature = "A".repeat(86).into();
        }
    }
}
