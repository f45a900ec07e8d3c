//! A server that lies when others ask it: it withholds, adds, invents and breaks what it answers.
//!
//! Each lie is one that whoever asks can see through, or that what others say puts right: so everything that is
//! checked in the end holds for a simulation with lies as for any other. What nobody could see through, such as
//! a state from which something is left out without a trace, is not told.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http_body_util::BodyExt as _;
use myelin_env::{Clock, Random};
use serde_json::{Value, json};

use crate::{liar, run::name, trace::Trace, view::Server};

/// How many events are remembered, to be answered where they don't belong.
const REMEMBERED: usize = 50;

/// How long an answer that comes late takes at most.
const LONGEST_STALL: Duration = Duration::from_secs(20);

/// What a server answers otherwise than it should. Clones are the same liar.
#[derive(Clone)]
pub struct Lies(Arc<Inner>);

struct Inner {
    are_told: AtomicBool,
    /// Whether the next question for a state is answered late, whatever else is told.
    is_stalling: AtomicBool,
    random: Random,
    trace: Trace,
    clock: Clock,
    /// Events that were answered, of any room.
    remembered: Mutex<VecDeque<Value>>,
    server: Mutex<Option<Server>>,
}

/// What a liar was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    StateIds,
    State,
    Missing,
    AuthChain,
    Event,
    MakeJoin,
    SendJoin,
}

/// What it does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// It says that it can't.
    Refuse,
    /// It ends in the middle.
    BreakOff,
    /// It knows nothing.
    Empty,
    /// It adds events of another room.
    Foreign,
    /// It spoils the signatures.
    Spoil,
    /// It adds what does not exist.
    Invent,
    /// It says that users are banned who are not, and is slow to tell who is in the room.
    Ban,
    /// It tells the truth, late.
    Stall,
}

impl Question {
    fn of(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/_matrix/federation/")?;
        match rest.split('/').nth(1)? {
            "state_ids" => Some(Self::StateIds),
            "state" => Some(Self::State),
            "get_missing_events" | "backfill" => Some(Self::Missing),
            "event_auth" => Some(Self::AuthChain),
            "event" => Some(Self::Event),
            "make_join" => Some(Self::MakeJoin),
            "send_join" => Some(Self::SendJoin),
            _ => None,
        }
    }

    /// The lies that can be told about it.
    fn lies(self) -> &'static [Lie] {
        use Lie::{Ban, BreakOff, Empty, Foreign, Invent, Refuse, Spoil, Stall};
        match self {
            Self::StateIds => &[Refuse, BreakOff, Empty, Invent, Stall],
            Self::State => &[Refuse, BreakOff, Empty, Foreign],
            Self::Missing | Self::AuthChain => &[Refuse, BreakOff, Empty, Foreign, Spoil],
            Self::Event => &[Refuse, BreakOff, Empty],
            Self::MakeJoin => &[Refuse, BreakOff],
            Self::SendJoin => &[Refuse, Empty, Foreign, Ban, Ban, Ban],
        }
    }

    /// Where its answer has events, or their IDs.
    fn list(self) -> Option<&'static str> {
        match self {
            Self::StateIds => Some("pdu_ids"),
            Self::State | Self::Event => Some("pdus"),
            Self::Missing => Some("events"),
            Self::AuthChain => Some("auth_chain"),
            Self::SendJoin => Some("state"),
            Self::MakeJoin => None,
        }
    }
}

impl Lies {
    /// A server that tells the truth for now.
    #[must_use]
    pub fn new(random: Random, clock: Clock, trace: Trace) -> Self {
        Self(Arc::new(Inner {
            are_told: AtomicBool::new(false),
            is_stalling: AtomicBool::new(false),
            random,
            trace,
            clock,
            remembered: Mutex::default(),
            server: Mutex::default(),
        }))
    }

    /// Begins to lie, or ends it.
    pub fn tell(&self, told: bool) {
        self.0.are_told.store(told, Ordering::Relaxed);
    }

    /// Who it is that lies.
    pub fn set_server(&self, server: Option<Server>) {
        *self.server() = server;
    }

