//! Pages of history.

use myelin_storage::testing::on_each_engine;
use myelin_sync::{Direction, MessagesRequest, RoomEventFilter, SyncError};
use ruma::{RoomId, UserId, room_id};
use serde_json::{Value, json};

use crate::house::{House, alice, bob, carol, joined, messages_request, said};

/// Reads page after page, and returns the events of each.
async fn pages(
    house: &House,
    room_id: &RoomId,
    user: &UserId,
    direction: Direction,
) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut from: Option<String> = None;
    loop {
        let page = house
            .messages(room_id, user, direction, from.as_deref())
            .await
            .unwrap();
        let chunk = serde_json::to_value(&page.chunk).unwrap();
        pages.push(said(&chunk));
        match page.end {
            None => return pages,
            end => from = end,
        }
        assert!(pages.len() < 50, "no end: {pages:?}");
    }
}

#[tokio::test]
async fn both_directions_read_every_event_once() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for number in 0..7 {
            house.say(&room, alice(), &format!("m{number}")).await;
        }
        let back = pages(&house, &room, alice(), Direction::Backward).await;
        assert!(back.iter().all(|page| page.len() <= 4), "{back:?}");
        assert_eq!(back[0], ["m6", "m5", "m4", "m3"]);
        let mut back: Vec<String> = back.concat();
        assert_eq!(back.last().unwrap(), "m.room.create");
        back.reverse();
        let forth = pages(&house, &room, alice(), Direction::Forward).await;
        assert_eq!(forth.concat(), back);
    })
    .await;
}

#[tokio::test]
async fn a_page_can_be_left_the_way_one_came() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for number in 0..9 {
            house.say(&room, alice(), &format!("m{number}")).await;
        }
        let back = house
            .messages(&room, alice(), Direction::Backward, None)
            .await
            .unwrap();
        let from = back.end.unwrap();
        let forth = house
            .messages(&room, alice(), Direction::Forward, Some(&from))
            .await
            .unwrap();
        let forth = said(&serde_json::to_value(&forth.chunk).unwrap());
        assert_eq!(forth, ["m5", "m6", "m7", "m8"]);
    })
    .await;
}

#[tokio::test]
async fn a_page_begins_where_a_sync_ended_or_began() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for number in 0..12 {
            house.say(&room, alice(), &format!("m{number}")).await;
        }
        let sync = house.first_sync(alice()).await;
        house.say(&room, alice(), "later").await;
        let read = async |direction, token: &Value| {
            let token = token.as_str().unwrap();
            let page = house
                .messages(&room, alice(), direction, Some(token))
                .await
                .unwrap();
            assert_eq!(page.start, token);
            said(&serde_json::to_value(&page.chunk).unwrap())
        };
        let (next, prev) = (
            &sync["next_batch"],
            &joined(&sync, &room)["timeline"]["prev_batch"],
        );
        assert_eq!(
            read(Direction::Backward, next).await,
            ["m11", "m10", "m9", "m8"]
        );
        assert_eq!(read(Direction::Forward, next).await, ["later"]);
        assert_eq!(read(Direction::Backward, prev).await[..2], ["m1", "m0"]);
        assert_eq!(
            read(Direction::Forward, prev).await,
            ["m2", "m3", "m4", "m5"]
        );
    })
    .await;
}

#[tokio::test]
async fn a_page_stops_at_another_token_and_obeys_its_filter() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.say(&room, alice(), "a1").await;
        let sync = house.first_sync(alice()).await;
        house.say(&room, bob(), "b1").await;
        house.say(&room, alice(), "a2").await;
        let all = messages_request(&room, alice(), Direction::Backward, None);
        let to = sync["next_batch"].as_str().map(str::to_owned);
        let page = house
            .sync
            .messages(&MessagesRequest { to, ..all.clone() })
            .await
            .unwrap();
        assert_eq!(
            said(&serde_json::to_value(&page.chunk).unwrap()),
            ["a2", "b1"]
        );
        assert_eq!(page.end, None);
        let filter = r#"{"types": ["m.room.message"], "not_senders": ["@bob:x.example"]}"#;
        let filter = RoomEventFilter::parse(filter).unwrap();
        let page = house
            .sync
            .messages(&MessagesRequest { filter, ..all })
            .await
            .unwrap();
        assert_eq!(
            said(&serde_json::to_value(&page.chunk).unwrap()),
            ["a2", "a1"]
        );
    })
    .await;
}

#[tokio::test]
async fn who_left_reads_until_then_and_strangers_read_nothing() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.say(&room, alice(), "before").await;
        house.leave(&room, bob()).await;
        house.say(&room, alice(), "after").await;
        let back = pages(&house, &room, bob(), Direction::Backward)
            .await
            .concat();
        assert_eq!(
            back[..3],
            ["@bob:x.example leave", "before", "@bob:x.example join"]
        );
        assert_eq!(back.last().unwrap(), "m.room.create", "shared history");
        let stranger = house
            .messages(&room, carol(), Direction::Backward, None)
            .await;
        assert!(
            matches!(stranger, Err(SyncError::Forbidden(_))),
            "{stranger:?}"
        );
        let nowhere = room_id!("!none:x.example");
        let unknown = house
            .messages(nowhere, alice(), Direction::Backward, None)
            .await;
        assert!(
            matches!(unknown, Err(SyncError::Forbidden(_))),
            "{unknown:?}"
        );
        let visible = json!({"history_visibility": "world_readable"});
        house
            .send(
                &room,
                alice(),
                "m.room.history_visibility",
                Some(""),
                visible,
            )
            .await;
        house.say(&room, alice(), "to the world").await;
        let open = pages(&house, &room, carol(), Direction::Backward)
            .await
            .concat();
        assert_eq!(open, ["to the world", "m.room.history_visibility"]);
    })
    .await;
}

#[tokio::test]
async fn history_from_before_a_join_may_be_closed() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let closed = json!({"history_visibility": "joined"});
        house
            .send(
                &room,
                alice(),
                "m.room.history_visibility",
                Some(""),
                closed,
            )
            .await;
        house.say(&room, alice(), "secret").await;
        house.join(&room, bob()).await;
        house.say(&room, alice(), "open").await;
        let back = pages(&house, &room, bob(), Direction::Backward)
            .await
            .concat();
        assert_eq!(back[..2], ["open", "@bob:x.example join"]);
        assert!(!back.contains(&"secret".to_owned()), "{back:?}");
    })
    .await;
}

#[tokio::test]
async fn a_token_that_was_not_given_out_is_refused() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for token in ["", "x", "s1_", "t1_1"] {
            let page = house
                .messages(&room, alice(), Direction::Backward, Some(token))
                .await;
            assert!(
                matches!(page, Err(SyncError::InvalidParam(_))),
                "{token:?}: {page:?}"
            );
        }
    })
    .await;
}
