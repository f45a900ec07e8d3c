//! What happens in a shared room arrives on the other side, both ways.

use std::time::Duration;

use serde_json::{Value, json};

use super::meeting::Meeting;
use crate::client::Watch;
use crate::homeserver::Kind;

/// What the way between the servers takes.
const LATENCY: Duration = Duration::from_millis(30);

async fn everything_goes_both_ways(resident: Kind, joining: Kind, room_version: &str) {
    let meeting = Meeting::hold(resident, joining, room_version).await;
    meeting.resident.proxy.delay(LATENCY);
    meeting.joining.proxy.delay(LATENCY);
    let (mut alice_sees, mut bob_sees) = (meeting.alice.watch(), meeting.bob.watch());
    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    meeting.promote_bob().await;
    state_changes(&meeting, &mut alice_sees, &mut bob_sees).await;
    redactions(&meeting, &mut alice_sees, &mut bob_sees).await;
    profile_changes(&meeting, &mut alice_sees, &mut bob_sees).await;
    kicks_and_leaves(&meeting, &mut alice_sees, &mut bob_sees).await;
    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    meeting.assert_agreement().await;
}

async fn state_changes(meeting: &Meeting, alice_sees: &mut Watch, bob_sees: &mut Watch) {
    let room = &meeting.room;
    let event = meeting
        .alice
        .set_state(room, "m.room.topic", "", json!({ "topic": "by alice" }))
        .await;
    bob_sees.until_event(room, &event).await;
    assert_eq!(
        meeting.bob.state_content(room, "m.room.topic", "").await["topic"],
        "by alice"
    );
    let event = meeting
        .bob
        .set_state(room, "m.room.topic", "", json!({ "topic": "by bob" }))
        .await;
    alice_sees.until_event(room, &event).await;
    assert_eq!(
        meeting.alice.state_content(room, "m.room.topic", "").await["topic"],
        "by bob"
    );
}

async fn redactions(meeting: &Meeting, alice_sees: &mut Watch, bob_sees: &mut Watch) {
    let room = &meeting.room;
    let by_bob = meeting.bob.say(room, "alice takes this back").await;
    let by_alice = meeting.alice.say(room, "bob takes this back").await;
    alice_sees.until_event(room, &by_bob).await;
    bob_sees.until_event(room, &by_alice).await;
    let redaction = meeting.alice.redact(room, &by_bob).await;
    bob_sees.until_event(room, &redaction).await;
    assert_redacted(&meeting.bob.event(room, &by_bob).await, &redaction);
    let redaction = meeting.bob.redact(room, &by_alice).await;
    alice_sees.until_event(room, &redaction).await;
    assert_redacted(&meeting.alice.event(room, &by_alice).await, &redaction);
}

fn assert_redacted(event: &Value, redaction: &str) {
    assert_eq!(event["content"], json!({}), "{event}");
    assert_eq!(
        event["unsigned"]["redacted_because"]["event_id"], redaction,
        "{event}"
    );
}

async fn profile_changes(meeting: &Meeting, alice_sees: &mut Watch, bob_sees: &mut Watch) {
    let named = |user: &str, name: &'static str| {
        let user = user.to_owned();
        move |event: &Value| {
            event["type"] == "m.room.member"
                && event["state_key"] == user.as_str()
                && event["content"]["displayname"] == name
        }
    };
    meeting.alice.set_display_name("Alice the First").await;
    let wanted = named(&meeting.alice.user_id, "Alice the First");
    bob_sees
        .until(&meeting.room, "alice's new name", wanted)
        .await;
    meeting.bob.set_display_name("Bob the Second").await;
    let wanted = named(&meeting.bob.user_id, "Bob the Second");
    alice_sees
        .until(&meeting.room, "bob's new name", wanted)
        .await;
    let new = format!("mxc://{}/face", meeting.joining.name());
    meeting.bob.set_profile("avatar_url", &new).await;
    let wanted = |event: &Value| event["content"]["avatar_url"] == new.as_str();
    alice_sees
        .until(&meeting.room, "bob's new face", wanted)
        .await;
    let (alice, bob) = (&meeting.alice, &meeting.bob);
    for (user, zone) in [(alice, "Europe/London"), (bob, "Europe/Berlin")] {
        user.set_profile("m.tz", zone).await;
    }
    assert_eq!(
        alice.profile(&bob.user_id).await,
        json!({ "displayname": "Bob the Second", "avatar_url": new, "m.tz": "Europe/Berlin" })
    );
    for (asker, asked, zone) in [(alice, bob, "Europe/Berlin"), (bob, alice, "Europe/London")] {
        let field = asker.profile_field(&asked.user_id, "m.tz").await;
        assert_eq!(field, json!({ "m.tz": zone }));
    }
    assert_eq!(
        bob.profile(&alice.user_id).await["displayname"],
        "Alice the First"
    );
    for (asker, asked, name) in [
        (alice, bob, "Bob the Second"),
        (bob, alice, "Alice the First"),
    ] {
        let field = asker.profile_field(&asked.user_id, "displayname").await;
        assert_eq!(field, json!({ "displayname": name }));
    }
}