    async fn alter(&self, question: Question, asker: &str, response: Response) -> Response {
        let lies = question.lies();
        let lie = lies[self.0.random.below(lies.len() as u64) as usize];
        let Ok(body) = response.into_body().collect().await else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let body = body.to_bytes();
        let Ok(mut answer) = serde_json::from_slice::<Value>(&body) else {
            return json_answer(body);
        };
        self.0.trace.count(&format!("lie: {question:?} {lie:?}"));
        match lie {
            Lie::Refuse => {
                let why = json!({ "errcode": "M_UNKNOWN", "error": "not now" }).to_string();
                let mut refusal = json_answer(why);
                *refusal.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return refusal;
            }
            Lie::BreakOff => return json_answer(body.slice(..body.len() / 2)),
            Lie::Stall => self.stall().await,
            Lie::Ban => self.ban(asker, &mut answer).await,
            Lie::Empty | Lie::Foreign | Lie::Spoil | Lie::Invent => {
                if let Some(list) = question.list()
                    && let Some(list) = answer[list].as_array_mut()
                {
                    let honest = list.clone();
                    self.alter_list(lie, list);
                    if question != Question::StateIds {
                        self.remember(&honest);
                    }
                }
            }
        }
        json_answer(answer.to_string())
    }

    fn alter_list(&self, lie: Lie, list: &mut Vec<Value>) {
        match lie {
            Lie::Empty => list.clear(),
            Lie::Invent => list.push("$anEventThatNobodyEverMadeAndNobodyWillEver".into()),
            Lie::Spoil => {
                for event in list {
                    event["signatures"] = json!({ name(0): { "ed25519:0": "AAAA" } });
                }
            }
            Lie::Foreign => list.extend(self.remembered().iter().cloned()),
            Lie::Refuse | Lie::BreakOff | Lie::Ban | Lie::Stall => {}
        }
    }

    /// Keeps some events of an answer.
    fn remember(&self, list: &[Value]) {
        let mut remembered = self.remembered();
        remembered.extend(list.iter().take(REMEMBERED / 5).cloned());
        let too_many = remembered.len().saturating_sub(REMEMBERED);
        remembered.drain(..too_many);
    }

    /// To the state before a join it adds bans by one of its own users, which were never sent.
    async fn ban(&self, asker: &str, answer: &mut Value) {
        let server = self.server().clone();
        let room = answer["event"]["room_id"].as_str().map(str::to_owned);
        let (Some(server), Some(room)) = (server, room) else {
            return;
        };
        let now_ms = self.0.clock.now_ms();
        let Some(bans) = liar::bans(&server, &room, asker, now_ms).await else {
            return;
        };
        self.0.is_stalling.store(true, Ordering::Relaxed);
        for (list, added) in [("state", bans.events), ("auth_chain", bans.auth_chain)] {
            if let Some(list) = answer[list].as_array_mut() {
                list.extend(added);
            }
        }
    }

    async fn stall(&self) {
        let for_ms = self.0.random.below(LONGEST_STALL.as_millis() as u64);
        let clock = &self.0.clock;
        clock
            .sleep(LONGEST_STALL / 2 + Duration::from_millis(for_ms / 2))
            .await;
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.0.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<Value>> {
        self.0
            .remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn json_answer(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Answers a request, truly or not.
pub async fn answer(State(lies): State<Lies>, request: Request, next: Next) -> Response {
    let question = Question::of(request.uri().path());
    let asker = request.extensions().get::<myelin_api::Peer>();
    let asker = asker.map(|peer| peer.0.to_string()).unwrap_or_default();
    let response = next.run(request).await;
    if question == Some(Question::StateIds) && lies.0.is_stalling.swap(false, Ordering::Relaxed) {
        lies.stall().await;
        return response;
    }
    match question {
        Some(question)
            if lies.0.are_told.load(Ordering::Relaxed) && response.status() == StatusCode::OK =>
        {
            lies.alter(question, &asker, response).await
        }
        _ => response,
    }
}
