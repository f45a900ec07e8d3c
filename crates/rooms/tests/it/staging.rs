//! What was acknowledged and is not judged yet, when judging it goes wrong.

use std::{
    fmt::Debug,
    sync::{Arc, mpsc},
};

use futures_util::FutureExt as _;
use myelin_core::{
    event::{Event, Place, Verdict},
    number::EventNr,
};
use myelin_storage::{
    Priority, StorageError, rooms as room_table,
    staged::{self, Staged},
    testing::{Fresh, on_each_engine},
};
use ruma::{OwnedEventId, RoomId};
use tracing::{field::Field, subscriber::DefaultGuard};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    util::SubscriberInitExt as _,
};

use crate::{
    house::{House, alice, new_event, until},
    story::{Story, bob, carol, mallory, message, topic},
};

/// Puts an event into the database as an outlier, as it is or so that it can't be read.
async fn put_outlier(house: &House, story: &Story, id: &OwnedEventId, is_damaged: bool) {
    let mut pdu = (**story.pdu(id)).clone();
    if is_damaged {
        pdu.json = "damaged".into();
    }
    house
        .put_event(Event {
            nr: EventNr(1_000_000),
            pdu: Arc::new(pdu),
            verdict: Verdict::Accepted,
            place: Place::Outlier,
            redacted_by: None,
        })
        .await;
}

/// Damages the row of an event in the timeline, or repairs it.
async fn put_in_timeline(house: &House, event: &Arc<Event>, json: &str) {
    let mut pdu = (*event.pdu).clone();
    pdu.json = json.into();
    let pdu = Arc::new(pdu);
    let event = (**event).clone();
    house.put_event(Event { pdu, ..event }).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_judged_is_set_aside_and_the_others_go_on() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let unreadable = story.write(&[&tip], topic(bob(), "unreadable"));
        let first = story.write(&[&tip], message(bob(), "first"));
        let bad = story.write(&[&unreadable], message(bob(), "bad"));
        let last = story.write(&[&first], message(bob(), "last"));
        put_outlier(&house, &story, &unreadable, true).await;
        house.push(&story, bob(), &[&first, &bad, &last]).await;
        house.settled(&story.room_id).await;
        for id in [&first, &last] {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Accepted));
        }
        assert_eq!(house.verdict(&story, &bad).await, None);
        // What comes later isn't kept either.
        let later = house
            .says(&mut story, &[&last], message(bob(), "later"))
            .await;
        assert_eq!(house.verdict(&story, &later).await, Some(Verdict::Accepted));

        // It is kept, and judged when it can be.
        put_outlier(&house, &story, &unreadable, false).await;
        house.push(&story, bob(), &[&unreadable]).await;
        house.settled(&story.room_id).await;
        let house = house.restart().await;
        house.settled(&story.room_id).await;
        assert_eq!(house.verdict(&story, &bad).await, Some(Verdict::Accepted));
    })
    .await;
}

#[tokio::test]
async fn a_parked_event_that_cannot_be_settled_is_set_aside_and_the_next_is_settled() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let event = house.event(&story.room_id, &tip).await.unwrap();
        let json = event.pdu.json.clone();
        put_in_timeline(&house, &event, "damaged").await;
        // What is in memory would do.
        let house = house.restart().await;
        let missing = story.write(&[&tip], message(mallory(), "missing"));
        let ids = ["one", "two"].map(|body| story.write(&[&missing], message(carol(), body)));
        // To ask for what lies between takes the extremities, and they can't be read.
        house.push(&story, carol(), &[&ids[0], &ids[1]]).await;
        house.settled(&story.room_id).await;
        for id in &ids {
            assert_eq!(house.verdict(&story, id).await, None);
        }
        put_in_timeline(&house, &event, &json).await;
        house
            .push_all(&story, mallory(), std::slice::from_ref(&missing))
            .await;
        // They were not refused.
        let house = house.restart().await;
        house.settled(&story.room_id).await;
        for id in &ids {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Accepted));
        }
    })
    .await;
}

/// A bug: panics when something is logged.
struct Bug(&'static str);

impl<S: tracing::Subscriber> Layer<S> for Bug {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut logged = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            if field.name() == "message" {
                logged = format!("{value:?}");
            }
        });
        assert_ne!(logged, self.0, "as the test wants it");
    }
}

#[must_use]
fn panic_at(logged: &'static str) -> DefaultGuard {
    tracing_subscriber::registry()
        .with(Bug(logged))
        .set_default()
}

#[tokio::test]
async fn an_event_over_which_the_program_panics_is_set_aside_and_the_others_go_on() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let first = story.write(&[&tip], message(bob(), "first"));
        let bad = story.write(&[&tip], topic(mallory(), "not permitted"));
        let last = story.write(&[&first], message(bob(), "last"));
        let bug = panic_at("judged");
        house.push(&story, bob(), &[&first, &bad, &last]).await;
        house.settled(&story.room_id).await;
        for id in [&first, &last] {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Accepted));
        }
        assert_eq!(house.verdict(&story, &bad).await, None);
        drop(bug);
        // It is kept, and judged by a version without the bug.
        let house = house.restart().await;
        house.settled(&story.room_id).await;
        assert_eq!(house.verdict(&story, &bad).await, Some(Verdict::Rejected));
    })
    .await;
}

