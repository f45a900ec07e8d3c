//! The public room directory of this server (client-server API, "Published room directory"), and what
//! a room shows of itself to those who look for one.

use std::{cmp::Reverse, sync::Arc};

use myelin_core::{
    completeness::Question, event::Event, join_rules::allowed_rooms, pdu::Pdu, state::State,
};
use myelin_rooms::Room;
use ruma::{OwnedMxcUri, OwnedRoomAliasId, OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};

use crate::{Sync, SyncError, client_event::shown};

/// The most rooms of one answer.
const MOST_ROOMS: usize = 500;

/// What the current state says about a room, each with an empty state key.
const TELLING: [&str; 9] = [
    "m.room.create",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
    "m.room.canonical_alias",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.encryption",
];

/// What is asked of a directory: the body of `POST /publicRooms`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PublicRoomsRequest {
    /// The most rooms to answer with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Where to go on: `next_batch` or `prev_batch` of an earlier answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Which rooms.
    #[serde(default)]
    pub filter: PublicRoomsFilter,
}

/// Which rooms of a directory are wanted.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PublicRoomsFilter {
    /// Part of a name, topic or alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generic_search_term: Option<String>,
    /// Types of rooms; `None` in it for rooms without a type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_types: Option<Vec<Option<String>>>,
}

/// Part of a directory.
#[derive(Clone, Debug, Serialize)]
pub struct PublicRooms {
    /// The rooms, those with the most members first.
    pub chunk: Vec<RoomProfile>,
    /// Where the next part begins; `None` at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// Where the part before this one begins; `None` at the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// How many rooms there are by the same filter.
    pub total_room_count_estimate: usize,
}

/// What a room shows of itself (`PublishedRoomsChunk` in the specification).
#[derive(Clone, Debug, Serialize)]
pub struct RoomProfile {
    /// The room.
    pub room_id: OwnedRoomId,
    /// How many users are in it. While a room is partial, those that are known.
    pub num_joined_members: u64,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<OwnedMxcUri>,
    /// Its main alias.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<OwnedRoomAliasId>,
    /// Its type, `m.space` for spaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// Who may join.
    pub join_rule: String,
    /// Whether everybody may read.
    pub world_readable: bool,
    /// Whether guests may join.
    pub guest_can_join: bool,
    /// The algorithm by which messages are encrypted. Not part of a directory.
    #[serde(skip)]
    pub(crate) encryption: Option<String>,
    /// The rooms whose members may join. Not part of a directory.
    #[serde(skip)]
    pub(crate) allowed_room_ids: Vec<OwnedRoomId>,
}

/// Where a page begins: the room before it, or for the way back after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
}

impl Sync {
    /// A part of this server's public directory. Only rooms that can be joined or knocked at, or read by
    /// everybody, are shown.
    ///
    /// # Errors
    /// [`SyncError::InvalidParam`] for a `since` that was not given out, [`SyncError::Storage`].
    pub async fn public_rooms(
        &self,
        request: &PublicRoomsRequest,
    ) -> Result<PublicRooms, SyncError> {
        let since = request.since.as_deref().map(read_since).transpose()?;
        let mut rooms = Vec::new();
        for room_id in self.rooms().published().await? {
            if let Some(room) = self.rooms().room(&room_id).await?
                && let Some(profile) = self.room_profile(&room).await?
                && profile.is_open()
                && request.filter.matches(&profile)
            {
                rooms.push(profile);
            }
        }
        rooms.sort_by(|one, other| one.rank().cmp(&other.rank()));
        let limit = request.limit.unwrap_or(MOST_ROOMS).clamp(1, MOST_ROOMS);
        Ok(page(rooms, since, limit))
    }

    /// What a room shows of itself to administrators; `None` if nobody is in it.
    ///
    /// # Errors
    /// [`SyncError::Storage`].
    pub async fn profile_of_room(
        &self,
        room_id: &RoomId,
    ) -> Result<Option<RoomProfile>, SyncError> {
        match self.rooms().room(room_id).await? {
            Some(room) => self.room_profile(&room).await,
            None => Ok(None),
        }
    }

    /// What a room shows of itself; `None` if nobody is in it.
    pub(crate) async fn room_profile(
        &self,
        room: &Arc<Room>,
    ) -> Result<Option<RoomProfile>, SyncError> {
        let Some(current) = room.current() else {
            return Ok(None);
        };
        let joined = current.state.counts().joined;
        let is_known = current.reference.answering(Question::OtherThanMembers);
        if joined == 0 || is_known.is_none() {
            return Ok(None);
        }
        let told = self.told(room, &current.state, &[]).await?;
        Ok(Some(told.into_profile(room, joined)))
    }

