//! Power cuts while 1,000 messages are sent to one room.

use std::sync::Arc;

use myelin_env::Random;
use serde_json::json;

use super::crowd::{Crowd, Sent, acknowledged, assert_kept, send_the_rest, timeline};
use crate::ca::Ca;
use crate::client::Client;
use crate::machine::{Machine, loss};

/// How many power cuts each test makes: 50 in all. The tests run side by side.
const MOMENTS: u64 = 10;

/// Sends until the power goes, after so many operations or when all is sent. Answers how many
/// operations there were.
async fn send_until_the_power_goes(
    machine: &Arc<Machine>,
    operations: Option<u64>,
) -> (Client, String, Vec<Sent>, u64) {
    let life = machine.start().await;
    let client = Client::register(life.address(), "alice").await;
    let room = client.create_room(json!({})).await;
    let before = machine.power.operations();
    if let Some(operations) = operations {
        machine.power.cut_after(operations);
    }
    let crowd = Crowd::new(&client, &room);
    let sending = async {
        let log = crowd.send(|| !machine.power.is_on()).await;
        let operations = machine.power.operations() - before;
        machine.power.cut();
        (log, operations)
    };
    let crash = async {
        machine.power.lost().await;
        life.end().await;
    };
    let ((log, operations), ()) = tokio::join!(sending, crash);
    (client, room, log, operations)
}

/// Cuts the power at random moments that follow from the seed.
async fn send_and_cut_the_power(seed: u64) {
    let ca = Ca::generate();
    let random = Random::seeded(seed);
    let mut whole = None;
    // The first time it goes when all is sent: that tells how much there is to be cut.
    for moment in 0..=MOMENTS {
        let machine = Arc::new(Machine::new("sends.test", &ca, None, loss(moment)).await);
        let operations = whole.map(|whole| random.below(whole));
        let (client, room, mut log, took) = send_until_the_power_goes(&machine, operations).await;
        whole.get_or_insert(took);
        let acknowledged = acknowledged(&log);
        eprintln!(
            "seed {seed}, moment {moment}: cut after {operations:?} of {whole:?}, acknowledged: {acknowledged}"
        );

        machine.power.restore();
        let life = machine.start().await;
        let client = client.at(life.address());
        // What was acknowledged is not tried again: it has to be there.
        send_the_rest(&client, &room, &mut log).await;
        let last = client.say(&room, "the room goes on").await;
        let timeline = timeline(&client, &room).await;
        assert_kept(&timeline, &log);
        assert_eq!(timeline.last().unwrap().0, last);
        assert_eq!(timeline.len(), log.len() + 1);
        life.stop().await;
        machine.assert_at_rest(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_1() {
    send_and_cut_the_power(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_2() {
    send_and_cut_the_power(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_3() {
    send_and_cut_the_power(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_4() {
    send_and_cut_the_power(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts_once_and_in_order_5() {
    send_and_cut_the_power(5).await;
}
