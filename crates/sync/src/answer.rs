//! What `/sync` answers (client-server API, "Syncing").

use std::collections::BTreeMap;

use ruma::OwnedRoomId;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{client_event::EventJson, summary::Summary, unread::UnreadCounts};

/// A list of events.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Events {
    /// The events.
    pub events: Vec<EventJson>,
}

impl From<Vec<EventJson>> for Events {
    fn from(events: Vec<EventJson>) -> Self {
        Self { events }
    }
}

/// The whole answer. What isn't about rooms is for the caller to fill in.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SyncResponse {
    /// Where the next sync begins.
    pub next_batch: String,
    /// The rooms with news.
    pub rooms: RoomSections,
    /// The user's own settings.
    pub account_data: Events,
    /// Who is there.
    pub presence: Events,
    /// Messages from other devices.
    pub to_device: Events,
    /// Whose devices changed.
    pub device_lists: DeviceLists,
    /// How many one-time keys of the device are left, by algorithm.
    pub device_one_time_keys_count: BTreeMap<String, u64>,
    /// For which algorithms the device has a fallback key that nobody was given yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_unused_fallback_key_types: Option<Vec<String>>,
}

/// Whose devices changed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceLists {
    /// Users whose keys are to be fetched again.
    pub changed: Vec<String>,
    /// Users with whom no encrypted room is shared any more.
    pub left: Vec<String>,
}

/// Rooms by what the user is to them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RoomSections {
    /// Where the user is.
    pub join: BTreeMap<OwnedRoomId, JoinedRoom>,
    /// Where the user is invited.
    pub invite: BTreeMap<OwnedRoomId, InvitedRoom>,
    /// Where the user asks to be let in.
    pub knock: BTreeMap<OwnedRoomId, KnockedRoom>,
    /// Where the user was.
    pub leave: BTreeMap<OwnedRoomId, LeftRoom>,
}

impl RoomSections {
    /// Whether there is no news of any room.
    pub fn is_empty(&self) -> bool {
        self.join.is_empty()
            && self.invite.is_empty()
            && self.knock.is_empty()
            && self.leave.is_empty()
    }
}

/// The newest events of a room.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TimelineSection {
    /// The events, oldest first.
    pub events: Vec<EventJson>,
    /// Whether there are more since the last sync.
    pub limited: bool,
    /// Where a page of older events begins.
    pub prev_batch: String,
}

/// The state events that a client needs besides the timeline: by what it asked for, those before the
/// timeline or those after it.
#[derive(Clone, Debug, Serialize)]
pub enum StateSection {
    /// To be applied before the timeline.
    #[serde(rename = "state")]
    Before(Events),
    /// To be applied after the timeline, whose own state events don't count then.
    #[serde(rename = "state_after")]
    After(Events),
}

impl StateSection {
    /// The events.
    pub fn events(&self) -> &[EventJson] {
        match self {
            Self::Before(events) | Self::After(events) => &events.events,
        }
    }
}

/// A room where the user is.
#[derive(Clone, Debug, Serialize)]
pub struct JoinedRoom {
    /// Who is in it; absent if nothing about that changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Its state.
    #[serde(flatten)]
    pub state: StateSection,
    /// Its newest events.
    pub timeline: TimelineSection,
    /// Who types, who has read.
    pub ephemeral: Events,
    /// The user's settings for it.
    pub account_data: Events,
    /// What the user has not read.
    pub unread_notifications: UnreadCounts,
    /// What it has not read in threads, by their roots; if the client wants these apart.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread_thread_notifications: BTreeMap<String, UnreadCounts>,
    /// Whether the client knew nothing of it.
    #[serde(skip)]
    pub(crate) is_new: bool,
}

/// A room where the user was.
#[derive(Clone, Debug, Serialize)]
pub struct LeftRoom {
    /// Its state.
    #[serde(flatten)]
    pub state: StateSection,
    /// Its newest events until the user left.
    pub timeline: TimelineSection,
    /// The user's settings for it.
    pub account_data: Events,
}

/// A room where the user is invited.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InvitedRoom {
    /// What may be known of it.
    pub invite_state: Events,
}

/// A room where the user asks to be let in.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KnockedRoom {
    /// What may be known of it.
    pub knock_state: Events,
}

/// A state event without what only members may know.
#[derive(Serialize)]
pub(crate) struct StrippedEvent<'a> {
    pub(crate) content: &'a RawValue,
    pub(crate) sender: &'a str,
    pub(crate) state_key: &'a str,
    #[serde(rename = "type")]
    pub(crate) event_type: &'a str,
}
