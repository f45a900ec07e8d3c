//! What users are told of and have not read.

use myelin_core::state::Membership;
use myelin_rooms::ReceiptType;
use myelin_storage::{params, testing::on_each_engine};
use myelin_users::{PushRuleChange, RuleName};
use ruma::{
    EventId, OwnedEventId, RoomId, UserId,
    push::{Action, NewPatternedPushRule, NewPushRule, NewSimplePushRule, RuleKind, Tweak},
    user_id,
};
use serde_json::{Value, json};

use crate::{
    house::{House, alice, bob, carol, filtered, joined, request, since},
    waiting::{begin, patient},
};

impl House {
    /// A message with more in it than words.
    pub(crate) async fn write(
        &self,
        room: &RoomId,
        sender: &UserId,
        mut content: Value,
    ) -> OwnedEventId {
        content["body"] = json!("x");
        self.send(room, sender, "m.room.message", None, content)
            .await
    }

    /// A message in a thread.
    async fn reply(&self, room: &RoomId, sender: &UserId, root: &EventId) -> OwnedEventId {
        let relation = json!({ "rel_type": "m.thread", "event_id": root });
        self.write(room, sender, json!({ "m.relates_to": relation }))
            .await
    }

    pub(crate) async fn set_rule(&self, user: &UserId, rule: NewPushRule) {
        let (before, after) = (None, None);
        let change = PushRuleChange::Put {
            rule,
            before,
            after,
        };
        self.users.change_push_rules(user, change).await.unwrap();
        self.rooms.push_rules_changed(user);
    }

    /// How much a user has not read, and of that to how much its attention is drawn.
    async fn unread(&self, room: &RoomId, user: &UserId) -> (u64, u64) {
        counts(&self.first_sync(user).await, room)
    }
}

fn counts(answer: &Value, room: &RoomId) -> (u64, u64) {
    count(&joined(answer, room)["unread_notifications"])
}

fn count(counts: &Value) -> (u64, u64) {
    let count = |name: &str| counts[name].as_u64().unwrap();
    (count("notification_count"), count("highlight_count"))
}

fn mention(user: &UserId) -> Value {
    json!({ "m.mentions": { "user_ids": [user] } })
}

#[tokio::test]
async fn what_others_say_is_unread_until_a_receipt_says_otherwise() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.say(&room, alice(), "before bob came").await;
        house.join(&room, bob()).await;
        assert_eq!(house.unread(&room, bob()).await, (0, 0));
        let one = house.say(&room, alice(), "one").await;
        let two = house.write(&room, alice(), mention(bob())).await;
        house.topic(&room, "nobody is told of that").await;
        let three = house.say(&room, alice(), "three").await;
        assert_eq!(house.unread(&room, bob()).await, (3, 1));
        assert_eq!(house.unread(&room, alice()).await, (0, 0));
        for (receipt_type, event, left) in [
            (ReceiptType::FullyRead, &three, (3, 1)),
            (ReceiptType::Read, &one, (2, 1)),
            (ReceiptType::PrivateRead, &two, (1, 0)),
            // What was read stays read.
            (ReceiptType::PrivateRead, &one, (1, 0)),
            (ReceiptType::Read, &three, (0, 0)),
        ] {
            let receipt = (receipt_type, &**event, None);
            house.reads(&room, bob(), receipt).await;
            assert_eq!(house.unread(&room, bob()).await, left, "{receipt:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn who_says_something_has_read_what_was_said_before() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let root = house.say(&room, alice(), "one").await;
        house.reply(&room, alice(), &root).await;
        assert_eq!(house.unread(&room, bob()).await, (2, 0));
        house.say(&room, bob(), "two").await;
        // Not what was said in a thread.
        assert_eq!(house.unread(&room, bob()).await, (1, 0));
        assert_eq!(house.unread(&room, alice()).await, (1, 0));
        house.reply(&room, bob(), &root).await;
        assert_eq!(house.unread(&room, bob()).await, (0, 0));
    })
    .await;
}

