//! History visibility: which events a user, or another server, may see (client-server API, "Room
//! history visibility"; server-server API, "Backfilling").

use std::borrow::Cow;

use ruma::{ServerName, UserId, events::TimelineEventType};
use serde::Deserialize;

use crate::{event::Event, pdu::Pdu, state::Membership};

/// What `m.room.history_visibility` says, from the most closed to the most open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HistoryVisibility {
    /// Events since the user joined.
    Joined,
    /// Events since the user was invited.
    Invited,
    /// All events, for those who are or were in the room at the time or later.
    Shared,
    /// All events, for everybody.
    WorldReadable,
}

impl HistoryVisibility {
    /// Reads the room's `m.room.history_visibility` event. Without one, or with a value that the
    /// specification doesn't know, history is shared.
    pub fn read(event: Option<&Pdu>) -> Self {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            history_visibility: Cow<'a, str>,
        }
        let content = event.map(|pdu| serde_json::from_str::<Content<'_>>(pdu.content.get()));
        match content
            .as_ref()
            .map(|parsed| parsed.as_ref().map(|c| &*c.history_visibility))
        {
            Some(Ok("joined")) => Self::Joined,
            Some(Ok("invited")) => Self::Invited,
            Some(Ok("world_readable")) => Self::WorldReadable,
            _ => Self::Shared,
        }
    }
}

/// The type of events that say nothing, and are there to name several others as their parents. The
/// reference server sends them too; no client is shown one.
pub const TYING: &str = "org.matrix.dummy_event";

fn is_tying(pdu: &Pdu) -> bool {
    pdu.event_type.to_string() == TYING
}

/// What decides whether a user may see an event.
#[derive(Clone, Copy, Debug)]
pub struct UserFacts {
    /// The history visibility in the state before the event.
    pub visibility: HistoryVisibility,
    /// The user's membership in the state before the event.
    pub membership: Option<Membership>,
    /// Whether the user was joined at any time after the event; true if joined now.
    pub joined_later: bool,
}

/// Whether a user may see an event.
///
/// An event that changes the history visibility, or the user's own membership, is seen if it may be
/// seen by what held before it or by what holds after it.
pub fn user_may_see(user: &UserId, event: &Event, facts: &UserFacts) -> bool {
    let pdu = &*event.pdu;
    if is_tying(pdu) {
        return false;
    }
    let visibility = match new_visibility(event) {
        Some(new) => facts.visibility.max(new),
        None => facts.visibility,
    };
    let new_membership = pdu
        .membership
        .filter(|_| pdu.state_key.as_deref() == Some(user.as_str()));
    let was = |membership| [facts.membership, new_membership].contains(&Some(membership));
    match visibility {
        HistoryVisibility::WorldReadable => true,
        _ if was(Membership::Join) => true,
        HistoryVisibility::Shared => facts.joined_later,
        HistoryVisibility::Invited => was(Membership::Invite),
        HistoryVisibility::Joined => false,
    }
}

/// What decides whether another server may see the content of an event.
#[derive(Clone, Copy, Debug)]
pub struct ServerFacts {
    /// The history visibility in the state before the event.
    pub visibility: HistoryVisibility,
    /// Whether a user of that server is joined in the state before the event.
    pub has_joined: bool,
    /// Whether a user of that server is invited in the state before the event.
    pub has_invited: bool,
}

/// Whether another server that is in the room may see an event in full. If not, it is served in
/// redacted form ([`crate::pdu::redact`]), so that the graph still holds (R60).
///
/// An event of that server's own users may always be seen.
pub fn server_may_see(server: &ServerName, event: &Event, facts: &ServerFacts) -> bool {
    let pdu = &*event.pdu;
    if pdu.sender.server_name() == server {
        return true;
    }
    let visibility = match new_visibility(event) {
        Some(new) => facts.visibility.max(new),
        None => facts.visibility,
    };
    let target = pdu.state_key.as_deref().and_then(|key| key.split_once(':'));
    let new_membership = pdu
        .membership
        .filter(|_| target.is_some_and(|(_, of)| server == of));
    let joined = facts.has_joined || new_membership == Some(Membership::Join);
    let invited = facts.has_invited || new_membership == Some(Membership::Invite);
    match visibility {
        HistoryVisibility::WorldReadable | HistoryVisibility::Shared => true,
        HistoryVisibility::Invited => joined || invited,
        HistoryVisibility::Joined => joined,
    }
}

/// The same while the state before the event lacks memberships, so that nobody can tell who may see
/// it: only our own events are served in full. Those must be, or nobody could fill a gap before an
/// event of ours (R108).
pub fn server_may_see_while_partial(own_server: &ServerName, event: &Event) -> bool {
    event.pdu.sender.server_name() == own_server
}

/// What an event makes of the history visibility, if it is about that.
fn new_visibility(event: &Event) -> Option<HistoryVisibility> {
    let pdu = &*event.pdu;
    let changes = pdu.event_type == TimelineEventType::RoomHistoryVisibility
        && pdu.state_key.as_deref() == Some("")
        && event.is_effective_state();
    changes.then(|| HistoryVisibility::read(Some(pdu)))
}
