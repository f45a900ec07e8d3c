//! How people find each other's rooms: aliases, directories, spaces, and rooms that were replaced.

use serde_json::{Value, json};

use crate::ca::Ca;
use crate::client::{Client, encode};
use crate::homeserver::{Homeserver, Kind};
use crate::witness::{self, Side};

/// Two servers, a user on each, and a room of the first one's in a space.
struct Town {
    resident: Homeserver,
    other: Homeserver,
    alice: Client,
    bob: Client,
    room: String,
    space: String,
}

impl Town {
    async fn build(resident: Kind, other: Kind) -> Self {
        let ca = Ca::generate();
        let (resident, other) = tokio::join!(
            Homeserver::start(resident, &ca),
            Homeserver::start(other, &ca)
        );
        let alice = resident.register("alice").await;
        let bob = other.register("bob").await;
        let request = json!({
            "preset": "public_chat", "visibility": "public", "room_alias_name": "tea",
            "room_version": "11", "name": "Tea", "topic": "Leaves",
        });
        let room = alice.create_room(request).await;
        let request = json!({
            "preset": "public_chat", "name": "Kitchen", "room_version": "11",
            "creation_content": { "type": "m.space" },
        });
        let space = alice.create_room(request).await;
        let child = json!({ "via": [resident.name()], "order": "1" });
        alice.set_state(&space, "m.space.child", &room, child).await;
        Self {
            resident,
            other,
            alice,
            bob,
            room,
            space,
        }
    }

    fn alias(&self, name: &str) -> String {
        format!("#{name}:{}", self.resident.name())
    }

    /// What the alias leads to, as bob's server finds out.
    async fn resolve(&self, name: &str) -> Value {
        let path = format!(
            "/_matrix/client/v3/directory/room/{}",
            encode(&self.alias(name))
        );
        self.bob.call("GET", &path, None).await.1
    }

    /// Both servers have the same of a room that alice and bob are in.
    async fn assert_agreement(&self, room: &str) {
        let one = Side {
            server: &self.resident,
            user: &self.alice,
        };
        let other = Side {
            server: &self.other,
            user: &self.bob,
        };
        witness::assert_same_room(one, other, room).await;
    }
}

async fn rooms_are_found(resident: Kind, other: Kind) {
    let town = Town::build(resident, other).await;
    let alias = encode(&town.alias("kettle"));
    let path = format!("/_matrix/client/v3/directory/room/{alias}");
    town.alice.put(&path, json!({ "room_id": town.room })).await;
    for name in ["tea", "kettle"] {
        assert_eq!(town.resolve(name).await["room_id"], town.room);
    }
    town.alice.call("DELETE", &path, None).await;
    assert_eq!(town.resolve("kettle").await["errcode"], "M_NOT_FOUND");

    let directory = format!(
        "/_matrix/client/v3/publicRooms?server={}",
        encode(town.resident.name())
    );
    for (term, expected) in [("leaves", vec!["Tea"]), ("coffee", vec![])] {
        let body = json!({ "filter": { "generic_search_term": term } });
        let found = town.bob.post(&directory, body).await;
        let rooms = found["chunk"].as_array().unwrap();
        let names: Vec<&str> = rooms
            .iter()
            .filter_map(|room| room["name"].as_str())
            .collect();
        assert_eq!(names, expected, "{found}");
    }
    let all = town.bob.get(&directory).await;
    assert_eq!(all["chunk"][0]["room_id"], town.room, "{all}");

    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", encode(&town.space));
    // Bob's server can't tell from the ID of a space alone whom to ask; alice's user can invite it in.
    let space = format!(
        "{}?via={}",
        encode(&town.space),
        encode(town.resident.name())
    );
    town.bob
        .post(&format!("/_matrix/client/v3/join/{space}"), json!({}))
        .await;
    let tree = town.bob.get(&path).await;
    let rooms = tree["rooms"].as_array().unwrap();
    let names: Vec<&Value> = rooms.iter().map(|room| &room["name"]).collect();
    assert_eq!(names, ["Kitchen", "Tea"], "{tree}");
    assert_eq!(rooms[1]["room_id"], town.room);
    town.bob.members(&town.space).await;
    town.assert_agreement(&town.space).await;
}

async fn a_replaced_room_is_followed(resident: Kind, other: Kind) {
    let town = Town::build(resident, other).await;
    town.bob.join(&town.alias("tea")).await;
    let mut bob_sees = town.bob.watch();
    let path = format!("/_matrix/client/v3/rooms/{}/upgrade", encode(&town.room));
    let answer = town.alice.post(&path, json!({ "new_version": "12" })).await;
    let new = answer["replacement_room"].as_str().unwrap();
    let is_end = |event: &Value| event["type"] == "m.room.tombstone";
    let end = bob_sees
        .until(&town.room, "the end of the room", is_end)
        .await;
    assert_eq!(end["content"]["replacement_room"], new);
    assert_eq!(town.bob.join(&town.alias("tea")).await, new);
    let create = town.bob.state_content(new, "m.room.create", "").await;
    assert_eq!(create["predecessor"]["room_id"], town.room);
    let name = town.bob.state_content(new, "m.room.name", "").await;
    assert_eq!(name["name"], "Tea");
    for room in [new, &town.room] {
        town.bob.members(room).await;
        town.assert_agreement(room).await;
    }
}

#[tokio::test]
async fn synapses_rooms_are_found_by_alias_directory_and_space() {
    rooms_are_found(Kind::Synapse, Kind::Myelin).await;
}

#[tokio::test]
async fn rooms_here_are_found_by_alias_directory_and_space() {
    rooms_are_found(Kind::Myelin, Kind::Synapse).await;
}

#[tokio::test]
async fn a_room_that_synapse_replaces_is_followed() {
    a_replaced_room_is_followed(Kind::Synapse, Kind::Myelin).await;
}

#[tokio::test]
async fn synapse_follows_a_room_that_is_replaced_here() {
    a_replaced_room_is_followed(Kind::Myelin, Kind::Synapse).await;
}