#[tokio::test]
async fn threads_are_counted_apart_for_who_wants_that() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let apart = json!({ "room": { "timeline": { "unread_thread_notifications": true } } });
        let apart = async |house: &House| {
            let answer = house.synced(&filtered(request(bob()), &apart)).await;
            let section = joined(&answer, &room);
            let threads = section["unread_thread_notifications"].clone();
            (count(&section["unread_notifications"]), threads)
        };
        let (a, b) = (
            house.say(&room, alice(), "a").await,
            house.say(&room, alice(), "b").await,
        );
        assert_eq!(apart(&house).await, ((2, 0), Value::Null));
        let in_a = house.reply(&room, alice(), &a).await;
        house.reply(&room, alice(), &b).await;
        let relation = json!({ "rel_type": "m.thread", "event_id": b });
        let mut content = mention(bob());
        content["m.relates_to"] = relation;
        house.write(&room, alice(), content).await;
        let of =
            |all, highlights| json!({ "notification_count": all, "highlight_count": highlights });
        let both = json!({ a.as_str(): of(1, 0), b.as_str(): of(2, 1) });
        assert_eq!(apart(&house).await, ((2, 0), both));
        assert_eq!(house.unread(&room, bob()).await, (5, 1));
        house
            .reads(&room, bob(), (ReceiptType::Read, &b, Some("main")))
            .await;
        let both = json!({ a.as_str(): of(1, 0), b.as_str(): of(2, 1) });
        assert_eq!(apart(&house).await, ((0, 0), both));
        let receipt = (ReceiptType::Read, &*in_a, Some(a.as_str()));
        house.reads(&room, bob(), receipt).await;
        let one = json!({ b.as_str(): of(2, 1) });
        assert_eq!(apart(&house).await, ((0, 0), one));
        let last = house.say(&room, alice(), "c").await;
        // About no thread, and so about all.
        house
            .reads(&room, bob(), (ReceiptType::Read, &last, None))
            .await;
        assert_eq!(apart(&house).await, ((0, 0), Value::Null));
    })
    .await;
}

#[tokio::test]
async fn a_user_is_told_by_its_own_rules() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, other) = (house.room().await, house.room().await);
        for user in [bob(), carol()] {
            house.join(&room, user).await;
            house.join(&other, user).await;
        }
        let silent = NewSimplePushRule::new(room.clone(), Vec::new());
        house.set_rule(bob(), NewPushRule::Room(silent)).await;
        let loud = vec![
            Action::Notify,
            Action::SetTweak(Tweak::Highlight(ruma::push::HighlightTweakValue::Yes)),
        ];
        let word = NewPatternedPushRule::new("tea".to_owned(), "tea".to_owned(), loud);
        house.set_rule(carol(), NewPushRule::Content(word)).await;
        for place in [&room, &other] {
            house.say(place, alice(), "is there tea?").await;
            house.say(place, alice(), "there is cake").await;
        }
        assert_eq!(house.unread(&room, bob()).await, (0, 0));
        assert_eq!(house.unread(&other, bob()).await, (2, 0));
        assert_eq!(house.unread(&room, carol()).await, (2, 1));
        // With everything switched off, nothing counts any more.
        let (kind, rule_id) = (RuleKind::Override, ".m.rule.master".to_owned());
        let off = PushRuleChange::SetEnabled(RuleName { kind, rule_id }, true);
        house.users.change_push_rules(carol(), off).await.unwrap();
        house.rooms.push_rules_changed(carol());
        house.say(&room, alice(), "more tea").await;
        assert_eq!(house.unread(&room, carol()).await, (2, 1));
    })
    .await;
}

