//! EDUs of other servers about rooms (R45, R149).

use std::time::Duration;

use myelin_core::number::StreamPosition;
use myelin_federation::Edu;
use myelin_storage::{outbox, receipts, testing::on_each_engine};
use ruma::{EventId, OwnedUserId, RoomId, ServerName, UserId, room_id, user_id};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    house::{House, alice, until},
    story::{bob, carol, foreign_servers},
};

/// In how many threads of a room is noted what a user of another server has read.
const MOST_THREADS: usize = 200;

impl House {
    pub(crate) async fn receive(&self, origin: &ServerName, edu_type: &str, content: &Value) {
        let edu = Edu {
            edu_type: edu_type.to_owned(),
            content: to_raw_value(content).unwrap(),
        };
        self.rooms.receive_edu(origin, &edu).await.unwrap();
    }

    async fn types(&self, origin: &ServerName, room_id: &RoomId, user: &UserId) {
        let content = json!({ "room_id": room_id, "user_id": user, "typing": true });
        self.receive(origin, "m.typing", &content).await;
    }

    fn typing(&self, room_id: &RoomId) -> Vec<OwnedUserId> {
        let ever = (StreamPosition(0), StreamPosition(i64::MAX));
        let typing = self.rooms.typing_between(room_id, ever);
        typing.unwrap_or_default()
    }

    /// Who has read what, and in which thread.
    async fn read_in(&self, room_id: &RoomId) -> Vec<(String, String, Option<String>)> {
        let room = self.room(room_id).await.key.room;
        let all = (StreamPosition(0), StreamPosition(i64::MAX));
        let found = self
            .read(move |tx| {
                Box::pin(async move { receipts::of_room(tx, room, alice(), all, 100).await })
            })
            .await;
        let mut found: Vec<_> = found
            .into_iter()
            .map(|found| {
                (
                    found.user_id.to_string(),
                    found.event_id.to_string(),
                    found.thread,
                )
            })
            .collect();
        found.sort();
        found
    }
}

fn receipt(event: &EventId, thread: Option<&str>) -> Value {
    let mut receipt = json!({ "data": { "ts": 5 }, "event_ids": [event] });
    if let Some(thread) = thread {
        receipt["data"]["thread_id"] = json!(thread);
    }
    receipt
}

#[tokio::test]
async fn only_a_users_own_server_says_that_they_type_and_only_in_its_rooms() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        let closed = house.create("11").await;
        let room_id = &story.room_id;
        let stranger = user_id!("@stranger:127.0.0.1:1");
        house.types(carol().server_name(), room_id, bob()).await;
        house.types(bob().server_name(), room_id, stranger).await;
        house.types(bob().server_name(), &closed, bob()).await;
        house
            .types(bob().server_name(), room_id!("!no:x.example"), bob())
            .await;
        house
            .receive(bob().server_name(), "m.typing", &json!({}))
            .await;
        assert!(house.typing(room_id).is_empty());
        assert!(house.typing(&closed).is_empty());
        house.types(bob().server_name(), room_id, bob()).await;
        assert_eq!(house.typing(room_id), [bob()]);
        let content = json!({ "room_id": room_id, "user_id": bob(), "typing": false });
        house
            .receive(bob().server_name(), "m.typing", &content)
            .await;
        assert!(house.typing(room_id).is_empty());
    })
    .await;
}

