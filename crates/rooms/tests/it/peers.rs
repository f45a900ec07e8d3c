//! Other servers, in memory: they answer what a test lets them answer, and note what they are asked.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use myelin_env::{Network, SimulatedNetwork, Stream};
use ruma::{OwnedEventId, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::story::Story;

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The server that was asked.
    pub(crate) server: String,
    /// What the path calls it: `state_ids`, for example.
    pub(crate) endpoint: String,
    /// With the query.
    pub(crate) path: String,
    /// Null if there was none.
    pub(crate) body: Value,
}

type Answer = Arc<dyn Fn(&Asked) -> Option<Value> + Send + Sync>;

/// All servers but the one under test. What they are not told to answer they don't have (404); transactions
/// they take. Clones share everything.
#[derive(Clone, Default)]
pub(crate) struct Peers(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By server and endpoint; `None`: it never answers.
    conducts: HashMap<(String, &'static str), Option<Answer>>,
    asked: Vec<Asked>,
    /// Who waits for an answer.
    waiting: Vec<Waker>,
}

impl Peers {
    /// The network on which they are.
    pub(crate) fn network(&self) -> Network {
        Network::simulated(Arc::new(self.clone()))
    }

    /// From now on a server answers this at an endpoint, also to those who are waiting.
    pub(crate) fn answer(&self, server: &ServerName, endpoint: &'static str, answer: Value) {
        self.answer_each(server, endpoint, move |_| Some(answer.clone()));
    }

    /// From now on a server answers each request at an endpoint so; `None`: it doesn't have it.
    pub(crate) fn answer_each(
        &self,
        server: &ServerName,
        endpoint: &'static str,
        answer: impl Fn(&Asked) -> Option<Value> + Send + Sync + 'static,
    ) {
        self.set(server, endpoint, Some(Arc::new(answer)));
    }

    /// From now on a server doesn't answer at an endpoint.
    pub(crate) fn silence(&self, server: &ServerName, endpoint: &'static str) {
        self.set(server, endpoint, None);
    }

    fn set(&self, server: &ServerName, endpoint: &'static str, conduct: Option<Answer>) {
        let mut state = self.lock();
        state
            .conducts
            .insert((server.to_string(), endpoint), conduct);
        state.waiting.drain(..).for_each(Waker::wake);
    }

    /// From now on a server tells all events of a story, one by one, and the states before them.
    pub(crate) fn tell(&self, server: &ServerName, story: &Story) {
        let story = Arc::new(story.clone());
        let of = story.clone();
        let event = move |asked: &Asked| Some(json!({ "pdus": [of.json(&of.named(asked)?)] }));
        self.answer_each(server, "event", event);
        for (endpoint, is_whole) in [("state_ids", false), ("state", true)] {
            let of = story.clone();
            self.answer_each(server, endpoint, move |asked| {
                let state = of.before(&of.pdu(&of.named(asked)?).prev_events);
                let chain: Vec<_> = of.auth_chain(&state).into_iter().collect();
                let state: Vec<_> = state.into_values().collect();
                let jsons =
                    |ids: &[OwnedEventId]| -> Vec<_> { ids.iter().map(|id| of.json(id)).collect() };
                Some(match is_whole {
                    true => json!({
                        "pdus": jsons(&state), "auth_chain": jsons(&chain)
                    }),
                    false => json!({ "pdu_ids": state, "auth_chain_ids": chain }),
                })
            });
        }
    }

    /// All requests so far, but for transactions.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let state = self.lock();
        let asked = state.asked.iter().filter(|asked| asked.endpoint != "send");
        asked.cloned().collect()
    }

    /// How often it was asked at an endpoint, whoever was.
    pub(crate) fn times(&self, endpoint: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.endpoint == endpoint)
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl SimulatedNetwork for Peers {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let call = Call {
            peers: self.clone(),
            server: address.to_string(),
            request: Vec::new(),
            asked: None,
            answer: None,
        };
        async move { Ok(Box::new(call) as Box<dyn Stream>) }.boxed()
    }
}

impl Story {
    /// The event of which a request's path has the ID.
    fn named(&self, asked: &Asked) -> Option<OwnedEventId> {
        let named = |id: &&OwnedEventId| asked.path.contains(&id.as_str()[1..]);
        self.ids().find(named).cloned()
    }
}

/// A connection, which serves one request.
struct Call {
    peers: Peers,
    server: String,
    request: Vec<u8>,
    /// The request, when it is whole.
    asked: Option<Asked>,
    /// What is still to be read of the answer.
    answer: Option<io::Cursor<Vec<u8>>>,
}

impl Call {
    fn take_request(&mut self) {
        if self.asked.is_some() {
            return;
        }
        let text = String::from_utf8_lossy(&self.request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            return;
        };
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()).unwrap_or("0");
        if body.len() < length.parse().unwrap() {
            return;
        }
        let path = text.split(' ').nth(1).unwrap().to_owned();
        let endpoint = path.split(['/', '?']).nth(4).unwrap_or_default();
        let asked = Asked {
            server: self.server.clone(),
            endpoint: endpoint.to_owned(),
            path,
            body: serde_json::from_str(body).unwrap_or_default(),
        };
        let mut state = self.peers.lock();
        state.asked.push(asked.clone());
        state.waiting.drain(..).for_each(Waker::wake);
        drop(state);
        self.asked = Some(asked);
    }

    fn poll_answer(&mut self, context: &Context<'_>) -> Poll<&mut io::Cursor<Vec<u8>>> {
        if self.answer.is_none() {
            let mut state = self.peers.lock();
            let conduct = self.asked.as_ref().and_then(|asked| {
                let told = |((server, endpoint), _): &(&(String, &str), &Option<Answer>)| {
                    *server == asked.server && *endpoint == asked.endpoint
                };
                match state.conducts.iter().find(told) {
                    Some((_, conduct)) => conduct.as_ref().map(|answer| answer(asked)),
                    None if asked.endpoint == "send" => Some(Some(json!({ "pdus": {} }))),
                    None => Some(None),
                }
            });
            let Some(answer) = conduct else {
                state.waiting.push(context.waker().clone());
                return Poll::Pending;
            };
            self.answer = Some(io::Cursor::new(written(answer)));
        }
        Poll::Ready(self.answer.as_mut().unwrap())
    }
}

fn written(answer: Option<Value>) -> Vec<u8> {
    let (status, body) = match answer {
        Some(answer) => ("200 OK", answer.to_string()),
        None => (
            "404 Not Found",
            json!({ "errcode": "M_NOT_FOUND" }).to_string(),
        ),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

impl AsyncRead for Call {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.poll_answer(context) {
            Poll::Ready(answer) => Pin::new(answer).poll_read(context, buffer),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Call {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.request.extend(bytes);
        self.take_request();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
