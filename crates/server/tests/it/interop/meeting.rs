//! The room that the scenarios share: it lives on one server, and a user of another joins it.

use serde_json::json;

use crate::ca::Ca;
use crate::client::{Client, Watch};
use crate::homeserver::{Homeserver, Kind};
use crate::witness::{self, Side};

/// A room with alice (its creator), carol and dave of one server, and bob of another, who may
/// not have joined yet.
pub(super) struct Meeting {
    /// Where the room was made.
    pub(super) resident: Homeserver,
    /// Bob's server.
    pub(super) joining: Homeserver,
    pub(super) alice: Client,
    pub(super) bob: Client,
    pub(super) carol: Client,
    pub(super) dave: Client,
    pub(super) room: String,
    pub(super) alias: String,
}

/// Two servers that trust each other.
pub(super) async fn pair(one: Kind, other: Kind) -> (Homeserver, Homeserver) {
    let ca = Ca::generate();
    tokio::join!(Homeserver::start(one, &ca), Homeserver::start(other, &ca))
}

impl Meeting {
    /// Starts a server with the room, and one for bob.
    pub(super) async fn prepare(resident: Kind, joining: Kind, room_version: &str) -> Self {
        let (resident, joining) = pair(resident, joining).await;
        let alice = resident.register("alice").await;
        let carol = resident.register("carol").await;
        let dave = resident.register("dave").await;
        let bob = joining.register("bob").await;
        let request = json!({
            "preset": "public_chat", "room_alias_name": "meeting", "room_version": room_version, "name": "Meeting",
        });
        let room = alice.create_room(request).await;
        let alias = format!("#meeting:{}", resident.name());
        carol.join(&room).await;
        dave.join(&room).await;
        alice
            .set_state(
                &room,
                "m.room.topic",
                "",
                json!({ "topic": "before anyone came" }),
            )
            .await;
        alice.say(&room, "before anyone came").await;
        Self {
            resident,
            joining,
            alice,
            bob,
            carol,
            dave,
            room,
            alias,
        }
    }

    /// The same, and bob has joined and his server knows the whole room.
    pub(super) async fn hold(resident: Kind, joining: Kind, room_version: &str) -> Self {
        let meeting = Self::prepare(resident, joining, room_version).await;
        meeting.bob.join(&meeting.alias).await;
        meeting.bob.members(&meeting.room).await;
        meeting
    }

    /// Lets bob do all that alice may.
    pub(super) async fn promote_bob(&self) {
        let mut levels = self
            .alice
            .state_content(&self.room, "m.room.power_levels", "")
            .await;
        levels["users"][&self.bob.user_id] = json!(100);
        let event = self
            .alice
            .set_state(&self.room, "m.room.power_levels", "", levels)
            .await;
        self.bob.watch().until_event(&self.room, &event).await;
    }

    /// One message each way, seen on the other side.
    pub(super) async fn talk(&self, alice_sees: &mut Watch, bob_sees: &mut Watch) {
        let event = self.bob.say(&self.room, "can you hear me?").await;
        alice_sees.until_event(&self.room, &event).await;
        let event = self.alice.say(&self.room, "yes, and you me?").await;
        bob_sees.until_event(&self.room, &event).await;
    }

    /// Fails unless both servers agree on the present, and on the state before each event.
    pub(super) async fn assert_agreement(&self) {
        let one = Side {
            server: &self.resident,
            user: &self.alice,
        };
        let other = Side {
            server: &self.joining,
            user: &self.bob,
        };
        witness::assert_same_room(one, other, &self.room).await;
    }
}
