//! What was sent while the other side could not be reached arrives when it can.

use serde_json::Value;

use super::meeting::Meeting;
use crate::client::Client;
use crate::homeserver::Kind;

/// Sends numbered messages; answers their event IDs.
async fn say_many(client: &Client, room: &str, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    for number in 0..count {
        events.push(client.say(room, &format!("message {number}")).await);
    }
    events
}

/// Fails unless the user's history of the room holds the events, in order.
pub(super) async fn assert_in_history(client: &Client, room: &str, events: &[String]) {
    let found = |history: &[Value]| -> Vec<String> {
        let ids = history
            .iter()
            .rev()
            .filter_map(|event| event["event_id"].as_str());
        ids.filter(|id| events.iter().any(|event| event == id))
            .map(str::to_owned)
            .collect()
    };
    let history = client
        .history(room, |history| found(history).len() == events.len())
        .await;
    assert_eq!(
        found(&history),
        events,
        "what {} finds in the history",
        client.user_id
    );
}

/// The connection to one side is cut, the other side says 30 things; mended, all of them arrive.
///
/// A server that was not reached is not tried again for a while. It is when it speaks up: the
/// side that was cut off says something first.
async fn fill_a_gap(joining: Kind, room_version: &str) {
    let meeting = Meeting::hold(Kind::Synapse, joining, room_version).await;
    let room = &meeting.room;
    let (mut alice_sees, mut bob_sees) = (meeting.alice.watch(), meeting.bob.watch());
    meeting.talk(&mut alice_sees, &mut bob_sees).await;

    meeting.joining.proxy.cut();
    let missed = say_many(&meeting.alice, room, 30).await;
    meeting.joining.proxy.mend();
    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    assert_in_history(&meeting.bob, room, &missed).await;

    meeting.resident.proxy.cut();
    let missed = say_many(&meeting.bob, room, 30).await;
    meeting.resident.proxy.mend();
    let event = meeting.alice.say(room, "I am back").await;
    bob_sees.until_event(room, &event).await;
    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    assert_in_history(&meeting.alice, room, &missed).await;
    meeting.assert_agreement().await;
}

/// Each server in turn is killed, misses something, and is started again.
async fn catch_up_after_downtime(joining: Kind, room_version: &str) {
    let mut meeting = Meeting::hold(Kind::Synapse, joining, room_version).await;
    let room = meeting.room.clone();
    let (mut alice_sees, mut bob_sees) = (meeting.alice.watch(), meeting.bob.watch());
    meeting.talk(&mut alice_sees, &mut bob_sees).await;

    meeting.joining.kill();
    let missed = say_many(&meeting.alice, &room, 5).await;
    meeting.joining.run().await;
    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    assert_in_history(&meeting.bob, &room, &missed).await;

    meeting.resident.kill();
    let missed = say_many(&meeting.bob, &room, 5).await;
    meeting.resident.run().await;
    let event = meeting.alice.say(&room, "I am back").await;
    bob_sees.until_event(&room, &event).await;
    for event in &missed {
        alice_sees.until_event(&room, event).await;
    }
    meeting.assert_agreement().await;
}

#[tokio::test]
async fn a_gap_of_30_events_is_filled_on_both_sides_v10() {
    fill_a_gap(Kind::Myelin, "10").await;
}

#[tokio::test]
async fn a_gap_of_30_events_is_filled_on_both_sides_v11() {
    fill_a_gap(Kind::Myelin, "11").await;
}

#[tokio::test]
async fn a_gap_of_30_events_is_filled_on_both_sides_v12() {
    fill_a_gap(Kind::Myelin, "12").await;
}

#[tokio::test]
async fn a_server_that_was_down_gets_what_it_missed_v10() {
    catch_up_after_downtime(Kind::Myelin, "10").await;
}

#[tokio::test]
async fn a_server_that_was_down_gets_what_it_missed_v11() {
    catch_up_after_downtime(Kind::Myelin, "11").await;
}

#[tokio::test]
async fn a_server_that_was_down_gets_what_it_missed_v12() {
    catch_up_after_downtime(Kind::Myelin, "12").await;
}

/// Bob asks for events by time that were sent long before he came. His server has to ask.
async fn find_by_time(resident: Kind, joining: Kind) {
    let meeting = Meeting::prepare(resident, joining, "11").await;
    let room = &meeting.room;
    let early = say_many(&meeting.alice, room, 12).await;
    meeting.bob.join(&meeting.alias).await;
    meeting.bob.members(room).await;
    let times = async |number: usize| {
        let event = meeting.alice.event(room, &early[number]).await;
        event["origin_server_ts"].as_i64().unwrap()
    };
    let find = async |ts: i64, direction: &str| {
        let path =
            format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event?ts={ts}&dir={direction}");
        meeting.bob.get(&path).await["event_id"].clone()
    };
    let time = times(6).await;
    assert_eq!(find(time, "f").await, early[6]);
    assert_eq!(find(times(3).await, "b").await, early[3]);
    // He can read what was found, and all of the history.
    let event = meeting.bob.event(room, &early[6]).await;
    assert_eq!(event["origin_server_ts"], time);
    assert_in_history(&meeting.bob, room, &early).await;
}

#[tokio::test]
async fn an_event_that_myelin_lacks_is_found_by_time() {
    find_by_time(Kind::Synapse, Kind::Myelin).await;
}

#[tokio::test]
async fn an_event_that_the_reference_lacks_is_found_by_time() {
    find_by_time(Kind::Myelin, Kind::Synapse).await;
}
