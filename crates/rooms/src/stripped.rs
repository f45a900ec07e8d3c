//! What somebody who is invited, or who knocks, may know of a room (client-server API, "Stripped
//! state").

use myelin_core::{key_table::MEMBER, number::EventNr, state::State};
use ruma::UserId;

use crate::room::Room;

/// The types that tell what a room is, of those with an empty state key.
const TELLING: [&str; 7] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.encryption",
    "m.room.name",
    "m.room.topic",
];

impl Room {
    /// The events of a state that tell what the room is, and who `sender` is in it.
    pub fn telling_events(&self, state: &State, sender: &UserId) -> Vec<EventNr> {
        let keys = self.keys();
        let telling = TELLING
            .iter()
            .filter_map(|of| state.get_named(&keys, of, ""));
        let sender = state.get_named(&keys, MEMBER, sender.as_str());
        telling.chain(sender).map(|entry| entry.event()).collect()
    }
}
