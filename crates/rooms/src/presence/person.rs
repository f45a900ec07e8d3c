//! One user: what its devices, or its server, say of it, and until when that holds.

use std::{collections::BTreeMap, time::Duration};

use myelin_core::number::StreamPosition;
use myelin_env::Moment;

use super::state::{PresenceState, Seen};

/// A device without activity for this long is idle.
const IDLE: Duration = Duration::from_secs(300);

/// A device that hasn't synced for this long is gone.
const GONE: Duration = Duration::from_secs(30);

/// For how long after its last activity a user is currently active.
pub(super) const ACTIVE: Duration = Duration::from_secs(60);

/// Other servers are told again after this time, since they forget.
pub(super) const TOLD_AGAIN: Duration = Duration::from_secs(25 * 60);

/// A user of another server is offline if that says nothing for this long.
const HEARD_AGAIN: Duration = Duration::from_secs(30 * 60);

/// A user of another server who is offline is forgotten then.
const REMEMBERED: Duration = Duration::from_secs(2 * 3600);

/// What is known of a user.
pub(super) struct Person {
    pub(super) source: Source,
    pub(super) status_msg: Option<String>,
    pub(super) seen: Option<Seen>,
    pub(super) shown: Shown,
    /// The position of the last change.
    pub(super) position: Option<StreamPosition>,
    /// When the next change comes by itself.
    pub(super) due: Option<Moment>,
}

/// What others get to see.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) state: PresenceState,
    pub(super) status_msg: Option<String>,
    pub(super) currently_active: bool,
}

/// Who says how a user is.
pub(super) enum Source {
    /// The user's devices.
    Here {
        devices: BTreeMap<String, Device>,
        /// When other servers were last told.
        told: Option<Moment>,
    },
    /// Its server.
    Elsewhere {
        state: PresenceState,
        currently_active: bool,
        heard: Moment,
    },
}

/// A device of a user of this server.
pub(super) struct Device {
    /// What it said last.
    pub(super) said: PresenceState,
    pub(super) active: Moment,
    /// When it last said or did something.
    pub(super) here: Moment,
    /// How many syncs of it wait.
    pub(super) syncs: usize,
}

impl Device {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            said: PresenceState::Offline,
            active: now,
            here: now,
            syncs: 0,
        }
    }

    fn is_gone(&self, now: Moment) -> bool {
        self.syncs == 0 && now.since(self.here) >= GONE
    }

    fn state(&self, now: Moment) -> PresenceState {
        match self.said {
            PresenceState::Online if now.since(self.active) >= IDLE => PresenceState::Unavailable,
            said => said,
        }
    }

    fn due(&self, now: Moment) -> impl Iterator<Item = Moment> + use<> {
        let gone = (self.syncs == 0).then(|| self.here + GONE);
        let idle = self.state(now) == PresenceState::Online;
        gone.into_iter().chain(idle.then(|| self.active + IDLE))
    }
}

impl Person {
    pub(super) fn offline(source: Source, status_msg: Option<String>) -> Self {
        Self {
            source,
            status_msg: status_msg.clone(),
            seen: None,
            shown: Shown {
                state: PresenceState::Offline,
                status_msg,
                currently_active: false,
            },
            position: None,
            due: None,
        }
    }

    pub(super) fn here(status_msg: Option<String>) -> Self {
        let source = Source::Here {
            devices: BTreeMap::new(),
            told: None,
        };
        Self::offline(source, status_msg)
    }

    /// What the user is by now.
    pub(super) fn present(&mut self, now: Moment) -> Shown {
        let (state, currently_active) = match &mut self.source {
            Source::Here { devices, .. } => {
                devices.retain(|_, device| !device.is_gone(now));
                let states = devices.values().map(|device| device.state(now));
                let state = states.max().unwrap_or(PresenceState::Offline);
                let is_active = self.seen.is_some_and(|seen| seen.ago(now) < ACTIVE);
                (state, is_active)
            }
            Source::Elsewhere { heard, .. } if now.since(*heard) >= HEARD_AGAIN => {
                (PresenceState::Offline, false)
            }
            Source::Elsewhere {
                state,
                currently_active,
                ..
            } => (*state, *currently_active),
        };
        Shown {
            state,
            status_msg: self.status_msg.clone(),
            currently_active: currently_active && state == PresenceState::Online,
        }
    }

    /// When the next change comes by itself.
    pub(super) fn next_due(&self, now: Moment) -> Option<Moment> {
        let is_there = self.shown.state != PresenceState::Offline;
        match &self.source {
            Source::Here { devices, told } => {
                let of_devices = devices.values().flat_map(|device| device.due(now));
                let inactive = self.seen.filter(|_| self.shown.currently_active);
                let inactive = inactive.map(|seen| seen.at + ACTIVE);
                let told = told.filter(|_| is_there).map(|told| told + TOLD_AGAIN);
                of_devices.chain(inactive).chain(told).min()
            }
            Source::Elsewhere { heard, .. } if is_there => Some(*heard + HEARD_AGAIN),
            Source::Elsewhere { heard, .. } => Some(*heard + REMEMBERED),
        }
    }

    /// How much its server says about it.
    pub(super) fn heard_bytes(&self) -> usize {
        match &self.source {
            Source::Here { .. } => 0,
            Source::Elsewhere { .. } => self.status_msg.as_ref().map_or(0, String::len),
        }
    }

    pub(super) fn is_forgotten(&self, now: Moment) -> bool {
        match &self.source {
            Source::Here { .. } => false,
            Source::Elsewhere { heard, .. } => now.since(*heard) >= REMEMBERED,
        }
    }
}