#[tokio::test]
async fn receipts_of_other_servers_are_kept_threads_and_all() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, tip) = house.shared_room().await;
        let closed = house.create("11").await;
        let unknown = <&EventId>::try_from("$has-not-come-yet").unwrap();
        let content = |receipt: Value| {
            json!({
                &story.room_id: {
                    "m.read": { bob().as_str(): receipt, carol().as_str(): receipt, "x": {} },
                    "m.read.private": { bob().as_str(): receipt },
                },
                closed.as_str(): { "m.read": { bob().as_str(): receipt } },
                "!unknown:x.example": { "m.read": { bob().as_str(): receipt } },
            })
        };
        let server = bob().server_name();
        for receipt in [
            receipt(&tip, None),
            receipt(unknown, Some("main")),
            json!({ "data": { "ts": -1 }, "event_ids": ["$wrong"] }),
            json!({ "data": { "ts": 5 }, "event_ids": [] }),
            receipt(&tip, Some("")),
        ] {
            house.receive(server, "m.receipt", &content(receipt)).await;
        }
        house.receive(server, "m.receipt", &json!([])).await;
        // Carol's server says what she has read, nobody else's does.
        let bob = bob().to_string();
        let main = Some("main".to_owned());
        let expected = [
            (bob.clone(), unknown.to_string(), main),
            (bob, tip.to_string(), None),
        ];
        assert_eq!(house.read_in(&story.room_id).await, expected);
        assert!(house.read_in(&closed).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn of_a_flood_of_receipts_is_kept_what_members_read_last() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, tip) = house.shared_room().await;
        let server = bob().server_name();
        let receive = async |user: &str, thread: Option<&str>| {
            let receipts = json!({ user: receipt(&tip, thread) });
            let content = json!({ &story.room_id: { "m.read": receipts } });
            house.receive(server, "m.receipt", &content).await;
        };
        receive(bob().as_str(), None).await;
        for number in 0..MOST_THREADS + 25 {
            let thread = format!("$thread{number}");
            receive(bob().as_str(), Some(&thread)).await;
            receive(&format!("@stranger{number}:{server}"), Some(&thread)).await;
        }
        let room = house.room(&story.room_id).await.key.room;
        let all = (StreamPosition(0), StreamPosition(i64::MAX));
        let kept = house
            .read(move |tx| {
                Box::pin(async move { receipts::of_room(tx, room, alice(), all, 10_000).await })
            })
            .await;
        assert!(kept.iter().all(|kept| kept.user_id == bob()), "{kept:?}");
        let threads = kept.iter().filter_map(|kept| kept.thread.clone());
        let newest_first: Vec<_> = (25..MOST_THREADS + 25)
            .rev()
            .map(|number| format!("$thread{number}"))
            .collect();
        assert_eq!(threads.collect::<Vec<_>>(), newest_first);
        assert_eq!(kept.len(), MOST_THREADS + 1);
    })
    .await;
}

#[tokio::test]
async fn typing_and_receipts_of_a_server_that_the_acl_keeps_out_change_nothing() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, tip) = house.shared_room().await;
        let (open, other) = house.shared_room().await;
        let acl = json!({ "allow": ["*"], "deny": ["127.0.0.1"] });
        let sent = house.send(&story.room_id, alice(), "m.room.server_acl", Some(""), acl);
        sent.await.unwrap();
        let server = bob().server_name();
        house.types(server, &story.room_id, bob()).await;
        house.types(server, &open.room_id, bob()).await;
        let read = |event: &EventId| json!({ "m.read": { bob().as_str(): receipt(event, None) } });
        let content = json!({ &story.room_id: read(&tip), &open.room_id: read(&other) });
        house.receive(server, "m.receipt", &content).await;
        assert!(house.typing(&story.room_id).is_empty());
        assert!(house.read_in(&story.room_id).await.is_empty());
        // Others are not affected, in the same EDU or elsewhere.
        assert_eq!(house.typing(&open.room_id), [bob()]);
        assert_eq!(house.read_in(&open.room_id).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_edu_that_may_be_lost_costs_nothing_where_nobody_is() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        let types = async |lasts: Option<Duration>| {
            let set = house.rooms.set_typing(&story.room_id, alice(), lasts);
            set.await.unwrap();
            let tasks = &house.fresh.env.tasks;
            until(async || !tasks.running().contains(&"send to a server")).await;
        };
        types(Some(Duration::from_secs(20))).await;
        for server in foreign_servers() {
            assert!(house.was_asked(server).await, "{server}");
        }
        // They are left alone by now.
        types(None).await;
        let behind = house.read(|tx| Box::pin(outbox::cursors(tx))).await;
        assert!(behind.is_empty(), "{behind:?}");
        // What they must get waits for them, and the rest along with it.
        house.say(&story.room_id, alice(), "hello").await;
        let behind = async || house.read(|tx| Box::pin(outbox::cursors(tx))).await.len();
        until(async || behind().await == 3).await;
    })
    .await;
}
