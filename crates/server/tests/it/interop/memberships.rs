//! People of two servers invite each other, knock, come and go.

use myelin_testbed::client::{Client, Watch};
use serde_json::json;

use super::meeting::pair;
use crate::homeserver::{Homeserver, Kind};
use crate::witness::{self, Side};

/// A server with alice and the room, and one with bob, who is not in it.
struct Neighbours {
    resident: Homeserver,
    guests: Homeserver,
    alice: Client,
    bob: Client,
    room: String,
}

impl Neighbours {
    async fn meet(resident: Kind, guests: Kind, request: serde_json::Value) -> Self {
        let (resident, guests) = pair(resident, guests).await;
        let alice = resident.register("alice").await;
        let bob = guests.register("bob").await;
        let room = alice.create_room(request).await;
        Self {
            resident,
            guests,
            alice,
            bob,
            room,
        }
    }

    /// What both are shown from now on.
    async fn watches(&self) -> (Watch, Watch) {
        let (mut alice_sees, mut bob_sees) = (self.alice.watch(), self.bob.watch());
        alice_sees.start_anew().await;
        bob_sees.start_anew().await;
        (alice_sees, bob_sees)
    }

    async fn talk(&self, alice_sees: &mut Watch, bob_sees: &mut Watch) {
        let event = self.bob.say(&self.room, "can you hear me?").await;
        alice_sees.until_event(&self.room, &event).await;
        let event = self.alice.say(&self.room, "yes, and you me?").await;
        bob_sees.until_event(&self.room, &event).await;
    }

    /// Both servers have the same room.
    async fn assert_agreement(&self) {
        let one = Side {
            server: &self.resident,
            user: &self.alice,
        };
        let other = Side {
            server: &self.guests,
            user: &self.bob,
        };
        witness::assert_same_room(one, other, &self.room).await;
    }
}

async fn invitations(resident: Kind, guests: Kind, version: &str) {
    let request = json!({ "preset": "private_chat", "name": "Closed", "room_version": version });
    let here = Neighbours::meet(resident, guests, request).await;
    let Neighbours {
        alice, bob, room, ..
    } = &here;
    let (mut alice_sees, mut bob_sees) = here.watches().await;

    // Accepted.
    alice.invite(room, &bob.user_id).await;
    let named = |event: &serde_json::Value| event["content"]["name"] == "Closed";
    bob_sees.until(room, "the room's name", named).await;
    let created = |event: &serde_json::Value| event["type"] == "m.room.create";
    bob_sees.until(room, "the create event", created).await;
    bob_sees.until_member(room, &bob.user_id, "invite").await;
    bob.join(room).await;
    alice_sees.until_member(room, &bob.user_id, "join").await;
    here.talk(&mut alice_sees, &mut bob_sees).await;
    here.assert_agreement().await;

    // Left, invited again and declined.
    bob.leave(room).await;
    alice_sees.until_member(room, &bob.user_id, "leave").await;
    (alice_sees, bob_sees) = here.watches().await;
    alice.invite(room, &bob.user_id).await;
    bob_sees.until_member(room, &bob.user_id, "invite").await;
    bob.leave(room).await;
    alice_sees.until_member(room, &bob.user_id, "leave").await;
    bob_sees.until_member(room, &bob.user_id, "leave").await;
    bob.forget(room).await;

    // Invited and uninvited.
    (alice_sees, bob_sees) = here.watches().await;
    alice.invite(room, &bob.user_id).await;
    bob_sees.until_member(room, &bob.user_id, "invite").await;
    alice.kick(room, &bob.user_id).await;
    alice_sees.until_member(room, &bob.user_id, "leave").await;
    bob_sees.until_member(room, &bob.user_id, "leave").await;
    let (status, answer) = bob.try_join(room, here.resident.name()).await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")));

    kicked_banned_and_back(&here).await;
}

async fn kicked_banned_and_back(here: &Neighbours) {
    let Neighbours {
        alice, bob, room, ..
    } = here;
    let (mut alice_sees, mut bob_sees) = here.watches().await;
    alice.invite(room, &bob.user_id).await;
    bob_sees.until_member(room, &bob.user_id, "invite").await;
    bob.join(room).await;
    alice_sees.until_member(room, &bob.user_id, "join").await;
    // Until then the room may be shown anew, with all that was before.
    bob.members(room).await;
    (_, bob_sees) = here.watches().await;
    alice.kick(room, &bob.user_id).await;
    bob_sees.until_member(room, &bob.user_id, "leave").await;
    alice.ban(room, &bob.user_id).await;
    let (status, answer) = bob.try_join(room, here.resident.name()).await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")));
    alice.unban(room, &bob.user_id).await;
    let (mut alice_sees, mut bob_sees) = here.watches().await;
    alice.invite(room, &bob.user_id).await;
    bob_sees.until_member(room, &bob.user_id, "invite").await;
    bob.join(room).await;
    alice_sees.until_member(room, &bob.user_id, "join").await;
    // Another guest, whom bob's server may let in by itself.
    let carol = here.guests.register("carol").await;
    bob.invite(room, &carol.user_id).await;
    alice_sees
        .until_member(room, &carol.user_id, "invite")
        .await;
    carol.join(room).await;
    alice_sees.until_member(room, &carol.user_id, "join").await;
    here.talk(&mut alice_sees, &mut bob_sees).await;
    here.assert_agreement().await;
}