#[tokio::test]
async fn a_parked_event_over_which_the_program_panics_is_set_aside_and_others_are_settled() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let missing = story.write(&[&tip], message(mallory(), "missing"));
        let ids = ["one", "two"].map(|body| story.write(&[&missing], message(carol(), body)));
        let bug = panic_at("a pushed event is refused");
        house.push(&story, carol(), &[&ids[0], &ids[1]]).await;
        house.settled(&story.room_id).await;
        drop(bug);
        house
            .push_all(&story, mallory(), std::slice::from_ref(&missing))
            .await;
        // They were not refused.
        let house = house.restart().await;
        house.settled(&story.room_id).await;
        for id in &ids {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Accepted));
        }
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_is_committed_after_later_ones_is_not_passed_over() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let room = house.room(&story.room_id).await.key.room;
        // Another server's transaction has the lower number, and is still being written.
        let slow = story.write(&[&tip], message(carol(), "slow"));
        let fast = house
            .says(&mut story, &[&tip], message(bob(), "fast"))
            .await;
        assert_eq!(house.verdict(&story, &fast).await, Some(Verdict::Accepted));
        let row = Staged {
            staged: 0,
            origin: carol().server_name().to_owned(),
            event_id: slow.clone(),
            json: story.pdu(&slow).json.to_string(),
        };
        house
            .write(move |tx| Box::pin(async move { staged::put(tx, room, &row).await }))
            .await;
        house
            .says(&mut story, &[&fast], message(bob(), "next"))
            .await;
        assert_eq!(house.verdict(&story, &slow).await, Some(Verdict::Accepted));
    })
    .await;
}

/// Moves a room's revision on, as a commit does whose answer got lost.
async fn lose_a_commit(house: &House, room_id: &RoomId) {
    let nr = house.room(room_id).await.key.room;
    let moved = house
        .write(move |tx| {
            Box::pin(async move {
                let row = room_table::by_number(tx, nr).await?.unwrap();
                room_table::update(tx, nr, row.revision, row.current, row.min_depth).await
            })
        })
        .await;
    assert!(moved);
}

#[tokio::test]
async fn a_room_goes_on_after_a_commit_whose_answer_was_lost() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        lose_a_commit(&house, &story.room_id).await;
        // The state after it is in memory when the commit fails, and has to be stored with the next.
        let pushed = house
            .says(&mut story, &[&tip], topic(bob(), "pushed"))
            .await;
        assert_eq!(
            house.verdict(&story, &pushed).await,
            Some(Verdict::Accepted)
        );
        lose_a_commit(&house, &story.room_id).await;
        let content = serde_json::json!({"body": "sent", "msgtype": "m.text"});
        let sent = house.send(&story.room_id, alice(), "m.room.message", None, content);
        sent.await.unwrap_err();
        let sent = house.say(&story.room_id, alice(), "sent again").await;
        assert_eq!(house.tip(&story.room_id).await, sent);
        let house = house.restart().await;
        assert_eq!(house.current(&story.room_id).await, *story.after(&pushed));
    })
    .await;
}

#[tokio::test]
async fn a_commit_goes_on_when_nobody_waits_for_it() {
    // The writer of SQLite can be held up from outside.
    let house = House::open(Fresh::sqlite().await).await;
    let (story, _) = house.shared_room().await;
    let before = house.timeline(&story.room_id).await.len();
    let (release, held) = mpsc::channel::<()>();
    let (holds, is_held) = mpsc::channel();
    let database = house.fresh.database.clone();
    let holding = house.fresh.env.tasks.spawn("hold the writer", async move {
        let hold = database.write("hold", Priority::Interactive, move |_| {
            Box::pin(async move {
                holds.send(()).unwrap();
                held.recv().unwrap();
                Ok::<_, StorageError>(())
            })
        });
        hold.await.unwrap();
    });
    until(async || is_held.try_recv().is_ok()).await;
    let content = serde_json::json!({"body": "sent", "msgtype": "m.text"});
    let event = new_event(alice(), "m.room.message", None, &content);
    let mut sending = Box::pin(house.rooms.send(&story.room_id, event));
    until(async || {
        assert!(sending.as_mut().now_or_never().is_none());
        house.fresh.env.tasks.running().contains(&"commit")
    })
    .await;
    drop(sending);
    release.send(()).unwrap();
    holding.await.unwrap();
    let next = house.say(&story.room_id, alice(), "next").await;
    let shown = house.timeline(&story.room_id).await;
    assert_eq!(shown.len(), before + 2);
    assert_eq!(shown.last(), Some(&next));
}
