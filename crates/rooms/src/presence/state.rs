//! How a user is, as clients and servers say it.

use std::time::Duration;

use myelin_env::Moment;
use serde::{Deserialize, Serialize};

/// Whether a user is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PresenceState {
    /// Not there.
    Offline,
    /// There, but idle.
    Unavailable,
    /// There.
    Online,
}

/// What is shown of a user (client-server API, "Presence").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserPresence {
    /// Whether it is there.
    pub presence: PresenceState,
    /// When it last did something, in milliseconds before now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_active_ago: Option<u64>,
    /// What it says about itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_msg: Option<String>,
    /// Whether it did so in the last minute, about. For those who are online only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currently_active: Option<bool>,
}

impl UserPresence {
    /// Of somebody of whom nothing is known.
    pub const UNKNOWN: Self = Self {
        presence: PresenceState::Offline,
        last_active_ago: None,
        status_msg: None,
        currently_active: None,
    };
}

/// When a user last did something: so long before a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) at: Moment,
    before: Duration,
}

impl Seen {
    pub(super) fn now(now: Moment) -> Self {
        Self {
            at: now,
            before: Duration::ZERO,
        }
    }

    /// So many milliseconds ago.
    pub(super) fn before(ago_ms: u64, now: Moment) -> Self {
        Self {
            at: now,
            before: Duration::from_millis(ago_ms),
        }
    }

    pub(super) fn ago(self, now: Moment) -> Duration {
        now.since(self.at).saturating_add(self.before)
    }

    pub(super) fn ago_ms(self, now: Moment) -> u64 {
        u64::try_from(self.ago(now).as_millis()).unwrap_or(u64::MAX)
    }
}