async fn knocks(resident: Kind, guests: Kind, version: &str) {
    let rules = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let request = json!({
        "preset": "private_chat", "name": "Knock", "room_version": version, "initial_state": [rules],
    });
    let here = Neighbours::meet(resident, guests, request).await;
    let Neighbours {
        alice, bob, room, ..
    } = &here;
    let (mut alice_sees, mut bob_sees) = here.watches().await;
    bob.knock(room, here.resident.name()).await;
    let seen = alice_sees.until_member(room, &bob.user_id, "knock").await;
    assert_eq!(seen["content"]["reason"], "please");
    bob_sees.until_member(room, &bob.user_id, "knock").await;
    let named = |event: &serde_json::Value| event["content"]["name"] == "Knock";
    bob_sees.until(room, "the room's name", named).await;
    alice.invite(room, &bob.user_id).await;
    bob_sees.until_member(room, &bob.user_id, "invite").await;
    bob.join(room).await;
    alice_sees.until_member(room, &bob.user_id, "join").await;
    // Somebody else, upon a room that this server is in by now.
    let carol = here.guests.register("carol").await;
    carol.knock(room, here.resident.name()).await;
    alice_sees.until_member(room, &carol.user_id, "knock").await;
    here.talk(&mut alice_sees, &mut bob_sees).await;
    here.assert_agreement().await;
}

/// The reference does not tell the room that a knock was taken back, so it is no guest here.
async fn knocks_taken_back(resident: Kind, guests: Kind, version: &str) {
    let rules = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let request =
        json!({ "preset": "private_chat", "room_version": version, "initial_state": [rules] });
    let here = Neighbours::meet(resident, guests, request).await;
    let Neighbours { bob, room, .. } = &here;
    let (mut alice_sees, mut bob_sees) = here.watches().await;
    for _ in 0..2 {
        bob.knock(room, here.resident.name()).await;
        alice_sees.until_member(room, &bob.user_id, "knock").await;
        bob_sees.until_member(room, &bob.user_id, "knock").await;
        bob.leave(room).await;
        alice_sees.until_member(room, &bob.user_id, "leave").await;
        bob_sees.until_member(room, &bob.user_id, "leave").await;
        alice_sees.start_anew().await;
        bob_sees.start_anew().await;
    }
}

async fn restricted_joins(resident: Kind, guests: Kind, version: &str) {
    let request = json!({ "preset": "public_chat", "name": "Hall", "room_version": version });
    let hall = Neighbours::meet(resident, guests, request).await;
    let (alice, bob) = (&hall.alice, &hall.bob);
    let allow = json!([{ "type": "m.room_membership", "room_id": hall.room }]);
    let rules = json!({
        "type": "m.room.join_rules", "state_key": "",
        "content": { "join_rule": "restricted", "allow": allow },
    });
    let request = json!({
        "preset": "private_chat", "name": "For members", "room_version": version, "initial_state": [rules],
    });
    let room = alice.create_room(request).await;
    let via = hall.resident.name();
    let (status, answer) = bob.try_join(&room, via).await;
    assert_eq!((status, &answer["errcode"]), (403, &json!("M_FORBIDDEN")));
    let carol = hall.guests.register("carol").await;
    let mut alice_sees = alice.watch();
    for guest in [bob, &carol] {
        guest.join_via(&hall.room, via).await;
        alice_sees
            .until_member(&hall.room, &guest.user_id, "join")
            .await;
        guest.join_via(&room, via).await;
        let join = alice_sees.until_member(&room, &guest.user_id, "join").await;
        assert!(
            join["content"]["join_authorised_via_users_server"].is_string(),
            "{join}"
        );
        // Once the server has the whole room, it can let in the next by itself.
        guest.members(&room).await;
        guest.members(&hall.room).await;
    }
    // A new name does not need anybody's leave.
    bob.set_display_name("Bob the Second").await;
    let renamed = |event: &serde_json::Value| event["content"]["displayname"] == "Bob the Second";
    alice_sees.until(&room, "the new name", renamed).await;
    alice_sees.until(&hall.room, "the new name", renamed).await;
    hall.assert_agreement().await;
    let here = Neighbours { room, ..hall };
    let (mut alice_sees, mut bob_sees) = here.watches().await;
    here.talk(&mut alice_sees, &mut bob_sees).await;
    here.assert_agreement().await;
}

