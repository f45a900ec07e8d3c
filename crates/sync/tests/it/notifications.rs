//! The list of what a user was told of.

use myelin_core::state::Membership;
use myelin_rooms::ReceiptType;
use myelin_storage::testing::on_each_engine;
use myelin_sync::{NotificationsRequest, SyncError};
use ruma::{
    UserId,
    push::{NewPushRule, NewSimplePushRule},
};
use serde_json::{Value, json};

use crate::house::{House, alice, bob, carol, said, viewer};

fn asked(user: &UserId, limit: u64, from: &Value) -> NotificationsRequest {
    NotificationsRequest {
        viewer: viewer(user),
        from: from.as_str().map(|from| from.parse().unwrap()),
        limit: Some(limit),
        only_highlights: false,
    }
}

impl House {
    async fn listed(&self, request: &NotificationsRequest) -> Value {
        serde_json::to_value(self.sync.notifications(request).await.unwrap()).unwrap()
    }
}

/// The events of a page, in short.
fn events(page: &Value) -> Vec<String> {
    let notifications = page["notifications"].as_array().unwrap();
    let events = notifications.iter().map(|of| of["event"].clone());
    said(&events.collect())
}

#[tokio::test]
async fn what_a_user_was_told_of_is_listed_in_pages_newest_first() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, other) = (house.room().await, house.room().await);
        house.say(&room, alice(), "before bob came").await;
        house.join(&room, bob()).await;
        house.join(&other, bob()).await;
        let one = house.say(&room, alice(), "one").await;
        house.say(&other, alice(), "two").await;
        let relation = json!({ "rel_type": "m.thread", "event_id": one });
        let reply = json!({ "m.relates_to": relation, "m.mentions": { "user_ids": [bob()] } });
        house.write(&room, alice(), reply).await;
        house.say(&room, alice(), "three").await;
        house
            .reads(&room, bob(), (ReceiptType::Read, &one, None))
            .await;
        let first = house.listed(&asked(bob(), 3, &Value::Null)).await;
        assert_eq!(events(&first), ["three", "x", "two"]);
        let second = house.listed(&asked(bob(), 3, &first["next_token"])).await;
        assert_eq!(events(&second), ["one"]);
        assert_eq!(second.get("next_token"), None);
        let of = |page: &Value, index: usize| page["notifications"][index].clone();
        assert_eq!(of(&second, 0)["read"], true);
        assert_eq!(of(&second, 0)["room_id"], room.as_str());
        // They are but two.
        let sound = json!({ "set_tweak": "sound", "value": "default" });
        assert_eq!(of(&second, 0)["actions"], json!(["notify", sound]));
        assert_eq!(of(&second, 0)["event"].get("room_id"), None);
        assert!(of(&second, 0)["ts"].is_u64());
        assert_eq!(of(&first, 2)["read"], false);
        assert_eq!(of(&first, 2)["room_id"], other.as_str());
        let mut highlights = asked(bob(), 10, &Value::Null);
        highlights.only_highlights = true;
        let highlights = house.listed(&highlights).await;
        assert_eq!(events(&highlights), ["x"]);
        assert!(
            of(&highlights, 0)["actions"]
                .to_string()
                .contains("highlight")
        );
        // Not what she said herself, nor what was said where nobody else was.
        let of_alice = house.listed(&asked(alice(), 10, &Value::Null)).await;
        assert_eq!(events(&of_alice), [""; 0]);
        house.leave(&room, bob()).await;
        let left = house.listed(&asked(bob(), 10, &Value::Null)).await;
        assert_eq!(events(&left), ["two"]);
    })
    .await;
}

#[tokio::test]
async fn an_invite_is_listed_and_what_the_rules_keep_silent_is_not() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, silent) = (house.room().await, house.room().await);
        house.say(&room, alice(), "bob is not there").await;
        house.set_membership(&room, bob(), Membership::Invite).await;
        house.say(&room, alice(), "nor is he now").await;
        let rule = NewSimplePushRule::new(silent.clone(), Vec::new());
        house.set_rule(bob(), NewPushRule::Room(rule)).await;
        house.join(&silent, bob()).await;
        house.join(&silent, carol()).await;
        house.say(&silent, alice(), "hush").await;
        let listed = house.listed(&asked(bob(), 10, &Value::Null)).await;
        assert_eq!(events(&listed), ["@bob:x.example invite"]);
        let listed = house.listed(&asked(carol(), 10, &Value::Null)).await;
        assert_eq!(events(&listed), ["hush"]);
        let foreign = "s1_5".parse::<myelin_sync::NotificationToken>();
        assert!(matches!(foreign, Err(SyncError::InvalidParam(_))));
    })
    .await;
}
