//! A fork of the room, and its resolution on both sides.

use serde_json::json;

use super::meeting::Meeting;
use crate::homeserver::Kind;

/// Both sides change the same things without hearing of each other; then they do.
async fn forks_are_resolved_alike(joining: Kind, room_version: &str) {
    let meeting = Meeting::hold(Kind::Synapse, joining, room_version).await;
    let room = &meeting.room;
    meeting.promote_bob().await;
    let held = [&meeting.resident, &meeting.joining]
        .map(|server| server.proxy.hold_path("/federation/v1/send/"));
    for round in 0..3 {
        let topic = |who: &str| json!({ "topic": format!("{who}'s {round}") });
        meeting
            .alice
            .set_state(room, "m.room.topic", "", topic("alice"))
            .await;
        meeting
            .bob
            .set_state(room, "m.room.topic", "", topic("bob"))
            .await;
        meeting.alice.say(room, "is anybody there?").await;
        meeting.bob.say(room, "hello?").await;
    }
    meeting.bob.kick(room, &meeting.dave.user_id).await;
    meeting.dave.say(room, "I am still here").await;
    meeting
        .alice
        .set_state(
            room,
            "m.room.join_rules",
            "",
            json!({ "join_rule": "invite" }),
        )
        .await;
    meeting
        .bob
        .set_state(room, "m.room.name", "", json!({ "name": "Bob's Meeting" }))
        .await;
    meeting.carol.leave(room).await;
    for hold in held {
        hold.release();
    }
    // Who has seen the other's answer has all that came before it.
    meeting
        .talk(&mut meeting.alice.watch(), &mut meeting.bob.watch())
        .await;
    meeting.assert_agreement().await;
}

#[tokio::test]
async fn forks_are_resolved_alike_v1() {
    forks_are_resolved_alike(Kind::Myelin, "1").await;
}

#[tokio::test]
async fn forks_are_resolved_alike_v2() {
    forks_are_resolved_alike(Kind::Myelin, "2").await;
}

#[tokio::test]
async fn forks_are_resolved_alike_v10() {
    forks_are_resolved_alike(Kind::Myelin, "10").await;
}

#[tokio::test]
async fn forks_are_resolved_alike_v12() {
    forks_are_resolved_alike(Kind::Myelin, "12").await;
}
