//! Who is there, as `/sync` shows it.

use std::{pin::pin, time::Duration};

use futures_util::FutureExt as _;
use myelin_env::{Clock, Task};
use myelin_rooms::PresenceState;
use myelin_storage::{testing::on_each_engine, waking::News};
use myelin_sync::SyncRequest;
use ruma::UserId;
use serde_json::{Value, json};

use crate::{
    house::{House, alice, bob, carol, filtered, request, since},
    waiting::{self, begin},
};

/// A sync that waits for as long as one does at most.
fn patient(last: &Value, user: &UserId) -> SyncRequest {
    SyncRequest {
        timeout: Duration::from_secs(300),
        ..waiting::patient(last, user)
    }
}

impl House {
    async fn says_of_itself(&self, user: &UserId, state: PresenceState, words: Option<&str>) {
        let words = words.map(str::to_owned);
        let set = self.rooms.set_presence((user, "PHONE"), state, words);
        set.await.unwrap();
    }

    /// Goes online, without any status.
    async fn comes(&self, user: &UserId) {
        self.says_of_itself(user, PresenceState::Online, None).await;
    }

    /// Winds the clock forward until a sync is answered.
    async fn answered(&self, sync: Task<Value>) -> Value {
        while !sync.is_finished() {
            self.fresh.env.clock.advance(Duration::from_secs(1));
            // The database takes its time, which is not that of the clock.
            Clock::real().sleep(Duration::from_millis(20)).await;
        }
        sync.await.unwrap()
    }

    /// Winds the clock forward until there is news.
    async fn until_news(&self, news: &mut News) {
        let mut arrival = pin!(news.arrive());
        while arrival.as_mut().now_or_never().is_none() {
            self.fresh.env.clock.advance(Duration::from_secs(1));
            Clock::real().sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets the time pass in which changes are gathered.
    async fn settle(&self) {
        for _ in 0..6 {
            self.fresh.env.clock.advance(Duration::from_secs(1));
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Who is shown, and how.
fn shown(answer: &Value) -> Vec<(&str, &str)> {
    let events = answer["presence"]["events"].as_array().unwrap().iter();
    let shown = events.map(|event| {
        assert_eq!(event["type"], "m.presence");
        let state = event["content"]["presence"].as_str().unwrap();
        (event["sender"].as_str().unwrap(), state)
    });
    shown.collect()
}

#[tokio::test]
async fn a_waiting_sync_wakes_when_somebody_in_the_room_comes() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let first = house.first_sync(bob()).await;
        assert_eq!(shown(&first), []);
        house.settle().await;
        let sync = begin(&house, patient(&first, bob())).await;
        // Carol is in no room.
        house.comes(carol()).await;
        house.settle().await;
        assert!(!sync.is_finished());
        house
            .says_of_itself(alice(), PresenceState::Online, Some("back"))
            .await;
        let second = house.answered(sync).await;
        assert_eq!(shown(&second), [("@alice:x.example", "online")]);
        let content = &second["presence"]["events"][0]["content"];
        assert_eq!(content["status_msg"], "back");
        assert_eq!(content["currently_active"], true);
        assert!(content["last_active_ago"].is_u64(), "{content}");
        let third = house.next_sync(bob(), &second).await;
        assert_eq!(shown(&third), []);
        // Offline is news to who knew her online, and to nobody else.
        house
            .says_of_itself(alice(), PresenceState::Offline, None)
            .await;
        let fourth = house.next_sync(bob(), &third).await;
        assert_eq!(shown(&fourth), [("@alice:x.example", "offline")]);
        assert_eq!(shown(&house.first_sync(bob()).await), []);
    })
    .await;
}

#[tokio::test]
async fn changes_are_gathered_and_the_last_is_shown() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let first = house.first_sync(bob()).await;
        let mut news = house.rooms.presence_news(bob());
        house.comes(alice()).await;
        house.until_news(&mut news).await;
        // From now on the clock stands still.
        for state in [PresenceState::Offline, PresenceState::Unavailable] {
            house.says_of_itself(alice(), state, None).await;
        }
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(news.arrive().now_or_never().is_none());
        house.until_news(&mut news).await;
        let second = house.next_sync(bob(), &first).await;
        assert_eq!(shown(&second), [("@alice:x.example", "unavailable")]);
    })
    .await;
}

