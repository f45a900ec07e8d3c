//! User-interactive authentication: what somebody has shown of themselves, stage by stage.
//! Client-server API, "User-interactive authentication API".

use std::collections::BTreeMap;

use myelin_env::{Clock, Random};
use serde::Deserialize;

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
#[derive(Debug, Default)]
pub(crate) struct Sessions(BTreeMap<String, Session>);

/// One session.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    begun_ms: u64,
    pub(crate) completed: Vec<Stage>,
    /// The registration token that was shown. It is used up with the account, not before.
    pub(crate) registration_token: Option<String>,
}

impl Sessions {
    /// The session with this ID, or a new one.
    pub(crate) fn resume(
        &mut self,
        id: Option<&str>,
        clock: &Clock,
        random: &Random,
    ) -> (String, Session) {
        let now_ms = clock.now_ms();
        self.0
            .retain(|_, session| now_ms.saturating_sub(session.begun_ms) < LIFETIME_MS);
        if let Some((id, session)) = id.and_then(|id| self.0.get_key_value(id)) {
            return (id.clone(), session.clone());
        }
        while self.0.len() >= MAX_SESSIONS {
            let oldest = self.0.iter().min_by_key(|(_, session)| session.begun_ms);
            let Some(id) = oldest.map(|(id, _)| id.clone()) else {
                break;
            };
            self.0.remove(&id);
        }
        let id = random.alphanumeric(24);
        let session = Session {
            begun_ms: now_ms,
            ..Session::default()
        };
        self.0.insert(id.clone(), session.clone());
        (id, session)
    }

    /// Keeps what a session has come to.
    pub(crate) fn keep(&mut self, id: &str, session: Session) {
        self.0.insert(id.to_owned(), session);
    }

    /// Ends a session.
    pub(crate) fn end(&mut self, id: &str) {
        self.0.remove(id);
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

#[cfg(test)]
mod tests {
    use super::{LIFETIME_MS, MAX_SESSIONS, Sessions, Stage};
    use myelin_env::Env;
    use std::time::Duration;

    #[test]
    fn a_session_is_forgotten_after_an_hour() {
        let env = Env::manual(0, 1);
        let mut sessions = Sessions::default();
        let (id, mut session) = sessions.resume(None, &env.clock, &env.random);
        session.complete(Stage::Dummy);
        sessions.keep(&id, session);
        env.clock.advance(Duration::from_millis(LIFETIME_MS - 1));
        let (same, session) = sessions.resume(Some(&id), &env.clock, &env.random);
        assert_eq!(
            (same.as_str(), session.completed),
            (id.as_str(), vec![Stage::Dummy])
        );
        env.clock.advance(Duration::from_millis(1));
        let (other, session) = sessions.resume(Some(&id), &env.clock, &env.random);
        assert!(other != id && session.completed.is_empty());
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let env = Env::manual(0, 1);
        let mut sessions = Sessions::default();
        let (first, _) = sessions.resume(None, &env.clock, &env.random);
        env.clock.advance(Duration::from_millis(1));
        for _ in 0..MAX_SESSIONS {
            sessions.resume(None, &env.clock, &env.random);
        }
        assert_eq!(sessions.0.len(), MAX_SESSIONS);
        assert!(!sessions.0.contains_key(&first), "the oldest goes first");
    }
}
