//! The network is cut, and servers are killed in the middle of it: both sides end equal.

use serde_json::json;

use super::delivery::assert_in_history;
use super::meeting::Meeting;
use crate::client::Client;
use crate::homeserver::Kind;

/// How many events each side misses of the other.
const MISSED: usize = 200;

/// Says numbered things and now and then renames the room; answers the IDs of what was said.
async fn carry_on(client: &Client, room: &str, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    for number in 0..count {
        let said = format!("{} says {number}", client.user_id);
        if number % 50 == 25 {
            let name = json!({ "name": said });
            client.set_state(room, "m.room.name", "", name).await;
        }
        events.push(client.say(room, &said).await);
    }
    events
}

/// Both sides go on without each other, each so long that the other can't be told all of it. When they meet
/// again, one after the other is killed while it is catching up.
async fn both_end_equal(room_version: &str) {
    let mut meeting = Meeting::hold(Kind::Synapse, Kind::Myelin, room_version).await;
    meeting.promote_bob().await;
    let room = meeting.room.clone();
    let (mut alice_sees, mut bob_sees) = (meeting.alice.watch(), meeting.bob.watch());
    meeting.talk(&mut alice_sees, &mut bob_sees).await;

    meeting.joining.proxy.cut();
    meeting.resident.proxy.cut();
    let (by_alice, _) = tokio::join!(
        carry_on(&meeting.alice, &room, MISSED),
        carry_on(&meeting.bob, &room, MISSED)
    );
    meeting.bob.kick(&room, &meeting.dave.user_id).await;
    meeting.dave.say(&room, "I am still here").await;
    meeting.joining.proxy.mend();
    meeting.resident.proxy.mend();

    // Whoever is killed has just got the other's first words, and not yet what came before them.
    let event = meeting.alice.say(&room, "are you there?").await;
    bob_sees.until_event(&room, &event).await;
    meeting.joining.kill();
    meeting.joining.run().await;
    let event = meeting.bob.say(&room, "I was gone").await;
    alice_sees.until_event(&room, &event).await;
    meeting.resident.kill();
    meeting.resident.run().await;
    let event = meeting.alice.say(&room, "so was I").await;
    bob_sees.until_event(&room, &event).await;

    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    // Between two Synapses, too, some of this gap stays empty in the histories of both.
    assert_in_history(&meeting.bob, &room, &by_alice).await;
    meeting.assert_agreement().await;
}

#[tokio::test]
async fn after_a_cut_of_200_events_on_both_sides_and_two_crashes_both_end_equal_v10() {
    both_end_equal("10").await;
}

#[tokio::test]
async fn after_a_cut_of_200_events_on_both_sides_and_two_crashes_both_end_equal_v12() {
    both_end_equal("12").await;
}
