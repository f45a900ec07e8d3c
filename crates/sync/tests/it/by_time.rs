//! Events found by time.

use std::time::Duration;

use myelin_rooms::Moment;
use myelin_storage::testing::{START_MS, on_each_engine};
use myelin_sync::{Asking, Direction, SyncError};
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::json;

use crate::house::{House, alice, bob, carol, viewer};

const FORWARD: Direction = Direction::Forward;
const BACKWARD: Direction = Direction::Backward;

/// The event found from so many seconds after the start on.
async fn find(
    house: &House,
    room: &RoomId,
    user: &UserId,
    (seconds, direction): (i64, Direction),
) -> Result<OwnedEventId, SyncError> {
    let moment = Moment {
        at_ms: START_MS as i64 + seconds * 1_000,
        direction,
    };
    let found = house
        .sync
        .event_at((&viewer(user), Asking::AsUser), room, moment)
        .await?;
    let event = house.rooms.room(room).await.unwrap().unwrap();
    let event = event.event_by_id(&house.rooms, &found.event_id).await;
    let event = event.unwrap().expect("it is held");
    assert_eq!(event.pdu.origin_server_ts, found.origin_server_ts);
    Ok(found.event_id)
}

fn wait(house: &House, seconds: u64) {
    house
        .rooms
        .env()
        .clock
        .advance(Duration::from_secs(seconds));
}

#[tokio::test]
async fn the_nearest_event_on_the_side_that_is_asked_for_is_found() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, other) = (house.room().await, house.room().await);
        wait(&house, 10);
        let first = house.say(&room, alice(), "first").await;
        wait(&house, 5);
        house.say(&other, alice(), "elsewhere").await;
        wait(&house, 5);
        let second = house.say(&room, alice(), "second").await;
        let found = async |moment| find(&house, &room, alice(), moment).await;
        for (at, direction, expected) in [
            (1, FORWARD, &first),
            (10, FORWARD, &first),
            (10, BACKWARD, &first),
            (11, FORWARD, &second),
            (19, BACKWARD, &first),
            (20, BACKWARD, &second),
            (99, BACKWARD, &second),
        ] {
            let found = found((at, direction)).await.unwrap();
            assert_eq!(&found, expected, "{at} {direction:?}");
        }
        for (at, direction, way) in [(21, FORWARD, "forward"), (-1, BACKWARD, "backward")] {
            let ms = START_MS as i64 + at * 1_000;
            let nothing = found((at, direction)).await.unwrap_err();
            assert!(matches!(nothing, SyncError::NotFound(_)), "{nothing:?}");
            let expected = format!("Unable to find event from {ms} in {way} direction");
            assert_eq!(nothing.to_string(), expected);
        }
        // Before everything there is the room's beginning.
        let create = found((-5, FORWARD)).await.unwrap();
        let create = house.sync.event(&viewer(alice()), &room, &create).await;
        assert!(create.unwrap().get().contains("m.room.create"));
        let stranger = find(&house, &room, carol(), (1, FORWARD)).await;
        assert!(
            matches!(stranger, Err(SyncError::Forbidden(_))),
            "{stranger:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn what_a_user_may_not_see_is_passed_over() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let closed = json!({"history_visibility": "joined"});
        let kind = "m.room.history_visibility";
        house.send(&room, alice(), kind, Some(""), closed).await;
        // More than are read together.
        for n in 0..120 {
            wait(&house, 1);
            house.say(&room, alice(), &n.to_string()).await;
        }
        house.join(&room, bob()).await;
        wait(&house, 10);
        let seen = house.say(&room, alice(), "seen").await;
        wait(&house, 10);
        house.leave(&room, bob()).await;
        wait(&house, 10);
        house.say(&room, alice(), "after bob").await;
        let found = find(&house, &room, bob(), (1, FORWARD)).await.unwrap();
        let found = house.sync.event(&viewer(bob()), &room, &found).await;
        assert!(found.unwrap().get().contains("m.room.member"));
        assert_eq!(
            find(&house, &room, bob(), (135, BACKWARD)).await.unwrap(),
            seen
        );
        let late = find(&house, &room, bob(), (145, FORWARD)).await;
        assert!(matches!(late, Err(SyncError::NotFound(_))), "{late:?}");
    })
    .await;
}
