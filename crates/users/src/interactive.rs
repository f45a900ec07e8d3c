//! User-interactive authentication: what somebody has shown of themselves, stage by stage.
//! Client-server API, "User-interactive authentication API".

use myelin_env::Env;
use ruma::OwnedUserId;
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
    /// The user's password.
    Password,
}

impl Stage {
    /// The specification's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dummy => "m.login.dummy",
            Self::RegistrationToken => "m.login.registration_token",
            Self::Password => "m.login.password",
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
    /// For `m.login.password`: whose password it is.
    pub identifier: Option<UserIdentifier>,
    /// The same in the form from before identifiers.
    pub user: Option<String>,
    /// For `m.login.password`.
    pub password: Option<String>,
}

/// Which user is meant (client-server API, "Identifier types").
#[derive(Clone, Debug, Deserialize)]
pub struct UserIdentifier {
    /// The kind of identifier; only `m.id.user` is known here.
    #[serde(rename = "type")]
    pub kind: String,
    /// A local part or a whole user ID.
    pub user: Option<String>,
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

/// What somebody wants to do who has to show something for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Make an account.
    Registration,
    /// Change something about an account, as its user.
    Account {
        user: OwnedUserId,
        /// What, and to which things of the account. What was shown for one is not shown for another.
        operation: &'static str,
        things: Vec<String>,
    },
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) purpose: Purpose,
    pub(crate) completed: Vec<Stage>,
    /// The registration token that was shown. It is used up with the account, not before.
    pub(crate) registration_token: Option<String>,
}

/// A session in which all was shown.
pub(crate) struct Passed {
    pub(crate) session: String,
    pub(crate) registration_token: Option<String>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self(Expiring::new(LIFETIME_MS, MAX_SESSIONS))
    }
}

impl Sessions {
    /// The session with this ID, if it is for this purpose, or a new one.
    pub(crate) fn resume(
        &mut self,
        id: Option<&str>,
        purpose: Purpose,
        env: &Env,
    ) -> (String, Session) {
        let now_ms = env.clock.now_ms();
        if let Some(id) = id
            && let Some(session) = self.0.get(id, now_ms)
            && session.purpose == purpose
        {
            return (id.to_owned(), session.clone());
        }
        let id = env.random.alphanumeric(24);
        let session = Session {
            purpose,
            completed: Vec::new(),
            registration_token: None,
        };
        self.0.put(id.clone(), session.clone(), now_ms);
        (id, session)
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
