//! A room in the tree of a space: what it shows of itself, who may see that, and its children
//! (client-server API, "Spaces").

use std::{cmp::Ordering, sync::Arc};

use myelin_core::{key_table::MEMBER, state::Membership};
use myelin_rooms::Room;
use myelin_storage::StorageError;
use ruma::{OwnedRoomId, OwnedServerName, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

use crate::{Sync, SyncError, client_event::shown, public_rooms::RoomProfile};

/// The most children of one room that are followed.
pub(crate) const MOST_CHILDREN: usize = 50;

const SPACE_CHILD: &str = "m.space.child";

/// How long an `order` may be, in bytes.
const LONGEST_ORDER: usize = 50;

/// Who looks at a room.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asker<'a> {
    User(&'a UserId),
    Server(&'a ServerName),
}

/// A room as its server describes it: JSON, and what this server reads in it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// What is shown, `children_state` included.
    pub(crate) shown: Map<String, Value>,
    /// In the order in which they are shown.
    pub(crate) children: Vec<Child>,
    facts: Facts,
}

/// A room that another one has as a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) room_id: OwnedRoomId,
    pub(crate) via: Vec<OwnedServerName>,
    order: Option<String>,
    origin_server_ts: u64,
}

/// What decides who may see a room.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Facts {
    join_rule: Option<String>,
    world_readable: bool,
    room_type: Option<String>,
    allowed_room_ids: Vec<OwnedRoomId>,
}

#[derive(Deserialize)]
struct ChildState {
    #[serde(rename = "type")]
    event_type: String,
    state_key: OwnedRoomId,
    content: ChildContent,
    #[serde(default)]
    origin_server_ts: u64,
}

#[derive(Deserialize)]
struct ChildContent {
    via: Vec<OwnedServerName>,
    #[serde(default)]
    order: Value,
    #[serde(default)]
    suggested: Value,
}

/// What is shown of one of our rooms.
#[derive(Serialize)]
struct LocalRoom<'a> {
    #[serde(flatten)]
    profile: &'a RoomProfile,
    room_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allowed_room_ids: Vec<OwnedRoomId>,
    children_state: Vec<ShownChild>,
}

/// Stripped state with the time of the event.
#[derive(Serialize)]
struct ShownChild {
    #[serde(rename = "type")]
    event_type: &'static str,
    state_key: String,
    content: Box<RawValue>,
    sender: String,
    origin_server_ts: u64,
}

impl Node {
    /// Reads what a server says of a room; `None` if it says it of another one.
    pub(crate) fn read(
        room_id: &ruma::RoomId,
        shown: Map<String, Value>,
        suggested_only: bool,
    ) -> Option<Self> {
        if shown.get("room_id").and_then(Value::as_str) != Some(room_id.as_str()) {
            return None;
        }
        let facts: Facts = serde_json::from_value(Value::Object(shown.clone())).ok()?;
        let states = shown.get("children_state").and_then(Value::as_array);
        let is_space = facts.room_type.as_deref() == Some("m.space");
        let mut children: Vec<Child> = states
            .into_iter()
            .flatten()
            .filter(|_| is_space)
            .filter_map(|state| Child::read(state, suggested_only))
            .collect();
        children.sort_by(Child::in_order);
        children.truncate(MOST_CHILDREN);
        Some(Self {
            shown,
            children,
            facts,
        })
    }

    pub(crate) fn is_space(&self) -> bool {
        self.facts.room_type.as_deref() == Some("m.space")
    }

    /// Whether anybody may see the room.
    fn is_open(&self) -> bool {
        let rule = self.facts.join_rule.as_deref().unwrap_or("public");
        self.facts.world_readable || matches!(rule, "public" | "knock" | "knock_restricted")
    }

    /// The rooms whose members may join.
    fn allowed(&self) -> &[OwnedRoomId] {
        match self.facts.join_rule.as_deref() {
            Some("restricted") => &self.facts.allowed_room_ids,
            _ => &[],
        }
    }
}

impl Child {
    /// A child that can be found; one without servers was taken out of the space.
    fn read(state: &Value, suggested_only: bool) -> Option<Self> {
        let state = ChildState::deserialize(state).ok()?;
        let is_wanted = state.event_type == SPACE_CHILD
            && !state.content.via.is_empty()
            && (!suggested_only || state.content.suggested == true);
        let order = state.content.order.as_str().filter(|order| {
            order.len() <= LONGEST_ORDER && order.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
        });
        is_wanted.then(|| Self {
            room_id: state.state_key,
            via: state.content.via,
            order: order.map(str::to_owned),
            origin_server_ts: state.origin_server_ts,
        })
    }

    /// By `order`, those without one last; then by age, then by ID ("Ordering of children within a
    /// space").
    fn in_order(&self, other: &Self) -> Ordering {
        let rank = |child: &Self| {
            (
                child.order.is_none(),
                child.order.clone(),
                child.origin_server_ts,
                child.room_id.clone(),
            )
        };
        rank(self).cmp(&rank(other))
    }
}

