//! User-interactive authentication: what somebody has shown of themselves, stage by stage.
//! Client-server API, "User-interactive authentication API".

use myelin_env::Env;
use serde::Deserialize;

use crate::expiring::Expiring;

/// A session that nobody went on with is forgotten after this time.
const LIFETIME_MS: u64 = 60 * 60 * 1000;

/// When there are more sessions than this, the oldest is forgotten.
const MAX_SESSIONS: usize = 10_000;

/// Something that is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing: the server wants no proof.
    Dummy,
    /// A token that the operator has given out.
    RegistrationToken,
}

impl Stage {
    /// The specification's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dummy => "m.login.dummy",
            Self::RegistrationToken => "m.login.registration_token",
        }
    }
}

/// What a client sends as `auth`.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct AuthData {
    /// The stage; none to ask only whether all is done.
    #[serde(rename = "type")]
    pub stage: Option<String>,
    /// The session that the server gave.
    pub session: Option<String>,
    /// For `m.login.registration_token`.
    pub token: Option<String>,
}

/// What the server answers while something is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Has to be sent with the next attempt.
    pub session: String,
    /// The ways to go; each a list of stages.
    pub flows: Vec<Vec<Stage>>,
    /// What is done.
    pub completed: Vec<Stage>,
    /// Why the last attempt did not count.
    pub refused: Option<String>,
}

/// The sessions that are under way. They are few and short, and a restart may forget them.
#[derive(Debug)]
pub(crate) struct Sessions(Expiring<Session>);

/// One session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) completed: Vec<Stage>,
    /// The registration token that was shown. It is used up with the account, not before.
    pub(crate) registration_token: Option<String>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self(Expiring::new(LIFETIME_MS, MAX_SESSIONS))
    }
}

impl Sessions {
    /// The session with this ID, or a new one.
    pub(crate) fn resume(&mut self, id: Option<&str>, env: &Env) -> (String, Session) {
        let now_ms = env.clock.now_ms();
        if let Some(id) = id
            && let Some(session) = self.0.get(id, now_ms)
        {
            return (id.to_owned(), session.clone());
        }
        let id = env.random.alphanumeric(24);
        self.0.put(id.clone(), Session::default(), now_ms);
        (id, Session::default())
    }

    /// Keeps what a session has come to.
    pub(crate) fn keep(&mut self, id: &str, session: &Session, env: &Env) {
        if let Some(kept) = self.0.get(id, env.clock.now_ms()) {
            kept.clone_from(session);
        }
    }

    /// Ends a session.
    pub(crate) fn end(&mut self, id: &str, env: &Env) {
        self.0.take(id, env.clock.now_ms());
    }
}

impl Session {
    /// Notes that a stage was passed.
    pub(crate) fn complete(&mut self, stage: Stage) {
        if !self.completed.contains(&stage) {
            self.completed.push(stage);
        }
    }

    /// Whether all stages of one of the flows are done.
    pub(crate) fn satisfies(&self, flows: &[Vec<Stage>]) -> bool {
        flows
            .iter()
            .any(|flow| flow.iter().all(|stage| self.completed.contains(stage)))
    }
}
