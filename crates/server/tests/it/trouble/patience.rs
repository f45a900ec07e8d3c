//! What several silent servers have to do with waits for all of them together, and nothing else waits
//! for them.

use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use serde_json::json;

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::client::encode;
use crate::resident::{Conduct, NAMES, Reach, Resident};

/// How long other servers may take to describe the rooms of a tree.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long they may take to resolve aliases.
const LONGEST_CHECK: Duration = Duration::from_secs(30);
/// After this time a server that takes no connection is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// More than are sent to at the same time.
const SILENT: usize = 700;

#[tokio::test]
async fn a_tree_waits_for_silent_servers_once_and_not_for_each_room() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 10).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    let wish = json!({ "preset": "public_chat", "creation_content": { "type": "m.space" } });
    let space = newcomer.client.create_room(wish).await;
    for number in 0..4 {
        let child = format!("!child{number}:{}", resident.names(number));
        let content = json!({ "via": [resident.names(number)] });
        let client = &newcomer.client;
        client
            .set_state(&space, "m.space.child", &child, content)
            .await;
    }
    resident.misbehave(None, "hierarchy", Conduct::Silence);
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", encode(&space));
    let (tree, waited) = newcomer.wait(newcomer.client.get(&path)).await;
    assert_eq!(tree["rooms"].as_array().unwrap().len(), 1, "{tree}");
    assert_eq!(tree["rooms"][0]["room_id"], space);
    assert!(!resident.asked(newcomer.name(), "hierarchy").is_empty());
    assert!(waited <= PATIENCE, "{waited:?}");
    newcomer.stop().await;
}

#[tokio::test]
async fn a_room_that_announces_aliases_of_silent_servers_is_refused_in_bounded_time() {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 10).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    let room = newcomer.client.create_room(json!({})).await;
    resident.misbehave(None, "query", Conduct::Silence);
    let aliases: Vec<String> = (0..40)
        .map(|number| format!("#alias{number}:{}", resident.names(number % NAMES)))
        .collect();
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.canonical_alias",
        encode(&room)
    );
    let announced = Some(json!({ "alt_aliases": aliases }));
    let sent = newcomer.client.call("PUT", &path, announced);
    let ((status, answer), waited) = newcomer.wait(sent).await;
    assert_eq!((status, &answer["errcode"]), (400, &json!("M_BAD_ALIAS")));
    assert!(!resident.asked(newcomer.name(), "query").is_empty());
    assert!(waited <= LONGEST_CHECK, "{waited:?}");
    newcomer.stop().await;
}

#[tokio::test]
async fn a_message_reaches_the_living_servers_of_a_room_before_its_many_silent_ones_are_given_up() {
    let ca = Ca::generate();
    let reach = |number| match number < NAMES {
        true => Reach::Served,
        false => Reach::Silent,
    };
    let names: Vec<Reach> = (0..NAMES + SILENT).map(reach).collect();
    let resident = Resident::start_under(&ca, RoomVersion::V11, names.len(), &names).await;
    let newcomer = Newcomer::start(&resident, &ca, "newcomer.test").await;
    newcomer.join().await;
    let room = resident.room_id().as_str();
    // The silent servers are asked for their keys, too.
    let known = newcomer.client.until_members(room, names.len() + 1);
    newcomer.wait(known).await;
    newcomer.client.say(room, "to everybody").await;
    let told = resident.until_told(newcomer.name(), "to everybody", NAMES);
    let ((), waited) = newcomer.wait(told).await;
    assert!(waited < CONNECT_TIMEOUT, "{waited:?}");
    newcomer.stop().await;
}
