//! The tree of a space whose rooms other servers would have to describe.

use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use serde_json::json;

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::client::encode;
use crate::resident::{Conduct, Resident};

/// How long other servers may take for one request.
const PATIENCE: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_secs(5);

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
    let (tree, waited) = newcomer.wait(STEP, newcomer.client.get(&path)).await;
    assert_eq!(tree["rooms"].as_array().unwrap().len(), 1, "{tree}");
    assert_eq!(tree["rooms"][0]["room_id"], space);
    assert!(!resident.asked(newcomer.name(), "hierarchy").is_empty());
    assert!(waited <= PATIENCE + STEP, "{waited:?}");
    newcomer.stop().await;
}