#[tokio::test]
async fn who_comes_into_a_room_sees_who_is_there_and_is_seen() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.comes(alice()).await;
        house.comes(carol()).await;
        let (of_alice, of_carol) = (
            house.first_sync(alice()).await,
            house.first_sync(carol()).await,
        );
        // One's own is always shown.
        assert_eq!(shown(&of_carol), [("@carol:x.example", "online")]);
        house.join(&room, carol()).await;
        let of_carol = house.next_sync(carol(), &of_carol).await;
        let both = [
            ("@alice:x.example", "online"),
            ("@carol:x.example", "online"),
        ];
        assert_eq!(shown(&of_carol), both);
        let of_alice = house.next_sync(alice(), &of_alice).await;
        assert_eq!(shown(&of_alice), [("@carol:x.example", "online")]);
        house.leave(&room, carol()).await;
        house
            .says_of_itself(alice(), PresenceState::Unavailable, None)
            .await;
        assert_eq!(shown(&house.next_sync(carol(), &of_carol).await), []);
    })
    .await;
}

#[tokio::test]
async fn a_filter_chooses_of_whom_presence_is_shown() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for user in [alice(), bob(), carol()] {
            if user != alice() {
                house.join(&room, user).await;
            }
            house.comes(user).await;
        }
        let names = ["@alice:x.example", "@bob:x.example", "@carol:x.example"];
        for (filter, expected) in [
            (json!({}), &names[..]),
            (json!({ "not_senders": [bob(), carol()] }), &names[..1]),
            (json!({ "senders": [bob()] }), &names[1..2]),
            (json!({ "types": ["m.*"] }), &names[..]),
            (json!({ "types": ["m.room.message"] }), &[]),
            (json!({ "not_types": ["m.presence"] }), &[]),
            (json!({ "limit": 0 }), &[]),
            (json!({ "limit": 2 }), &names[..2]),
        ] {
            let wish = json!({ "presence": filter });
            let answer = house.synced(&filtered(request(alice()), &wish)).await;
            let shown: Vec<_> = shown(&answer).into_iter().map(|(name, _)| name).collect();
            assert_eq!(shown, expected, "{filter}");
            // Those over the limit follow, and nobody comes twice.
            let next = since(filtered(request(alice()), &wish), &answer);
            let rest = house.synced(&next).await;
            let rest = rest["presence"]["events"].as_array().unwrap();
            assert_eq!(rest.len(), usize::from(filter["limit"] == 2), "{filter}");
        }
        // The same for who waits.
        let first = house.first_sync(alice()).await;
        house.settle().await;
        let wish = json!({ "presence": { "not_senders": [bob()] } });
        let sync = begin(&house, filtered(patient(&first, alice()), &wish)).await;
        house
            .says_of_itself(bob(), PresenceState::Offline, None)
            .await;
        house.settle().await;
        assert!(!sync.is_finished());
        house
            .says_of_itself(carol(), PresenceState::Offline, None)
            .await;
        let second = house.answered(sync).await;
        assert_eq!(shown(&second), [("@carol:x.example", "offline")]);
    })
    .await;
}

#[tokio::test]
async fn a_full_sync_and_an_old_token_show_all_who_are_there() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        house.room().await;
        house.comes(alice()).await;
        let first = house.first_sync(alice()).await;
        let alone = [("@alice:x.example", "online")];
        assert_eq!(shown(&first), alone);
        let full = SyncRequest {
            full_state: true,
            ..since(request(alice()), &first)
        };
        assert_eq!(shown(&house.synced(&full).await), alone);
        let token = first["next_batch"].as_str().unwrap();
        let (older, _) = token.rsplit_once('_').unwrap();
        let older = json!({ "next_batch": older });
        let older = Box::pin(house.next_sync(alice(), &older)).await;
        assert_eq!(shown(&older), alone);
    })
    .await;
}
