//! PostgreSQL is killed in the middle of load and started again. The server goes on by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use myelin_storage::testing::{Loss, OwnPostgres};
use serde_json::json;

use super::crowd::{Crowd, acknowledged, assert_kept, send_the_rest, timeline};
use crate::ca::Ca;
use crate::client::Client;
use crate::machine::Machine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_killed_under_load_and_nothing_acknowledged_is_lost() {
    let Some(postgres) = OwnPostgres::start() else {
        return;
    };
    let ca = Ca::generate();
    let machine = Machine::new("postgres.test", &ca, None, Loss::Everything).await;
    let life = machine.with_database(&postgres.url).start().await;
    let client = Client::register(life.address(), "alice").await;
    let room = client.create_room(json!({})).await;

    let crowd = Crowd::new(&client, &room);
    let killed = AtomicBool::new(false);
    let kill = async {
        crowd.until_acknowledged(300).await;
        killed.store(true, Ordering::SeqCst);
        tokio::task::block_in_place(|| postgres.kill());
    };
    let (mut log, _) = tokio::join!(crowd.send(|| killed.load(Ordering::SeqCst)), kill);
    assert!((300..log.len()).contains(&acknowledged(&log)));
    let (status, answer) = client
        .call("GET", "/_matrix/client/v3/joined_rooms", None)
        .await;
    assert_eq!(
        (status, &answer["errcode"]),
        (503, &json!("M_UNKNOWN")),
        "{answer}"
    );

    tokio::task::block_in_place(|| postgres.start_again());
    let answer = client.sync("{}", None, Duration::ZERO).await;
    assert!(answer["rooms"]["join"][&room].is_object(), "{answer}");
    send_the_rest(&client, &room, &mut log).await;
    let last = client.say(&room, "the room goes on").await;
    let timeline = timeline(&client, &room).await;
    assert_kept(&timeline, &log);
    assert_eq!(timeline.last().unwrap().0, last);
    assert_eq!(timeline.len(), log.len() + 1);
    life.stop().await;
}
