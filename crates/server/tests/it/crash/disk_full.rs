//! A disk that has no room left.

use myelin_storage::testing::Loss;
use serde_json::json;

use super::crowd::timeline;
use crate::ca::Ca;
use crate::client::{Client, encode};
use crate::machine::Machine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_it_cannot_keep_until_there_is_room_again() {
    let ca = Ca::generate();
    let machine = Machine::new("full.test", &ca, None, Loss::Everything).await;
    let life = machine.start().await;
    let client = Client::register(life.address(), "alice").await;
    let room = client.create_room(json!({})).await;
    let room_path = format!("/_matrix/client/v3/rooms/{}", encode(&room));
    let send = async |number: usize| {
        let path = format!("{room_path}/send/m.room.message/{number}");
        let body = json!({ "msgtype": "m.text", "body": number.to_string() });
        client.call("PUT", &path, Some(body)).await
    };

    machine.power.leave_room_for(300_000);
    let mut kept = Vec::new();
    let refusal = loop {
        let (status, answer) = send(kept.len()).await;
        match answer["event_id"].as_str() {
            Some(event) => kept.push((event.to_owned(), kept.len().to_string())),
            None => break (status, answer["errcode"].clone()),
        }
        assert!(kept.len() < 10_000, "the disk is never full");
    };
    assert_eq!(refusal, (503, json!("M_UNKNOWN")));
    // What is there can be read, and what cannot be kept is refused as often as it is tried.
    assert_eq!(timeline(&client, &room).await, kept);
    assert_eq!(send(kept.len()).await.0, 503);

    machine.power.make_room();
    let (status, answer) = send(kept.len()).await;
    assert_eq!(status, 200, "{answer}");
    let event = answer["event_id"].as_str().unwrap();
    kept.push((event.to_owned(), kept.len().to_string()));
    assert_eq!(timeline(&client, &room).await, kept);
    life.stop().await;
    machine.assert_at_rest(&[]).await;
}
