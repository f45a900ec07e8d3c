//! Redactions, in whatever order they and their targets come.

use std::slice::from_ref;

use myelin_core::event::Verdict;
use myelin_storage::testing::on_each_engine;
use ruma::{EventId, UserId};

use crate::{
    house::{House, alice, dora, new_event},
    story::{Story, bob, carol, mallory, message, redaction, topic},
};

/// Which event redacted another.
async fn redacted_by(house: &House, story: &Story, id: &EventId) -> Option<ruma::OwnedEventId> {
    let room = house.room(&story.room_id).await;
    let by = house.event(&story.room_id, id).await.unwrap().redacted_by?;
    let held = room.events(&house.rooms, [by]).await.unwrap();
    Some(held[&by].pdu.event_id.clone())
}

#[tokio::test]
async fn whoever_wrote_an_event_or_has_the_power_may_redact_it() {
    let cases: [(&'static UserId, &'static UserId, bool); 4] = [
        (carol(), carol(), true),
        (carol(), bob(), true),
        (bob(), carol(), false),
        (carol(), mallory(), false),
    ];
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, mut tip) = house.shared_room().await;
        for (author, redactor, allowed) in cases {
            let target = house
                .says(&mut story, &[&tip], message(author, "oops"))
                .await;
            tip = house
                .says(&mut story, &[&target], redaction(redactor, &target))
                .await;
            // The redaction itself is in the room in any case.
            assert_eq!(house.verdict(&story, &tip).await, Some(Verdict::Accepted));
            let expected = allowed.then(|| tip.clone());
            assert_eq!(redacted_by(&house, &story, &target).await, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn a_redaction_waits_for_its_target_over_a_restart() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let mut pairs = Vec::new();
        for (author, redactor, allowed) in [(carol(), carol(), true), (carol(), mallory(), false)] {
            let target = story.write(&[&tip], message(author, "oops"));
            let by = house
                .says(&mut story, &[&tip], redaction(redactor, &target))
                .await;
            assert_eq!(
                house
                    .event(&story.room_id, &target)
                    .await
                    .map(|event| event.nr),
                None
            );
            pairs.push((target, by, allowed));
        }
        let house = house.restart().await;
        for (target, by, allowed) in pairs {
            house.push_all(&story, bob(), from_ref(&target)).await;
            assert_eq!(
                house.verdict(&story, &target).await,
                Some(Verdict::Accepted)
            );
            let expected = allowed.then_some(by);
            assert_eq!(redacted_by(&house, &story, &target).await, expected);
        }
        // A restart does not forget it.
        let redacted = house.timeline(&story.room_id).await;
        let house = house.restart().await;
        assert_eq!(house.timeline(&story.room_id).await, redacted);
        let last = redacted.last().unwrap();
        assert_eq!(redacted_by(&house, &story, last).await, None);
    })
    .await;
}

#[tokio::test]
async fn a_redaction_of_an_outlier_lasts_when_it_takes_its_place() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let target = story.write(&[&tip], topic(bob(), "oops"));
        house.put_outlier(&story, &target).await;
        let by = house
            .says(&mut story, &[&tip], redaction(bob(), &target))
            .await;
        assert_eq!(redacted_by(&house, &story, &target).await, Some(by.clone()));
        house.push_all(&story, bob(), from_ref(&target)).await;
        assert!(
            house
                .event(&story.room_id, &target)
                .await
                .unwrap()
                .in_timeline()
        );
        assert_eq!(redacted_by(&house, &story, &target).await, Some(by));
    })
    .await;
}

#[tokio::test]
async fn a_redaction_in_another_room_has_no_effect() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        // Mallory has the power in another room, and knows of an event before we do.
        let (mut other, elsewhere) = house.shared_room().await;
        let target = story.write(&[&tip], message(carol(), "not yours"));
        let redaction = redaction(bob(), &target);
        house.says(&mut other, &[&elsewhere], redaction).await;
        // Something in the room refers to the target before it comes.
        let nonsense = crate::story::redaction(mallory(), &target);
        house.says(&mut story, &[&tip], nonsense).await;
        house.push_all(&story, carol(), from_ref(&target)).await;
        assert_eq!(
            house.verdict(&story, &target).await,
            Some(Verdict::Accepted)
        );
        assert_eq!(redacted_by(&house, &story, &target).await, None);
        // And after it came.
        house
            .says(
                &mut other,
                &[&elsewhere],
                crate::story::redaction(bob(), &target),
            )
            .await;
        assert_eq!(redacted_by(&house, &story, &target).await, None);
    })
    .await;
}

#[tokio::test]
async fn local_users_redact_what_they_may() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        house.join(&story.room_id, dora()).await;
        for (author, redactor) in [(dora(), dora()), (dora(), alice())] {
            let target = house.say(&story.room_id, author, "oops").await;
            let mut event = new_event(redactor, "m.room.redaction", None, &serde_json::json!({}));
            event.redacts = Some(target.clone());
            let by = house.rooms.send(&story.room_id, event).await.unwrap();
            assert_eq!(redacted_by(&house, &story, &target).await, Some(by));
        }
    })
    .await;
}