    /// What a state says about its room, and what it has of some other types with empty state keys.
    pub(crate) async fn told(
        &self,
        room: &Arc<Room>,
        state: &State,
        further: &[&str],
    ) -> Result<Told, SyncError> {
        let telling: Vec<_> = {
            let keys = room.keys();
            let entries = TELLING
                .iter()
                .chain(further)
                .filter_map(|of| state.get_named(&keys, of, ""));
            entries.map(|entry| entry.event()).collect()
        };
        let events = room.events(self.rooms(), telling).await?;
        Told::read(room, events.values())
    }
}

/// The contents of a room's telling state events.
pub(crate) struct Told(Vec<Arc<Pdu>>);

impl Told {
    fn read<'e>(
        room: &Room,
        events: impl Iterator<Item = &'e Arc<Event>>,
    ) -> Result<Self, SyncError> {
        let shown: Result<Vec<_>, _> = events.map(|event| shown(room, event)).collect();
        Ok(Self(shown?))
    }

    pub(crate) fn of(&self, event_type: &str) -> Option<&Arc<Pdu>> {
        self.0.iter().find(|pdu| pdu.is_state(event_type, ""))
    }

    /// A field of one of them, if it is there and has the right form. Whatever is empty says nothing.
    pub(crate) fn field<T: serde::de::DeserializeOwned>(
        &self,
        event_type: &str,
        field: &str,
    ) -> Option<T> {
        let pdu = self.of(event_type)?;
        let mut content: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(pdu.content.get()).ok()?;
        let value = content.remove(field).filter(|value| value != "")?;
        serde_json::from_value(value).ok()
    }

    fn into_profile(self, room: &Room, joined: u64) -> RoomProfile {
        let rules = self.of("m.room.join_rules");
        let allowed = rules.and_then(|rules| allowed_rooms(room.key.version, &rules.content));
        let is = |event_type: &str, field: &str, wanted: &str| {
            self.field::<String>(event_type, field).as_deref() == Some(wanted)
        };
        RoomProfile {
            room_id: room.key.room_id.clone(),
            num_joined_members: joined,
            name: self.field("m.room.name", "name"),
            topic: self.field("m.room.topic", "topic"),
            avatar_url: self.field("m.room.avatar", "url"),
            canonical_alias: self.field("m.room.canonical_alias", "alias"),
            room_type: self.field("m.room.create", "type"),
            join_rule: self
                .field("m.room.join_rules", "join_rule")
                .unwrap_or_else(|| "invite".to_owned()),
            world_readable: is(
                "m.room.history_visibility",
                "history_visibility",
                "world_readable",
            ),
            guest_can_join: is("m.room.guest_access", "guest_access", "can_join"),
            encryption: self.field("m.room.encryption", "algorithm"),
            allowed_room_ids: allowed.unwrap_or_default(),
        }
    }
}

impl RoomProfile {
    fn is_open(&self) -> bool {
        self.world_readable
            || matches!(&self.join_rule[..], "public" | "knock" | "knock_restricted")
    }

    /// Rooms with the most members first; the ID makes the order one.
    fn rank(&self) -> (Reverse<u64>, &RoomId) {
        (Reverse(self.num_joined_members), &self.room_id)
    }
}

impl PublicRoomsFilter {
    fn matches(&self, profile: &RoomProfile) -> bool {
        let is_type = match &self.room_types {
            None => true,
            Some(types) => types.contains(&profile.room_type),
        };
        let Some(term) = self.generic_search_term.as_deref() else {
            return is_type;
        };
        let term = term.to_lowercase();
        let texts = [
            profile.name.as_deref(),
            profile.topic.as_deref(),
            profile.canonical_alias.as_deref().map(AsRef::as_ref),
        ];
        is_type
            && texts
                .into_iter()
                .flatten()
                .any(|text: &str| text.to_lowercase().contains(&term))
    }
}

