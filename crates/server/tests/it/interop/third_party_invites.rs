//! People are invited by their e-mail addresses, through an identity server that both homeservers ask.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::ca::Ca;
use crate::client::Client;
use crate::homeserver::{Homeserver, Kind};
use crate::http;
use crate::identity::IdentityServer;
use crate::witness::{self, Side};

/// A server with alice, one of guests, and the identity server.
struct Post {
    resident: Homeserver,
    guests: Homeserver,
    identity: Arc<IdentityServer>,
    alice: Client,
    version: &'static str,
}

impl Post {
    async fn open(resident: Kind, guests: Kind, version: &'static str) -> Self {
        let ca = Ca::generate();
        let (resident, guests) = tokio::join!(
            Homeserver::start(resident, &ca),
            Homeserver::start(guests, &ca)
        );
        Self {
            identity: IdentityServer::start(&ca).await,
            alice: resident.register("alice").await,
            resident,
            guests,
            version,
        }
    }

    async fn room(&self) -> String {
        let request = json!({
            "preset": "private_chat", "name": "By post", "room_version": self.version,
        });
        self.alice.create_room(request).await
    }

    async fn invite(&self, room: &str, address: &str) {
        let invitation = self.identity.invitation(address);
        self.alice.invite_by_address(room, invitation).await;
    }

    /// The user proves to own an address, and the identity server tells its homeserver; what that answers.
    async fn bind(&self, address: &str, user: &Client) -> (u16, Value) {
        let told = self.identity.bind(address, &user.user_id).to_string();
        let request = hyper::Request::post("/_matrix/federation/v1/3pid/onbind")
            .header("host", self.guests.name())
            .header("content-type", "application/json")
            .body(told.into())
            .unwrap();
        let answer = http::send(self.guests.address(), request).await.unwrap();
        let body = serde_json::from_slice(answer.body()).unwrap();
        (answer.status().as_u16(), body)
    }

    async fn assert_agreement(&self, guest: &Client, room: &str) {
        let event = guest.say(room, "thanks for the mail").await;
        self.alice.watch().until_event(room, &event).await;
        let one = Side {
            server: &self.resident,
            user: &self.alice,
        };
        let other = Side {
            server: &self.guests,
            user: guest,
        };
        witness::assert_same_room(one, other, room).await;
    }
}

async fn invited_by_address(resident: Kind, guests: Kind, version: &'static str) {
    let post = Post::open(resident, guests, version).await;
    let room = post.room().await;
    let mut alice_sees = post.alice.watch();
    let bob = post.guests.register("bob").await;
    let mut bob_sees = bob.watch();
    post.invite(&room, "bob@example.com").await;
    let waits = |event: &Value| event["type"] == "m.room.third_party_invite";
    let waiting = alice_sees.until(&room, "the waiting invite", waits).await;
    assert_eq!(waiting["content"]["display_name"], "s...@e...");
    let stored = post.identity.stored("bob@example.com");
    assert_eq!(stored[0]["room_name"], "By post");
    assert_eq!(stored[0]["sender"], post.alice.user_id.as_str());

    // His server is not in the room, and asks alice's.
    let (status, answer) = post.bind("bob@example.com", &bob).await;
    assert_eq!(status, 200, "{answer}");
    let invite = alice_sees.until_member(&room, &bob.user_id, "invite").await;
    assert_eq!(invite["sender"], post.alice.user_id.as_str());
    let shown = &invite["content"]["third_party_invite"]["display_name"];
    assert_eq!(shown, "s...@e...");
    bob_sees.until_member(&room, &bob.user_id, "invite").await;
    bob.join(&room).await;
    alice_sees.until_member(&room, &bob.user_id, "join").await;
    bob.members(&room).await;
    post.assert_agreement(&bob, &room).await;

    // It is in the room now, and invites carol in alice's name.
    let carol = post.guests.register("carol").await;
    let mut carol_sees = carol.watch();
    post.invite(&room, "carol@example.com").await;
    let second = |event: &Value| waits(event) && event["state_key"] != waiting["state_key"];
    bob_sees.until(&room, "the second invite", second).await;
    let (status, answer) = post.bind("carol@example.com", &carol).await;
    assert_eq!(status, 200, "{answer}");
    carol_sees
        .until_member(&room, &carol.user_id, "invite")
        .await;
    let invite = alice_sees
        .until_member(&room, &carol.user_id, "invite")
        .await;
    assert_eq!(invite["sender"], post.alice.user_id.as_str());
    carol.join(&room).await;
    alice_sees.until_member(&room, &carol.user_id, "join").await;
    post.assert_agreement(&carol, &room).await;

    known_and_revoked(&post, &bob).await;
}

/// Bob's address is known by now; and nobody is invited any more by keys that were revoked.
async fn known_and_revoked(post: &Post, bob: &Client) {
    let room = post.room().await;
    let mut bob_sees = bob.watch();
    post.invite(&room, "bob@example.com").await;
    let invite = bob_sees.until_member(&room, &bob.user_id, "invite").await;
    assert!(
        invite["content"]["third_party_invite"].is_null(),
        "{invite}"
    );
    assert_eq!(post.identity.stored("bob@example.com").len(), 1);

    let request = json!({
        "preset": "private_chat", "room_version": post.version,
        "invite_3pid": [post.identity.invitation("erin@example.com")],
    });
    let room = post.alice.create_room(request).await;
    let token = post.identity.stored("erin@example.com")[0]["token"].clone();
    let kind = "m.room.third_party_invite";
    let waiting = post
        .alice
        .state_content(&room, kind, token.as_str().unwrap());
    assert_eq!(waiting.await["display_name"], "s...@e...");

    post.invite(&room, "dave@example.com").await;
    let dave = post.guests.register("dave").await;
    post.identity.revoke_keys();
    let (status, answer) = post.bind("dave@example.com", &dave).await;
    assert_ne!(status, 200, "{answer}");
    let members = post.alice.members(&room).await;
    assert!(
        members
            .iter()
            .all(|event| event["state_key"] != dave.user_id.as_str())
    );
}

#[tokio::test]
async fn synapse_invites_by_address_v10() {
    invited_by_address(Kind::Synapse, Kind::Myelin, "10").await;
}

#[tokio::test]
async fn synapse_invites_by_address_v12() {
    invited_by_address(Kind::Synapse, Kind::Myelin, "12").await;
}

#[tokio::test]
async fn myelin_invites_by_address_v6() {
    invited_by_address(Kind::Myelin, Kind::Synapse, "6").await;
}

#[tokio::test]
async fn myelin_invites_by_address_v12() {
    invited_by_address(Kind::Myelin, Kind::Synapse, "12").await;
}

#[tokio::test]
async fn synapses_invite_by_address() {
    invited_by_address(Kind::Synapse, Kind::Synapse, "12").await;
}

#[tokio::test]
async fn myelins_invite_by_address() {
    invited_by_address(Kind::Myelin, Kind::Myelin, "11").await;
}
