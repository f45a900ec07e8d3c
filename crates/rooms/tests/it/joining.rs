//! Joins through servers that don't answer.

use std::time::Duration;

use myelin_rooms::RoomError;
use myelin_storage::{
    joins::{self, JoinRecord},
    testing::on_each_engine,
};
use ruma::room_id;
use serde_json::Map;

use crate::{
    house::{House, alice, until},
    story::bob,
};

async fn records(house: &House) -> usize {
    house.read(|tx| Box::pin(joins::joins(tx))).await.len()
}

#[tokio::test]
async fn a_join_that_was_never_sent_leaves_nothing_behind() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = room_id!("!elsewhere:127.0.0.1:1");
        let join = house
            .rooms
            .join(alice(), room_id.into(), Vec::new(), Map::new());
        let refused = join.await;
        assert!(
            matches!(refused, Err(RoomError::NoServer(_))),
            "{refused:?}"
        );
        assert_eq!(records(&house).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_join_that_may_have_succeeded_is_repaired_however_long_ago_it_was() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let record = JoinRecord {
            room_id: room_id!("!elsewhere:127.0.0.1:1").to_owned(),
            user_id: alice().to_owned(),
            candidates: vec![bob().server_name().to_owned()],
            content: "{}".to_owned(),
            started_ms: 0,
        };
        house
            .write(move |tx| Box::pin(async move { joins::put_join(tx, &record).await }))
            .await;
        let house = house.restart().await;
        let tasks = &house.fresh.env.tasks;
        let is_waiting = || {
            let running = tasks.running();
            running.contains(&"repair a join") && !running.contains(&"join a room")
        };
        // Nobody is there, now and later.
        for _ in 0..3 {
            until(async || is_waiting()).await;
            assert!(house.was_asked(bob().server_name()).await);
            assert_eq!(records(&house).await, 1);
            house
                .fresh
                .env
                .clock
                .advance(Duration::from_secs(4 * 3_600));
            until(async || tasks.running().contains(&"join a room")).await;
        }
    })
    .await;
}
