//! `/sync` that waits for news.

use std::time::Duration;

use myelin_core::state::Membership;
use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_sync::SyncRequest;
use serde_json::{Value, json};

use crate::house::{House, alice, bob, filtered, joined, request, said, since};

/// A sync that waits for 30 seconds.
pub(crate) fn patient(last: &Value, user: &ruma::UserId) -> SyncRequest {
    SyncRequest {
        timeout: Duration::from_secs(30),
        ..since(request(user), last)
    }
}

/// Begins a sync. It waits, or is about to: what is news then is news now.
pub(crate) async fn begin(house: &House, request: SyncRequest) -> myelin_env::Task<Value> {
    let task = house.fresh.env.tasks.spawn("a test's sync", {
        let house = house.clone();
        async move { house.synced(&request).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test]
async fn a_waiting_sync_wakes_with_the_event() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let first = house.first_sync(bob()).await;
        let sync = begin(&house, patient(&first, bob())).await;
        assert!(!sync.is_finished());
        // The clock stands still: nothing but the event can end the wait.
        house.say(&room, alice(), "news").await;
        let second = sync.await.unwrap();
        assert_eq!(
            said(&joined(&second, &room)["timeline"]["events"]),
            ["news"]
        );
    })
    .await;
}

#[tokio::test]
async fn a_waiting_sync_wakes_for_a_message_to_its_device() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        house.register(bob()).await;
        let first = house.first_sync(bob()).await;
        let sync = begin(&house, patient(&first, bob())).await;
        assert!(!sync.is_finished());
        house.tell(alice(), bob(), "news").await;
        let second = sync.await.unwrap();
        let event = json!({
            "type": "org.example.tell", "sender": alice(), "content": { "words": "news" },
        });
        assert_eq!(second["to_device"]["events"], json!([event]));
        // What isn't acknowledged is shown again, what is isn't.
        assert_eq!(
            house.next_sync(bob(), &first).await["to_device"],
            second["to_device"]
        );
        let third = house.next_sync(bob(), &second).await;
        assert_eq!(third["to_device"]["events"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn many_messages_to_a_device_come_in_several_answers() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        house.register(bob()).await;
        for number in 0..105 {
            house.tell(alice(), bob(), &number.to_string()).await;
        }
        let words = |answer: &Value| -> Vec<String> {
            let events = answer["to_device"]["events"].as_array().unwrap();
            let words = events
                .iter()
                .map(|event| event["content"]["words"].as_str());
            words.map(|words| words.unwrap().to_owned()).collect()
        };
        let first = house.first_sync(bob()).await;
        // The clock stands still: a wait for more than there is would not end.
        let second = house.synced(&patient(&first, bob())).await;
        let found = [words(&first), words(&second)].concat();
        let sent: Vec<_> = (0..105).map(|number| number.to_string()).collect();
        assert_eq!(found, sent);
    })
    .await;
}

#[tokio::test]
async fn a_waiting_sync_wakes_for_an_invite() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let first = house.first_sync(bob()).await;
        let sync = begin(&house, patient(&first, bob())).await;
        house.set_membership(&room, bob(), Membership::Invite).await;
        let second = sync.await.unwrap();
        assert_ne!(second["rooms"]["invite"][room.as_str()], Value::Null);
    })
    .await;
}

#[tokio::test]
async fn a_waiting_sync_wakes_for_a_kick() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let first = house.first_sync(bob()).await;
        let sync = begin(&house, patient(&first, bob())).await;
        house.set_membership(&room, bob(), Membership::Leave).await;
        let second = sync.await.unwrap();
        assert_ne!(second["rooms"]["leave"][room.as_str()], Value::Null);
    })
    .await;
}

/// Winds the clock forward until a sync ends; how long that took on the clock. On SQLite only: PostgreSQL's
/// connections take their time, on the same clock.
async fn wind_until_ended(house: &House, request: &SyncRequest) -> (Value, Duration) {
    let clock = &house.fresh.env.clock;
    let begun = clock.instant();
    let wind = async {
        loop {
            clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::select! { answer = house.synced(request) => answer, never = wind => never };
    (answer, begun.elapsed(clock))
}

#[tokio::test]
async fn a_wait_ends_empty_when_its_time_is_up() {
    let house = House::open(Fresh::sqlite().await).await;
    house.room().await;
    let first = house.first_sync(alice()).await;
    let (second, waited) = wind_until_ended(&house, &patient(&first, alice())).await;
    assert!(waited >= Duration::from_secs(30), "{waited:?}");
    assert_eq!(second["rooms"]["join"], json!({}));
    assert_eq!(second["next_batch"], first["next_batch"]);
}

#[tokio::test]
async fn every_wait_has_an_end() {
    let house = House::open(Fresh::sqlite().await).await;
    let first = house.first_sync(alice()).await;
    let request = SyncRequest {
        timeout: Duration::MAX,
        ..patient(&first, alice())
    };
    let (second, waited) = wind_until_ended(&house, &request).await;
    assert!(waited >= Duration::from_secs(300), "{waited:?}");
    assert_eq!(second["rooms"]["join"], json!({}));
}

#[tokio::test]
async fn news_that_the_filter_keeps_out_does_not_end_a_wait() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, other) = (house.room().await, house.room().await);
        let first = house.first_sync(alice()).await;
        let filter = json!({"room": {"not_rooms": [other.as_str()]}});
        let sync = begin(&house, filtered(patient(&first, alice()), &filter)).await;
        house.say(&other, alice(), "unwanted").await;
        house.say(&room, alice(), "wanted").await;
        let second = sync.await.unwrap();
        assert_eq!(joined(&second, &other), &Value::Null);
        assert_eq!(
            said(&joined(&second, &room)["timeline"]["events"]),
            ["wanted"]
        );
    })
    .await;
}

#[tokio::test]
async fn a_stopping_server_answers_who_waits() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let first = house.first_sync(alice()).await;
        let sync = begin(&house, patient(&first, alice())).await;
        house.fresh.env.tasks.stopping().cancel();
        assert_eq!(sync.await.unwrap()["next_batch"], first["next_batch"]);
    })
    .await;
}
