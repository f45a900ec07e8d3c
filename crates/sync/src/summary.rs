//! Who is in a room, in short (client-server API, "RoomSummary").

use std::sync::Arc;

use myelin_core::{
    key_table::MEMBER,
    number::{EventNr, KeyNr},
    state::State,
};
use myelin_rooms::Room;
use serde::Serialize;

/// A room's summary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Whom to name the room after, if it has neither a name nor an alias.
    #[serde(rename = "m.heroes", skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<String>>,
    /// How many users are in it.
    #[serde(
        rename = "m.joined_member_count",
        skip_serializing_if = "Option::is_none"
    )]
    pub joined: Option<u64>,
    /// How many users are invited.
    #[serde(
        rename = "m.invited_member_count",
        skip_serializing_if = "Option::is_none"
    )]
    pub invited: Option<u64>,
}

/// A summary, and the membership events of those that it names.
#[derive(Debug, Default)]
pub(crate) struct Summarized {
    pub(crate) summary: Summary,
    pub(crate) heroes: Vec<(KeyNr, EventNr)>,
}

/// The summary of a state for one of its users; `None` if it is the same as that of `old`.
pub(crate) fn summarize(
    room: &Arc<Room>,
    user: &str,
    old: Option<&State>,
    new: &State,
) -> Option<Summarized> {
    let keys = room.keys();
    let name_of = |state: &State| {
        ["m.room.name", "m.room.canonical_alias"].map(|of| state.get_named(&keys, of, ""))
    };
    let own = keys.number(MEMBER, user);
    let chosen = new.heroes(own);
    if let Some(old) = old
        && old.counts() == new.counts()
        && name_of(old) == name_of(new)
        && old.heroes(own) == chosen
    {
        return None;
    }
    let counts = new.counts();
    let nameless = name_of(new).iter().all(Option::is_none);
    let names = chosen
        .iter()
        .filter_map(|(key, _)| Some(keys.name(*key)?.state_key.clone()));
    let summary = Summary {
        heroes: nameless.then(|| names.collect()),
        joined: Some(counts.joined),
        invited: Some(counts.invited),
    };
    Some(Summarized {
        summary,
        heroes: if nameless { chosen } else { Vec::new() },
    })
}
