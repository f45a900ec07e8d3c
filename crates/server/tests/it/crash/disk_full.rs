//! A disk that has no room left: below SQLite, and below PostgreSQL.

use myelin_storage::testing::Loss;
use serde_json::{Value, json};

use super::crowd::timeline;
use super::own_postgres::SmallDisk;
use crate::ca::Ca;
use crate::client::{Client, encode};
use crate::machine::Machine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_what_it_cannot_keep_until_there_is_room_again() {
    let ca = Ca::generate();
    let machine = Machine::new("full.test", &ca, None, Loss::Everything).await;
    let power = machine.power.clone();
    talk_until_full_and_on(
        &machine,
        || power.leave_room_for(300_000),
        || power.make_room(),
    )
    .await;
    machine.assert_at_rest(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_postgresql_refuses_likewise() {
    let Some(disk) = SmallDisk::start() else {
        return;
    };
    let ca = Ca::generate();
    let machine = Machine::new("full.test", &ca, None, Loss::Everything).await;
    talk_until_full_and_on(
        &machine.with_database(&disk.url()),
        || disk.leave_room_for(300_000),
        || disk.make_room(),
    )
    .await;
}

/// Sends to a server whose disk gets full, and sees that it refuses and goes on when there is room.
async fn talk_until_full_and_on(
    machine: &Machine,
    leave_little_room: impl FnOnce(),
    make_room: impl FnOnce(),
) {
    let life = machine.start().await;
    let client = Client::register(life.address(), "alice").await;
    let room = client.create_room(json!({})).await;

    leave_little_room();
    let mut kept = Vec::new();
    let full = (503, json!("M_UNKNOWN"));
    assert_eq!(talk_until_refused(&client, &room, &mut kept).await, full);
    // What is there can be read. A little more may find room where something was undone, and then no more.
    assert_eq!(timeline(&client, &room).await, kept);
    assert_eq!(talk_until_refused(&client, &room, &mut kept).await, full);

    make_room();
    let (status, answer) = send(&client, &room, kept.len()).await;
    assert_eq!(status, 200, "{answer}");
    let event = answer["event_id"].as_str().unwrap();
    kept.push((event.to_owned(), kept.len().to_string()));
    assert_eq!(timeline(&client, &room).await, kept);
    life.stop().await;
}

/// Sends one number after the other, from the first that is not kept on; answers what the refusal says.
async fn talk_until_refused(
    client: &Client,
    room: &str,
    kept: &mut Vec<(String, String)>,
) -> (u16, Value) {
    loop {
        let (status, answer) = send(client, room, kept.len()).await;
        match answer["event_id"].as_str() {
            Some(event) => kept.push((event.to_owned(), kept.len().to_string())),
            None => return (status, answer["errcode"].clone()),
        }
        assert!(kept.len() < 10_000, "the disk is never full");
    }
}

/// Sends a number as a message, and as its transaction's ID.
async fn send(client: &Client, room: &str, number: usize) -> (u16, Value) {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/send/m.room.message/{number}",
        encode(room)
    );
    let body = json!({ "msgtype": "m.text", "body": number.to_string() });
    client.call("PUT", &path, Some(body)).await
}