#[tokio::test]
async fn a_message_of_which_all_are_told_is_one_row_however_many_they_are() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let users: Vec<_> = (0..20)
            .map(|number| UserId::parse(format!("@u{number}:x.example")).unwrap())
            .collect();
        for user in &users {
            house.join(&room, user).await;
        }
        house.say(&room, alice(), "to all").await;
        let rows = house.fresh.database.read("rows", |tx| {
            Box::pin(async move {
                let all = "SELECT user_id FROM notifications";
                Ok::<_, myelin_storage::StorageError>(tx.query(all, params![]).await?.len())
            })
        });
        assert_eq!(rows.await.unwrap(), 1);
        for user in &users {
            assert_eq!(house.unread(&room, user).await, (1, 0), "{user}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_redacted_is_no_longer_unread() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let event = house.write(&room, alice(), mention(bob())).await;
        assert_eq!(house.unread(&room, bob()).await, (1, 1));
        house.redact(&room, alice(), &event).await;
        assert_eq!(house.unread(&room, bob()).await, (0, 0));
    })
    .await;
}

#[tokio::test]
async fn counts_are_those_of_the_time_in_the_room_and_outlive_the_server() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh.clone()).await;
        let room = house.room().await;
        house.set_membership(&room, bob(), Membership::Invite).await;
        house.say(&room, alice(), "bob is not there yet").await;
        house.join(&room, bob()).await;
        house.say(&room, alice(), "one").await;
        let profile = json!({ "membership": "join", "displayname": "Bob" });
        house
            .send(&room, bob(), "m.room.member", Some(bob().as_str()), profile)
            .await;
        // Whether that is a word of his or not, what comes now counts.
        house.say(&room, alice(), "two").await;
        let before = house.unread(&room, bob()).await;
        let house = House::open(fresh).await;
        assert_eq!(house.unread(&room, bob()).await, before);
        assert!(before.0 > 0);
        house.leave(&room, bob()).await;
        house.say(&room, alice(), "three").await;
        house.join(&room, bob()).await;
        assert_eq!(house.unread(&room, bob()).await, (0, 0));
        house.say(&room, alice(), "four").await;
        assert_eq!(house.unread(&room, bob()).await, (1, 0));
    })
    .await;
}

#[tokio::test]
async fn what_is_read_on_one_device_wakes_the_others() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let event = house.say(&room, alice(), "one").await;
        let first = house.first_sync(bob()).await;
        assert_eq!(counts(&first, &room), (1, 0));
        // It does not want to see receipts, but to know what is unread.
        let deaf = json!({ "room": { "ephemeral": { "types": [] } } });
        let sync = begin(&house, filtered(patient(&first, bob()), &deaf)).await;
        let receipt = (ReceiptType::PrivateRead, &*event, None);
        house.reads(&room, bob(), receipt).await;
        let second = sync.await.unwrap();
        assert_eq!(counts(&second, &room), (0, 0));
        // What a filter leaves out of the timeline counts all the same.
        let blind = json!({ "room": { "timeline": { "types": [] } } });
        let sync = begin(&house, filtered(patient(&second, bob()), &blind)).await;
        house.say(&room, alice(), "two").await;
        let third = sync.await.unwrap();
        assert_eq!(counts(&third, &room), (1, 0));
        let nothing = house.synced(&since(request(bob()), &third)).await;
        assert_eq!(joined(&nothing, &room), &Value::Null);
    })
    .await;
}

#[tokio::test]
async fn a_room_is_called_to_attention_only_by_who_may() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.join(&room, carol()).await;
        let all = json!({ "m.mentions": { "room": true } });
        house.write(&room, bob(), all.clone()).await;
        assert_eq!(house.unread(&room, carol()).await, (1, 0));
        house.write(&room, alice(), all).await;
        assert_eq!(house.unread(&room, carol()).await, (2, 1));
        let stranger = user_id!("@stranger:x.example");
        house.write(&room, alice(), mention(stranger)).await;
        assert_eq!(house.unread(&room, carol()).await, (3, 1));
    })
    .await;
}
