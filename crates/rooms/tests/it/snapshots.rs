//! Stored states: old ones stay right, and a change costs what the change costs.

use myelin_storage::{params, testing::on_each_engine};
use ruma::OwnedEventId;
use serde_json::json;

use crate::{
    house::House,
    story::{bob, state},
};

const CHANGES: usize = 3_000;

/// What a state costs beside its changes: numbers, the hash, flags.
const ROW_BYTES: i64 = 40;

/// Bytes of all stored states of all rooms, and how many there are.
async fn stored(house: &House) -> (i64, i64) {
    house
        .read(|tx| {
            Box::pin(async move {
                let sql = "SELECT CAST(COUNT(*) AS BIGINT), CAST(COALESCE(SUM(LENGTH(delta)), 0) AS BIGINT) FROM snapshots";
                let links = tx.query(sql, params![]).await?;
                let sql = "SELECT CAST(COALESCE(SUM(LENGTH(entries)), 0) AS BIGINT) FROM snapshot_chunks";
                let chunks = tx.query(sql, params![]).await?;
                let (count, deltas) = (links[0].int(0)?, links[0].int(1)?);
                Ok((deltas + chunks[0].int(0)? + count * ROW_BYTES, count))
            })
        })
        .await
}

#[tokio::test]
async fn after_many_changes_every_old_state_is_right_and_each_change_was_cheap() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let (bytes, count) = stored(&house).await;
        let words = (0..CHANGES).map(|n| {
            let key = format!("{}", n % 700);
            state(bob(), "org.example.thing", &key, json!({ "n": n }))
        });
        let ids: Vec<OwnedEventId> = story.chain(&tip, words);
        house.push_all(&story, bob(), &ids).await;
        let (bytes, count) = {
            let (bytes_now, count_now) = stored(&house).await;
            (bytes_now - bytes, count_now - count)
        };
        assert_eq!(count, CHANGES as i64);
        let each = bytes / CHANGES as i64;
        assert!(each <= 100, "{each} bytes per change");
        // From the database alone, in an order that no cache likes.
        let house = house.restart().await;
        let tip = house.current(&story.room_id).await;
        assert_eq!(tip, *story.after(&ids[CHANGES - 1]));
        for n in (0..CHANGES).map(|n| n * 1_009 % CHANGES).step_by(7) {
            let before = story.before(&story.pdu(&ids[n]).prev_events);
            assert_eq!(
                house.state_before(&story.room_id, &ids[n]).await,
                before,
                "{n}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_current_state_of_the_past_is_known_at_every_position() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let words =
            (0..10).map(|n| state(bob(), "m.room.topic", "", json!({"topic": n.to_string()})));
        let ids = story.chain(&tip, words);
        house.push_all(&story, bob(), &ids).await;
        let house = house.restart().await;
        let room = house.room(&story.room_id).await;
        for id in &ids {
            let event = house.event(&story.room_id, id).await.unwrap();
            let myelin_core::event::Place::Timeline { position, .. } = event.place else {
                panic!("{id} is an outlier");
            };
            let then = room
                .state_at(&house.rooms, position)
                .await
                .unwrap()
                .unwrap();
            assert_eq!(house.entries(&room, &then.state).await, *story.after(id));
        }
    })
    .await;
}
