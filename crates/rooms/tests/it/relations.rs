//! What relates to what, and what users of this server may not relate to what.

use std::slice::from_ref;

use futures_util::future::join_all;
use myelin_core::number::{EventNr, StreamPosition};
use myelin_rooms::{NewEvent, RoomError};
use myelin_storage::{
    events::Direction,
    relations::{self, Related},
    testing::on_each_engine,
    timelines::{HistoryPlace, HistoryRange},
};
use ruma::{EventId, RoomId, UserId, event_id};
use serde_json::json;

use crate::{
    house::{House, alice, dora, new_event},
    story::{Story, bob, carol, redaction as redaction_by, relating},
};

/// What relates to an event, oldest first.
async fn related(house: &House, story: &Story, parent: &EventId) -> Vec<EventNr> {
    let of = Related {
        parent: parent.to_owned(),
        rel_type: None,
        event_type: None,
        levels: 1,
    };
    let range = HistoryRange {
        from: HistoryPlace::START,
        to: HistoryPlace::END,
        after: StreamPosition(i64::MIN),
        upto: StreamPosition(i64::MAX),
    };
    let room = house.room(&story.room_id).await.key.room;
    let found = house.read(move |tx| {
        Box::pin(
            async move { relations::related(tx, room, &of, Direction::Forward, range, 10).await },
        )
    });
    found.await.iter().map(|found| found.event).collect()
}

#[tokio::test]
async fn a_relation_may_come_before_the_event_that_it_is_about_and_its_redaction_before_it() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let parent = story.write(&[&tip], crate::story::message(carol(), "hello"));
        let early = house
            .says(&mut story, &[&tip], relating(bob(), "m.thread", &parent))
            .await;
        let early = house.event(&story.room_id, &early).await.unwrap();
        assert_eq!(related(&house, &story, &parent).await, [early.nr]);
        // Redacted by the time it comes.
        let taken_back = story.write(&[&tip], relating(bob(), "m.thread", &parent));
        house
            .says(&mut story, &[&tip], redaction_by(bob(), &taken_back))
            .await;
        house.push_all(&story, bob(), from_ref(&taken_back)).await;
        assert!(
            house
                .event(&story.room_id, &taken_back)
                .await
                .unwrap()
                .redacted_by
                .is_some()
        );
        assert_eq!(related(&house, &story, &parent).await, [early.nr]);
        house.push_all(&story, carol(), from_ref(&parent)).await;
        let late = house
            .says(&mut story, &[&parent], relating(carol(), "x", &parent))
            .await;
        let late_nr = house.event(&story.room_id, &late).await.unwrap().nr;
        assert_eq!(related(&house, &story, &parent).await, [early.nr, late_nr]);
        house
            .says(&mut story, &[&late], redaction_by(carol(), &late))
            .await;
        assert_eq!(related(&house, &story, &parent).await, [early.nr]);
    })
    .await;
}

fn reaction(user: &'static UserId, parent: &EventId, key: &str) -> NewEvent {
    let relates_to = json!({"rel_type": "m.annotation", "event_id": parent, "key": key});
    new_event(
        user,
        "m.reaction",
        None,
        &json!({"m.relates_to": relates_to}),
    )
}

fn redaction(user: &'static UserId, of: &EventId) -> NewEvent {
    let mut event = new_event(user, "m.room.redaction", None, &json!({}));
    event.redacts = Some(of.to_owned());
    event
}

async fn reacts(
    house: &House,
    room_id: &RoomId,
    event: NewEvent,
) -> Result<ruma::OwnedEventId, RoomError> {
    house.rooms.send(room_id, event).await
}

#[tokio::test]
async fn nobody_annotates_an_event_with_the_same_twice() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        let room = &story.room_id;
        house.join(room, dora()).await;
        let parent = house.say(room, alice(), "hello").await;
        let other = house.say(room, alice(), "goodbye").await;
        let first = reacts(&house, room, reaction(dora(), &parent, "+"))
            .await
            .unwrap();
        let again = reacts(&house, room, reaction(dora(), &parent, "+")).await;
        assert!(
            matches!(again, Err(RoomError::DuplicateAnnotation)),
            "{again:?}"
        );
        let mut of_another_type = reaction(dora(), &parent, "+");
        of_another_type.event_type = "org.example.reaction".to_owned();
        for allowed in [
            reaction(dora(), &parent, "-"),
            reaction(dora(), &other, "+"),
            reaction(alice(), &parent, "+"),
            of_another_type,
        ] {
            reacts(&house, room, allowed).await.unwrap();
        }
        // A redaction takes it back.
        house
            .rooms
            .send(room, redaction(dora(), &first))
            .await
            .unwrap();
        reacts(&house, room, reaction(dora(), &parent, "+"))
            .await
            .unwrap();
        let again = reacts(&house, room, reaction(dora(), &parent, "+")).await;
        assert!(
            matches!(again, Err(RoomError::DuplicateAnnotation)),
            "{again:?}"
        );
        // However close together they come.
        let at_once = (0..5).map(|_| reacts(&house, room, reaction(dora(), &parent, "!")));
        let taken = join_all(at_once).await;
        assert_eq!(
            taken.iter().filter(|taken| taken.is_ok()).count(),
            1,
            "{taken:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn no_thread_begins_at_an_event_that_relates_to_another() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        let room = &story.room_id;
        let in_thread = |root: &EventId| {
            let relates_to = json!({"rel_type": "m.thread", "event_id": root});
            let content = json!({"body": "b", "msgtype": "m.text", "m.relates_to": relates_to});
            new_event(alice(), "m.room.message", None, &content)
        };
        let root = house.say(room, alice(), "hello").await;
        let reply = house.rooms.send(room, in_thread(&root)).await.unwrap();
        let refused = house.rooms.send(room, in_thread(&reply)).await;
        assert!(
            matches!(refused, Err(RoomError::BadRelation(_))),
            "{refused:?}"
        );
        // What isn't held here may be held elsewhere.
        house
            .rooms
            .send(room, in_thread(event_id!("$elsewhere")))
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn local_users_redact_their_own_events_only_unless_they_have_the_power() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        let room = &story.room_id;
        house.join(room, dora()).await;
        let of_alice = house.say(room, alice(), "hello").await;
        let refused = house.rooms.send(room, redaction(dora(), &of_alice)).await;
        assert!(
            matches!(refused, Err(RoomError::Forbidden(_))),
            "{refused:?}"
        );
        let unknown = event_id!("$unknown");
        let refused = house.rooms.send(room, redaction(dora(), unknown)).await;
        assert!(
            matches!(refused, Err(RoomError::NotFound(_))),
            "{refused:?}"
        );
        house
            .rooms
            .send(room, redaction(alice(), unknown))
            .await
            .unwrap();
        assert_eq!(
            house.event(room, &of_alice).await.unwrap().redacted_by,
            None
        );
    })
    .await;
}
