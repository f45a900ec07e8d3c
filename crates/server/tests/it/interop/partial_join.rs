//! A join that lets the user in before the room's members are known.

use std::time::Duration;

use serde_json::Value;

use super::meeting::Meeting;
use crate::client::{EAGER, LAZY, PATIENCE};
use crate::homeserver::Kind;
use crate::proxy::{Hold, Proxy, Seen};

/// Holds what the resync asks for.
fn hold_state(proxy: &Proxy) -> Hold {
    proxy.hold(|seen: &Seen| seen.path.contains("/state_ids/") || seen.path.contains("/state/"))
}

/// Joins by alias while no state can be had; checks what bob may do meanwhile and afterwards.
async fn join_while_state_is_held(resident: Kind, joining: Kind, room_version: &str) {
    let meeting = Meeting::prepare(resident, joining, room_version).await;
    let hold = hold_state(&meeting.resident.proxy);
    assert_eq!(meeting.bob.join(&meeting.alias).await, meeting.room);
    let sent = meeting
        .resident
        .proxy
        .seen()
        .into_iter()
        .find(|seen| seen.path.contains("/send_join/"))
        .unwrap();
    assert_eq!(sent.method, "PUT");
    assert!(sent.path.contains("omit_members=true"), "{}", sent.path);

    let members = tokio::spawn({
        let (bob, room) = (meeting.bob.clone(), meeting.room.clone());
        async move { bob.members(&room).await }
    });
    hold.arrived().await;
    let eager_since = lazy_shows_and_eager_omits(&meeting).await;
    let (mut alice_sees, mut bob_sees) = (meeting.alice.watch(), meeting.bob.watch());
    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    meeting.bob.set_display_name("Bob in the dark").await;
    let renamed = |event: &Value| event["content"]["displayname"] == "Bob in the dark";
    alice_sees
        .until(&meeting.room, "bob's new name", renamed)
        .await;
    assert!(
        !members.is_finished(),
        "/members has to wait for the members"
    );

    let waiting = tokio::spawn(eager_sync_until_shown(
        meeting.bob.clone(),
        meeting.room.clone(),
        eager_since,
    ));
    hold.release();
    let members = tokio::time::timeout(PATIENCE, members)
        .await
        .expect("the resync ends")
        .unwrap();
    assert_eq!(members.len(), 4, "{members:?}");
    let shown = waiting.await.unwrap();
    assert_eq!(
        joined(&shown),
        4,
        "an eager sync shows the room whole: {shown}"
    );
    meeting.talk(&mut alice_sees, &mut bob_sees).await;
    meeting.assert_agreement().await;
}

/// How many joins one room's part of a sync holds.
fn joined(part: &Value) -> usize {
    let events = [&part["state"]["events"], &part["timeline"]["events"]];
    let members = events
        .into_iter()
        .flat_map(|events| events.as_array().into_iter().flatten());
    let mut users: Vec<&str> = members
        .filter(|event| event["content"]["membership"] == "join")
        .filter_map(|event| event["state_key"].as_str())
        .collect();
    users.sort_unstable();
    users.dedup();
    users.len()
}

/// Answers the token of the eager sync.
async fn lazy_shows_and_eager_omits(meeting: &Meeting) -> String {
    let lazy = meeting.bob.sync(LAZY, None, Duration::ZERO).await;
    let part = &lazy["rooms"]["join"][&meeting.room];
    assert!(
        part.is_object(),
        "a lazy sync shows the partial room: {lazy}"
    );
    assert!(
        part["state"]["events"]
            .as_array()
            .is_some_and(|events| !events.is_empty()),
        "{part}"
    );
    let eager = meeting.bob.sync(EAGER, None, Duration::ZERO).await;
    assert!(
        eager["rooms"]["join"][&meeting.room].is_null(),
        "an eager sync omits the partial room: {eager}"
    );
    eager["next_batch"].as_str().unwrap().to_owned()
}

/// Long polls until the room appears; answers its part of the sync.
async fn eager_sync_until_shown(
    bob: crate::client::Client,
    room: String,
    mut since: String,
) -> Value {
    let polling = async {
        loop {
            let answer = bob.sync(EAGER, Some(&since), Duration::from_secs(30)).await;
            let part = &answer["rooms"]["join"][&room];
            if part.is_object() {
                return part.clone();
            }
            answer["next_batch"]
                .as_str()
                .unwrap()
                .clone_into(&mut since);
        }
    };
    tokio::time::timeout(PATIENCE, polling)
        .await
        .expect("the room appears in eager syncs")
}

/// A crash in the middle of the resync, and of nothing else.
async fn crash_during_resync(resident: Kind, joining: Kind, room_version: &str) {
    let mut meeting = Meeting::prepare(resident, joining, room_version).await;
    let hold = hold_state(&meeting.resident.proxy);
    meeting.bob.join(&meeting.alias).await;
    let said = meeting.bob.say(&meeting.room, "before the crash").await;
    hold.arrived().await;
    meeting.joining.kill();
    meeting.joining.run().await;
    let eager = meeting.bob.sync(EAGER, None, Duration::ZERO).await;
    assert!(
        eager["rooms"]["join"][&meeting.room].is_null(),
        "the room is still partial: {eager}"
    );
    hold.release();
    assert_eq!(meeting.bob.members(&meeting.room).await.len(), 4);
    meeting
        .alice
        .watch()
        .until_event(&meeting.room, &said)
        .await;
    meeting.assert_agreement().await;
}

#[tokio::test]
async fn the_user_is_in_at_once_and_sees_all_later_v9() {
    join_while_state_is_held(Kind::Synapse, Kind::Myelin, "9").await;
}

#[tokio::test]
async fn the_user_is_in_at_once_and_sees_all_later_v10() {
    join_while_state_is_held(Kind::Synapse, Kind::Myelin, "10").await;
}

#[tokio::test]
async fn the_user_is_in_at_once_and_sees_all_later_v11() {
    join_while_state_is_held(Kind::Synapse, Kind::Myelin, "11").await;
}

#[tokio::test]
async fn the_user_is_in_at_once_and_sees_all_later_v12() {
    join_while_state_is_held(Kind::Synapse, Kind::Myelin, "12").await;
}

#[tokio::test]
async fn the_reference_passes_the_same_scenario() {
    join_while_state_is_held(Kind::Synapse, Kind::Synapse, "12").await;
}

#[tokio::test]
async fn a_resync_goes_on_after_a_crash() {
    crash_during_resync(Kind::Synapse, Kind::Myelin, "12").await;
}

#[tokio::test]
async fn a_user_of_the_reference_joins_a_room_of_myelins_in_the_same_way_v10() {
    join_while_state_is_held(Kind::Myelin, Kind::Synapse, "10").await;
}

#[tokio::test]
async fn a_user_of_the_reference_joins_a_room_of_myelins_in_the_same_way_v12() {
    join_while_state_is_held(Kind::Myelin, Kind::Synapse, "12").await;
}
