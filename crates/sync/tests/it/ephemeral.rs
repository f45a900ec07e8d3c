//! Who types and who has read, as `/sync` shows it.

use std::time::Duration;

use myelin_core::number::StreamPosition;
use myelin_rooms::{Mark, ReceiptType};
use myelin_storage::testing::on_each_engine;
use ruma::{EventId, RoomId, UserId};
use serde_json::{Value, json};

use crate::{
    house::{House, alice, bob, carol, filtered, joined, request, since},
    waiting::{begin, patient},
};

const SECOND: Duration = Duration::from_secs(1);

impl House {
    async fn types(&self, room: &RoomId, user: &UserId, seconds: u32) {
        let lasts = (seconds > 0).then_some(SECOND * seconds);
        self.rooms.set_typing(room, user, lasts).await.unwrap();
    }

    pub(crate) async fn reads(
        &self,
        room: &RoomId,
        user: &UserId,
        (receipt_type, event, thread): (ReceiptType, &EventId, Option<&str>),
    ) {
        let mark = Mark {
            receipt_type,
            event_id: event.to_owned(),
            thread: thread.map(str::to_owned),
        };
        self.rooms.mark_read(room, user, vec![mark]).await.unwrap();
    }
}

fn ephemeral<'a>(answer: &'a Value, room: &RoomId) -> &'a Value {
    &joined(answer, room)["ephemeral"]["events"]
}

fn typing(users: &[&UserId]) -> Value {
    json!([{ "type": "m.typing", "content": { "user_ids": users } }])
}

#[tokio::test]
async fn a_waiting_sync_wakes_when_somebody_begins_and_ceases_to_type() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, other) = (house.room().await, house.room().await);
        house.join(&room, bob()).await;
        let first = house.first_sync(bob()).await;
        assert_eq!(ephemeral(&first, &room), &json!([]));
        let sync = begin(&house, patient(&first, bob())).await;
        // Bob is not in this one.
        house.types(&other, alice(), 20).await;
        house.types(&room, alice(), 20).await;
        let second = sync.await.unwrap();
        assert_eq!(ephemeral(&second, &room), &typing(&[alice()]));
        assert_eq!(joined(&second, &other), &Value::Null);
        // Somebody new to the room sees it as well.
        let newcomer = house.first_sync(bob()).await;
        assert_eq!(ephemeral(&newcomer, &room), &typing(&[alice()]));
        // To say it again is no news.
        house.types(&room, alice(), 20).await;
        let third = house.next_sync(bob(), &second).await;
        assert_eq!(joined(&third, &room), &Value::Null);
        let sync = begin(&house, patient(&third, bob())).await;
        house.types(&room, alice(), 0).await;
        let fourth = sync.await.unwrap();
        assert_eq!(ephemeral(&fourth, &room), &typing(&[]));
    })
    .await;
}

#[tokio::test]
async fn a_waiting_sync_wakes_when_the_time_of_somebody_who_types_is_up() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.types(&room, alice(), 20).await;
        let first = house.first_sync(alice()).await;
        assert_eq!(ephemeral(&first, &room), &typing(&[alice()]));
        let sync = begin(&house, patient(&first, alice())).await;
        let clock = &house.fresh.env.clock;
        let types = || {
            let ever = (StreamPosition(0), StreamPosition(i64::MAX));
            let typing = house.rooms.typing_between(&room, ever);
            typing.is_some_and(|users| !users.is_empty())
        };
        let begun = clock.now_ms();
        while types() {
            clock.advance(SECOND);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        let lasted = clock.now_ms() - begun;
        assert!((20_000..23_000).contains(&lasted), "{lasted}");
        let second = sync.await.unwrap();
        assert_eq!(ephemeral(&second, &room), &typing(&[]));
    })
    .await;
}

#[tokio::test]
async fn receipts_are_shown_to_all_in_the_room_but_private_ones_to_their_user_only() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let event = house.say(&room, alice(), "one").await;
        let event = event.as_str();
        let before = house.first_sync(alice()).await;
        let id = <&EventId>::try_from(event).unwrap();
        let sync = begin(&house, patient(&before, alice())).await;
        house
            .reads(&room, bob(), (ReceiptType::Read, id, Some("main")))
            .await;
        let now = house.fresh.env.clock.now_ms();
        let receipt = json!({ "ts": now, "thread_id": "main" });
        let shown = |content: Value| json!([{ "type": "m.receipt", "content": content }]);
        let of_bob = shown(json!({ event: { "m.read": { bob().as_str(): receipt } } }));
        let second = sync.await.unwrap();
        assert_eq!(ephemeral(&second, &room), &of_bob);
        house
            .reads(&room, bob(), (ReceiptType::PrivateRead, id, None))
            .await;
        house
            .reads(&room, bob(), (ReceiptType::FullyRead, id, None))
            .await;
        let third = house.next_sync(alice(), &second).await;
        assert_eq!(joined(&third, &room), &Value::Null);
        // All there is, to somebody who knows nothing yet.
        let of_alice = house.first_sync(alice()).await;
        assert_eq!(ephemeral(&of_alice, &room), &of_bob);
        assert_eq!(
            joined(&of_alice, &room)["account_data"]["events"],
            json!([])
        );
        let first = house.first_sync(bob()).await;
        let receipts = &ephemeral(&first, &room)[0]["content"][event];
        assert_eq!(receipts["m.read"][bob().as_str()], receipt);
        assert_eq!(
            receipts["m.read.private"][bob().as_str()],
            json!({ "ts": now })
        );
        let marker = json!([{ "type": "m.fully_read", "content": { "event_id": event } }]);
        assert_eq!(joined(&first, &room)["account_data"]["events"], marker);
    })
    .await;
}

#[tokio::test]
async fn a_filter_keeps_out_what_is_beside_events() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let event = house.say(&room, alice(), "one").await;
        house.types(&room, alice(), 20).await;
        for receipt_type in [ReceiptType::Read, ReceiptType::FullyRead] {
            house
                .reads(&room, alice(), (receipt_type, &event, None))
                .await;
        }
        let filter = json!({ "room": {
            "ephemeral": { "not_types": ["m.typing"] }, "account_data": { "types": [] },
        }});
        let answer = house.synced(&filtered(request(alice()), &filter)).await;
        assert_eq!(ephemeral(&answer, &room).as_array().unwrap().len(), 1);
        assert_eq!(ephemeral(&answer, &room)[0]["type"], "m.receipt");
        assert_eq!(joined(&answer, &room)["account_data"]["events"], json!([]));
        let filter = json!({ "room": { "ephemeral": { "not_rooms": [room] } } });
        let answer = house.synced(&filtered(request(alice()), &filter)).await;
        assert_eq!(ephemeral(&answer, &room), &json!([]));
        assert_eq!(
            joined(&answer, &room)["account_data"]["events"][0]["type"],
            "m.fully_read"
        );
    })
    .await;
}

#[tokio::test]
async fn who_comes_into_a_room_is_shown_who_has_read_there() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let event = house.say(&room, alice(), "one").await;
        house
            .reads(&room, alice(), (ReceiptType::Read, &event, None))
            .await;
        let first = house.first_sync(carol()).await;
        house.join(&room, carol()).await;
        let second = house.synced(&since(request(carol()), &first)).await;
        let content = &ephemeral(&second, &room)[0]["content"];
        assert!(
            content[event.as_str()]["m.read"][alice().as_str()].is_object(),
            "{second}"
        );
    })
    .await;
}