async fn kicks_and_leaves(meeting: &Meeting, alice_sees: &mut Watch, bob_sees: &mut Watch) {
    let room = &meeting.room;
    let erin = meeting.joining.register("erin").await;
    let frank = meeting.joining.register("frank").await;
    erin.join(&meeting.alias).await;
    frank.join(&meeting.alias).await;
    alice_sees.until_member(room, &erin.user_id, "join").await;
    alice_sees.until_member(room, &frank.user_id, "join").await;

    meeting.alice.kick(room, &erin.user_id).await;
    bob_sees.until_member(room, &erin.user_id, "leave").await;
    let dave = &meeting.dave.user_id;
    meeting.bob.kick(room, dave).await;
    alice_sees.until_member(room, dave, "leave").await;

    // Bans of who is in the room, and of who is not.
    meeting.bob.ban(room, dave).await;
    alice_sees.until_member(room, dave, "ban").await;
    let grace = meeting.joining.register("grace").await;
    grace.join(&meeting.alias).await;
    alice_sees.until_member(room, &grace.user_id, "join").await;
    meeting.alice.ban(room, &grace.user_id).await;
    bob_sees.until_member(room, &grace.user_id, "ban").await;

    meeting.carol.leave(room).await;
    bob_sees
        .until_member(room, &meeting.carol.user_id, "leave")
        .await;
    frank.leave(room).await;
    alice_sees.until_member(room, &frank.user_id, "leave").await;
}

#[tokio::test]
async fn messages_state_redactions_profiles_kicks_and_leaves_v1() {
    everything_goes_both_ways(Kind::Synapse, Kind::Myelin, "1").await;
}

#[tokio::test]
async fn the_same_in_a_room_of_myelins_v1() {
    everything_goes_both_ways(Kind::Myelin, Kind::Synapse, "1").await;
}

#[tokio::test]
async fn messages_state_redactions_profiles_kicks_and_leaves_v2() {
    everything_goes_both_ways(Kind::Synapse, Kind::Myelin, "2").await;
}

#[tokio::test]
async fn the_same_in_a_room_of_myelins_v2() {
    everything_goes_both_ways(Kind::Myelin, Kind::Synapse, "2").await;
}

#[tokio::test]
async fn messages_state_redactions_profiles_kicks_and_leaves_v3() {
    everything_goes_both_ways(Kind::Synapse, Kind::Myelin, "3").await;
}

#[tokio::test]
async fn messages_state_redactions_profiles_kicks_and_leaves_v6() {
    everything_goes_both_ways(Kind::Synapse, Kind::Myelin, "6").await;
}

#[tokio::test]
async fn messages_state_redactions_profiles_kicks_and_leaves_v9() {
    everything_goes_both_ways(Kind::Synapse, Kind::Myelin, "9").await;
}

#[tokio::test]
async fn messages_state_redactions_profiles_kicks_and_leaves_v10() {
    everything_goes_both_ways(Kind::Synapse, Kind::Myelin, "10").await;
}

#[tokio::test]
async fn messages_state_redactions_profiles_kicks_and_leaves_v11() {
    everything_goes_both_ways(Kind::Synapse, Kind::Myelin, "11").await;
}

#[tokio::test]
async fn messages_state_redactions_profiles_kicks_and_leaves_v12() {
    everything_goes_both_ways(Kind::Synapse, Kind::Myelin, "12").await;
}

#[tokio::test]
async fn the_same_in_a_room_of_myelins_v6() {
    everything_goes_both_ways(Kind::Myelin, Kind::Synapse, "6").await;
}

#[tokio::test]
async fn the_same_in_a_room_of_myelins_v9() {
    everything_goes_both_ways(Kind::Myelin, Kind::Synapse, "9").await;
}

#[tokio::test]
async fn the_same_in_a_room_of_myelins_v10() {
    everything_goes_both_ways(Kind::Myelin, Kind::Synapse, "10").await;
}

#[tokio::test]
async fn the_same_in_a_room_of_myelins_v11() {
    everything_goes_both_ways(Kind::Myelin, Kind::Synapse, "11").await;
}

#[tokio::test]
async fn the_same_in_a_room_of_myelins_v12() {
    everything_goes_both_ways(Kind::Myelin, Kind::Synapse, "12").await;
}
