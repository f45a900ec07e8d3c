//! Keys that change, and servers that are not there to say what theirs were.

use serde_json::json;

use crate::ca::Ca;
use crate::homeserver::{Homeserver, Kind};

#[tokio::test]
async fn who_comes_after_a_change_of_the_key_believes_what_was_signed_before() {
    come_after_the_change(Kind::Myelin).await;
}

#[tokio::test]
async fn who_is_away_is_believed_through_a_notary() {
    ask_a_notary(Kind::Myelin, Kind::Myelin).await;
}

#[tokio::test]
async fn the_key_of_a_server_that_runs_is_not_changed() {
    let mut server = Homeserver::start(Kind::Myelin, &Ca::generate()).await;
    let before = server.signing_key().0;
    let (succeeded, text) = server.command(&["keys", "rotate"]);
    assert!(!succeeded && text.contains("another"), "{text}");
    assert_eq!(server.signing_key().0, before);
    server.kill();
    let (succeeded, text) = server.command(&["keys", "rotate"]);
    assert!(succeeded, "{text}");
    let after = server.signing_key().0;
    assert_ne!(after, before);
    let (_, shown) = server.command(&["keys", "show"]);
    for text in [text, shown] {
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert!(lines[0].starts_with(&after), "{text}");
        assert!(
            lines[1].starts_with(&before) && lines[1].contains(" until "),
            "{text}"
        );
        assert_eq!(lines.len(), 2, "{text}");
    }
}

/// Gives a server that runs Myelin another key.
pub(crate) async fn change_the_key(server: &mut Homeserver) {
    let (old, _) = server.signing_key();
    server.kill();
    let (succeeded, text) = server.command(&["keys", "rotate"]);
    assert!(succeeded, "{text}");
    server.run().await;
    assert_ne!(server.signing_key().0, old);
}

/// A server joins a room that was made with a key that is not in use any more.
pub(crate) async fn come_after_the_change(newcomer: Kind) {
    let ca = Ca::generate();
    let (mut server, newcomer) = tokio::join!(
        Homeserver::start(Kind::Myelin, &ca),
        Homeserver::start(newcomer, &ca),
    );
    let alice = server.register("alice").await;
    let bob = newcomer.register("bob").await;
    let room = json!({ "preset": "public_chat", "room_version": "10" });
    let room = alice.create_room(room).await;
    change_the_key(&mut server).await;

    bob.join_via(&room, server.name()).await;
    let (mut alice_sees, mut bob_sees) = (alice.watch(), bob.watch());
    let event = bob.say(&room, "I believe you").await;
    alice_sees.until_event(&room, &event).await;
    let event = alice.say(&room, "signed with the other key").await;
    bob_sees.until_event(&room, &event).await;
}

/// A server joins through another a room whose maker is away for good, and has its keys from the other.
pub(crate) async fn ask_a_notary(notary: Kind, joining: Kind) {
    let ca = Ca::generate();
    let (mut maker, notary) = tokio::join!(
        Homeserver::start(Kind::Myelin, &ca),
        Homeserver::start(notary, &ca),
    );
    let joining = Homeserver::start_trusting(joining, &ca, Some(&notary), "").await;
    let alice = maker.register("alice").await;
    let bob = notary.register("bob").await;
    let carol = joining.register("carol").await;
    let room = json!({ "preset": "public_chat", "room_version": "10" });
    let room = alice.create_room(room).await;
    bob.join_via(&room, maker.name()).await;
    bob.members(&room).await;
    maker.kill();

    carol.join_via(&room, notary.name()).await;
    let event = carol.say(&room, "is anybody here?").await;
    bob.watch().until_event(&room, &event).await;
    let members = carol.joined_members(&room).await;
    assert!(members[&alice.user_id].is_object(), "{members}");
}