impl Sync {
    /// One of our rooms; `None` if this server is not in it.
    pub(crate) async fn local_node(
        &self,
        room: &Arc<Room>,
        suggested_only: bool,
    ) -> Result<Option<Node>, SyncError> {
        let (Some(current), Some(profile)) = (room.current(), self.room_profile(room).await?)
        else {
            return Ok(None);
        };
        if !room.has_server(self.rooms().server_name()) {
            return Ok(None);
        }
        let children: Vec<_> = {
            let keys = room.keys();
            let entries = current.state.others();
            let of_type = entries.filter(|(key, _)| {
                keys.name(*key)
                    .is_some_and(|name| name.event_type == SPACE_CHILD)
            });
            of_type.map(|(_, entry)| entry.event()).collect()
        };
        let mut children_state = Vec::new();
        for event in room.events(self.rooms(), children).await?.into_values() {
            let pdu = shown(room, &event)?;
            children_state.push(ShownChild {
                event_type: SPACE_CHILD,
                state_key: pdu.state_key.clone().unwrap_or_default(),
                content: pdu.content.clone(),
                sender: pdu.sender.to_string(),
                origin_server_ts: pdu.origin_server_ts.get().into(),
            });
        }
        children_state.sort_by_key(|child| (child.origin_server_ts, child.state_key.clone()));
        let local = LocalRoom {
            room_version: room.key.version.as_str(),
            encryption: profile.encryption.clone(),
            allowed_room_ids: profile.allowed_room_ids.clone(),
            profile: &profile,
            children_state,
        };
        let corrupt = |error: serde_json::Error| StorageError::Corrupt(error.to_string());
        match serde_json::to_value(&local).map_err(corrupt)? {
            Value::Object(shown) => Ok(Node::read(&room.key.room_id, shown, suggested_only)),
            _ => Ok(None),
        }
    }

    /// Whether somebody may see a room. `room` is given where this server is in it.
    pub(crate) async fn may_see(
        &self,
        asker: Asker<'_>,
        node: &Node,
        room: Option<&Arc<Room>>,
    ) -> Result<bool, SyncError> {
        if node.is_open() || room.is_some_and(|room| is_concerned(asker, room)) {
            return Ok(true);
        }
        for room_id in node.allowed() {
            // What this server knows of a room that it has left may be old.
            if let Some(allowed) = self.rooms().room(room_id).await?
                && allowed.has_server(self.rooms().server_name())
                && is_in(asker, &allowed)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether the asker is in a room.
fn is_in(asker: Asker<'_>, room: &Arc<Room>) -> bool {
    match asker {
        Asker::User(user) => membership(room, user) == Some(Membership::Join),
        Asker::Server(server) => room.has_server(server),
    }
}

/// Whether the asker is in a room, or invited to it.
fn is_concerned(asker: Asker<'_>, room: &Arc<Room>) -> bool {
    match asker {
        Asker::User(user) => matches!(
            membership(room, user),
            Some(Membership::Join | Membership::Invite)
        ),
        Asker::Server(server) => room.has_server(server) || has_invited(room, server),
    }
}

fn membership(room: &Arc<Room>, user: &UserId) -> Option<Membership> {
    let current = room.current()?;
    let entry = current
        .state
        .get_named(&room.keys(), MEMBER, user.as_str())?;
    entry.membership()
}

/// Whether a user of the server is invited. All members are looked at only where somebody is.
fn has_invited(room: &Arc<Room>, server: &ServerName) -> bool {
    let Some(current) = room.current().filter(|of| of.state.counts().invited > 0) else {
        return false;
    };
    let keys = room.keys();
    current
        .state
        .members()
        .filter(|(_, entry)| entry.membership() == Some(Membership::Invite))
        .filter_map(|(key, _)| keys.name(key))
        .any(|name| name.member_server() == Some(server.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn space(children: Value) -> Map<String, Value> {
        let shown = json!({
            "room_id": "!space:x", "room_type": "m.space", "children_state": children,
        });
        shown.as_object().cloned().unwrap()
    }

    fn child(room: &str, time: u64, content: Value) -> Value {
        json!({
            "type": "m.space.child", "state_key": room, "origin_server_ts": time,
            "content": content, "sender": "@a:x",
        })
    }

    fn children(shown: Map<String, Value>, suggested_only: bool) -> Vec<String> {
        let node = Node::read(ruma::room_id!("!space:x"), shown, suggested_only).unwrap();
        let ids = node.children.iter().map(|child| child.room_id.to_string());
        ids.collect()
    }

    #[test]
    fn children_come_in_the_specifications_order() {
        let shown = space(json!([
            child("!late:x", 9, json!({ "via": ["x"] })),
            child("!b:x", 5, json!({ "via": ["x"] })),
            child("!a:x", 5, json!({ "via": ["x"], "order": 5 })),
            child("!last:x", 1, json!({ "via": ["x"], "order": "\u{7f}" })),
            child("!second:x", 1, json!({ "via": ["x"], "order": "b" })),
            child("!first:x", 8, json!({ "via": ["x"], "order": "a" })),
        ]));
        assert_eq!(
            children(shown, false),
            [
                "!first:x",
                "!second:x",
                "!last:x",
                "!a:x",
                "!b:x",
                "!late:x"
            ]
        );
    }

    #[test]
    fn children_that_were_taken_out_or_are_malformed_are_left_out() {
        let shown = space(json!([
            child("!gone:x", 1, json!({})),
            child("!nobody:x", 1, json!({ "via": [] })),
            child("!odd:x", 1, json!({ "via": "x" })),
            child("no room", 1, json!({ "via": ["x"] })),
            { "type": "m.space.parent", "state_key": "!p:x", "content": { "via": ["x"] } },
            child("!plain:x", 1, json!({ "via": ["x"], "suggested": "true" })),
            child("!suggested:x", 1, json!({ "via": ["x"], "suggested": true })),
            7,
        ]));
        assert_eq!(children(shown.clone(), false), ["!plain:x", "!suggested:x"]);
        assert_eq!(children(shown.clone(), true), ["!suggested:x"]);
        let mut room = shown.clone();
        room.remove("room_type");
        assert!(
            children(room, false).is_empty(),
            "only spaces have children"
        );
        assert!(Node::read(ruma::room_id!("!other:x"), shown, false).is_none());
    }
}