/// A server that is in a room already, and has nobody there who could let the next of its users in, sends
/// that user's join through another: it has no use for a partial answer then.
async fn whole_answers(resident: Kind, guests: Kind, version: &str) {
    let request = json!({ "preset": "public_chat", "name": "Hall", "room_version": version });
    let hall = Neighbours::meet(resident, guests, request).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": hall.room }]);
    let rules = json!({
        "type": "m.room.join_rules", "state_key": "",
        "content": { "join_rule": "restricted", "allow": allow },
    });
    let request = json!({
        "preset": "private_chat", "name": "For members", "room_version": version, "initial_state": [rules],
        "power_level_content_override": { "invite": 50 },
    });
    let room = hall.alice.create_room(request).await;
    let carol = hall.guests.register("carol").await;
    let via = hall.resident.name();
    let mut alice_sees = hall.alice.watch();
    for (guest, omitting) in [
        (&hall.bob, "omit_members=true"),
        (&carol, "omit_members=false"),
    ] {
        guest.join_via(&hall.room, via).await;
        let user = &guest.user_id;
        alice_sees.until_member(&hall.room, user, "join").await;
        guest.join_via(&room, via).await;
        alice_sees.until_member(&room, user, "join").await;
        let sent = hall.resident.proxy.seen().into_iter().rev();
        let mut sent = sent.filter(|seen| seen.path.contains("/send_join/"));
        let last = sent.next().unwrap().path;
        assert!(last.contains(omitting), "{last}");
        guest.members(&room).await;
    }
    let here = Neighbours { room, ..hall };
    let (mut alice_sees, mut bob_sees) = here.watches().await;
    here.talk(&mut alice_sees, &mut bob_sees).await;
    here.assert_agreement().await;
}

/// One test for each pair of servers and room version.
macro_rules! between {
    ($($scenario:ident { $($name:ident $resident:ident $guests:ident $version:literal;)* })*) => {
        $($(
            #[tokio::test]
            async fn $name() {
                $scenario(Kind::$resident, Kind::$guests, $version).await;
            }
        )*)*
    };
}

between! {
    invitations {
        myelin_invites_v6 Myelin Synapse "6";
        myelin_invites_v9 Myelin Synapse "9";
        myelin_invites_v10 Myelin Synapse "10";
        myelin_invites_v11 Myelin Synapse "11";
        myelin_invites_v12 Myelin Synapse "12";
        synapse_invites_v6 Synapse Myelin "6";
        synapse_invites_v9 Synapse Myelin "9";
        synapse_invites_v10 Synapse Myelin "10";
        synapse_invites_v11 Synapse Myelin "11";
        synapse_invites_v12 Synapse Myelin "12";
        synapses_invite_each_other Synapse Synapse "12";
        myelins_invite_each_other Myelin Myelin "12";
    }
    knocks {
        a_user_of_synapse_knocks_v9 Myelin Synapse "9";
        a_user_of_synapse_knocks_v10 Myelin Synapse "10";
        a_user_of_synapse_knocks_v12 Myelin Synapse "12";
        a_user_of_myelin_knocks_v9 Synapse Myelin "9";
        a_user_of_myelin_knocks_v10 Synapse Myelin "10";
        a_user_of_myelin_knocks_v12 Synapse Myelin "12";
        a_user_of_synapse_knocks_upon_synapse Synapse Synapse "12";
    }
    knocks_taken_back {
        a_user_of_myelin_takes_a_knock_back_v10 Synapse Myelin "10";
        a_user_of_myelin_takes_a_knock_back_v12 Synapse Myelin "12";
    }
    restricted_joins {
        a_restricted_room_of_myelins_v9 Myelin Synapse "9";
        a_restricted_room_of_myelins_v10 Myelin Synapse "10";
        a_restricted_room_of_myelins_v12 Myelin Synapse "12";
        a_restricted_room_of_synapses_v9 Synapse Myelin "9";
        a_restricted_room_of_synapses_v10 Synapse Myelin "10";
        a_restricted_room_of_synapses_v12 Synapse Myelin "12";
        a_restricted_room_between_synapses Synapse Synapse "12";
    }
    whole_answers {
        synapse_asks_for_the_whole_room_v10 Myelin Synapse "10";
        synapse_asks_for_the_whole_room_v12 Myelin Synapse "12";
        myelin_asks_for_the_whole_room_v10 Synapse Myelin "10";
        myelin_asks_for_the_whole_room_v12 Synapse Myelin "12";
        synapse_asks_synapse_for_the_whole_room Synapse Synapse "12";
    }
}
