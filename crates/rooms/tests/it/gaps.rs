//! Events whose parents or auth events are missing, while nobody can be asked.

use std::slice::from_ref;

use myelin_core::event::Verdict;
use myelin_storage::testing::on_each_engine;

use crate::{
    house::House,
    story::{bob, message, topic},
};

#[tokio::test]
async fn a_pushed_event_is_refused_if_its_parents_cannot_be_had() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let missing = story.write(&[&tip], topic(bob(), "missing"));
        let event = house
            .says(&mut story, &[&missing], message(bob(), "after"))
            .await;
        assert!(house.was_asked(bob().server_name()).await);
        assert_eq!(house.verdict(&story, &event).await, None);
        assert_eq!(house.tip(&story.room_id).await, tip);
        // With its parent it is welcome.
        house
            .push_all(&story, bob(), &[missing.clone(), event.clone()])
            .await;
        assert_eq!(house.verdict(&story, &event).await, Some(Verdict::Accepted));
        assert_eq!(house.tip(&story.room_id).await, event);
        assert_eq!(house.current(&story.room_id).await, *story.after(&event));
    })
    .await;
}

#[tokio::test]
async fn below_what_is_held_nothing_is_asked_for() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let missing = story.write(&[&tip], message(bob(), "missing"));
        let words = message(bob(), "old").at_depth(1);
        let event = house.says(&mut story, &[&missing], words).await;
        assert_eq!(house.verdict(&story, &event).await, None);
        assert!(!house.was_asked(bob().server_name()).await);
    })
    .await;
}

#[tokio::test]
async fn an_event_waits_for_its_parent_in_the_same_transaction() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let ids = story.chain(&tip, ["parent", "child"].map(|name| topic(bob(), name)));
        let (parent, child) = (ids[0].clone(), ids[1].clone());
        house
            .push_all(&story, bob(), &[child.clone(), parent])
            .await;
        assert_eq!(house.tip(&story.room_id).await, child);
        assert_eq!(house.current(&story.room_id).await, *story.after(&child));
    })
    .await;
}

#[tokio::test]
async fn a_gap_does_not_hold_up_other_events() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let missing = story.write(&[&tip], message(bob(), "missing"));
        let refused = story.write(&[&missing], message(bob(), "refused"));
        let descendant = story.write(&[&refused], message(bob(), "descendant"));
        let other = story.write(&[&tip], message(bob(), "other"));
        let ids = [refused, descendant.clone(), other.clone()];
        house.push_all(&story, bob(), &ids).await;
        assert_eq!(house.verdict(&story, &descendant).await, None);
        assert_eq!(house.tip(&story.room_id).await, other);
    })
    .await;
}

#[tokio::test]
async fn a_parent_that_is_only_an_outlier_is_missing_and_takes_its_place_when_it_comes() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let outlier = story.write(&[&tip], topic(bob(), "outlier"));
        house.put_outlier(&story, &outlier).await;
        let child = house
            .says(&mut story, &[&outlier], message(bob(), "child"))
            .await;
        assert!(house.was_asked(bob().server_name()).await);
        assert_eq!(house.verdict(&story, &child).await, None);

        house.push_all(&story, bob(), from_ref(&outlier)).await;
        assert!(
            house
                .event(&story.room_id, &outlier)
                .await
                .unwrap()
                .in_timeline()
        );
        assert_eq!(house.tip(&story.room_id).await, outlier);
        assert_eq!(house.timeline(&story.room_id).await.last(), Some(&outlier));
        assert_eq!(house.current(&story.room_id).await, *story.after(&outlier));
        house.push_all(&story, bob(), from_ref(&child)).await;
        assert_eq!(house.tip(&story.room_id).await, child);
    })
    .await;
}

#[tokio::test]
async fn an_event_with_unknown_auth_events_is_not_stored_and_welcome_later() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let levels = story.after(&tip)[&("m.room.power_levels".into(), String::new())].clone();
        let create = story.after(&tip)[&("m.room.create".into(), String::new())].clone();
        let joined_again = story.write(&[&tip], crate::story::membership(bob(), bob(), "join"));
        let words = message(bob(), "hello").citing([&create, &levels, &joined_again]);
        let event = house.says(&mut story, &[&tip], words).await;
        assert!(house.was_asked(bob().server_name()).await);
        assert_eq!(house.verdict(&story, &event).await, None);
        house
            .push_all(&story, bob(), &[joined_again, event.clone()])
            .await;
        assert_eq!(house.verdict(&story, &event).await, Some(Verdict::Accepted));
    })
    .await;
}

#[tokio::test]
async fn parked_events_are_still_there_after_a_restart() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let ids = story.chain(&tip, ["first", "second"].map(|body| message(bob(), body)));
        house.fresh.env.tasks.stopping().cancel();
        // Out of order, in two transactions.
        house.push(&story, bob(), &[&ids[1]]).await;
        house.push(&story, bob(), &[&ids[0]]).await;
        let house = house.restart().await;
        house.settled(&story.room_id).await;
        assert_eq!(house.tip(&story.room_id).await, ids[1]);
    })
    .await;
}