/// A page of the sorted rooms. A token names the last room seen and how many members it had, so that
/// rooms that come and go in between shift nothing.
fn page(
    rooms: Vec<RoomProfile>,
    since: Option<(Way, u64, OwnedRoomId)>,
    limit: usize,
) -> PublicRooms {
    let total = rooms.len();
    let (from, to) = match since {
        None => (0, limit),
        Some((way, members, room_id)) => {
            let mark = (Reverse(members), &*room_id);
            match way {
                Way::Forward => {
                    let from = rooms.partition_point(|room| room.rank() <= mark);
                    (from, from + limit)
                }
                Way::Back => {
                    let to = rooms.partition_point(|room| room.rank() < mark);
                    (to.saturating_sub(limit), to)
                }
            }
        }
    };
    let to = to.min(total);
    let chunk: Vec<RoomProfile> = rooms.into_iter().take(to).skip(from).collect();
    let token = |way, room: Option<&RoomProfile>| room.map(|room| write_since(way, room));
    PublicRooms {
        next_batch: token(Way::Forward, chunk.last().filter(|_| to < total)),
        prev_batch: token(Way::Back, chunk.first().filter(|_| from > 0)),
        chunk,
        total_room_count_estimate: total,
    }
}

fn write_since(way: Way, room: &RoomProfile) -> String {
    let way = match way {
        Way::Forward => 'n',
        Way::Back => 'p',
    };
    format!("{way}{}_{}", room.num_joined_members, room.room_id)
}

fn read_since(token: &str) -> Result<(Way, u64, OwnedRoomId), SyncError> {
    let read = || {
        let (way, rest) = match token.strip_prefix('n') {
            Some(rest) => (Way::Forward, rest),
            None => (Way::Back, token.strip_prefix('p')?),
        };
        let (members, room_id) = rest.split_once('_')?;
        Some((way, members.parse().ok()?, RoomId::parse(room_id).ok()?))
    };
    read().ok_or_else(|| SyncError::InvalidParam("`since` is not of this directory".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str, members: u64) -> RoomProfile {
        RoomProfile {
            room_id: RoomId::parse(format!("!{name}:x")).unwrap(),
            num_joined_members: members,
            name: Some(name.to_owned()),
            topic: None,
            avatar_url: None,
            canonical_alias: None,
            room_type: None,
            join_rule: "public".to_owned(),
            world_readable: false,
            guest_can_join: false,
            encryption: None,
            allowed_room_ids: Vec::new(),
        }
    }

    fn names(page: &PublicRooms) -> Vec<&str> {
        page.chunk
            .iter()
            .filter_map(|room| room.name.as_deref())
            .collect()
    }

    #[test]
    fn pages_lead_forward_and_back_over_rooms_of_equal_size() {
        let rooms = || {
            vec![
                profile("a", 9),
                profile("b", 5),
                profile("c", 5),
                profile("d", 1),
            ]
        };
        let first = page(rooms(), None, 2);
        assert_eq!(names(&first), ["a", "b"]);
        assert_eq!(
            (first.prev_batch, first.total_room_count_estimate),
            (None, 4)
        );
        let since = read_since(&first.next_batch.unwrap()).unwrap();
        let second = page(rooms(), Some(since.clone()), 2);
        assert_eq!(names(&second), ["c", "d"]);
        assert_eq!(second.next_batch, None);
        let back = read_since(&second.prev_batch.unwrap()).unwrap();
        assert_eq!(names(&page(rooms(), Some(back), 2)), ["a", "b"]);
        // The room that the token names has gone: nothing is shown twice or left out.
        let mut fewer = rooms();
        fewer.remove(1);
        assert_eq!(names(&page(fewer, Some(since), 2)), ["c", "d"]);
    }

    #[test]
    fn tokens_that_were_not_given_out_are_refused() {
        for token in ["", "n", "x5_!a:x", "n5_a", "nfive_!a:x", "n-1_!a:x"] {
            assert!(read_since(token).is_err(), "{token}");
        }
    }

    #[test]
    fn a_filter_looks_at_names_topics_aliases_and_types() {
        let mut room = profile("Rust", 1);
        room.topic = Some("About Ferris".to_owned());
        room.canonical_alias = Some("#crabs:x".try_into().unwrap());
        let term = |term: &str| PublicRoomsFilter {
            generic_search_term: Some(term.to_owned()),
            room_types: None,
        };
        for (text, expected) in [
            ("rust", true),
            ("FERRIS", true),
            ("crab", true),
            ("go", false),
        ] {
            assert_eq!(term(text).matches(&room), expected, "{text}");
        }
        let types = |types: &[Option<&str>]| PublicRoomsFilter {
            generic_search_term: None,
            room_types: Some(types.iter().map(|of| of.map(str::to_owned)).collect()),
        };
        assert!(types(&[None]).matches(&room));
        assert!(!types(&[Some("m.space")]).matches(&room));
        room.room_type = Some("m.space".to_owned());
        assert!(types(&[Some("m.space"), None]).matches(&room));
        assert!(!types(&[]).matches(&room));
    }
}
