//! Transactions of other servers, from their arrival to the place of each event in its room.

use myelin_core::{event::Verdict, number::StreamPosition};
use myelin_rooms::ReceiveError;
use myelin_storage::testing::on_each_engine;
use ruma::{OwnedEventId, room_id};
use serde_json::{Value, json};

use crate::{
    house::{House, alice, raw},
    story::{Story, bob, carol, mallory, message, topic},
};

/// An event whose signature is wrong.
fn forged(story: &Story, id: &OwnedEventId) -> Value {
    let mut json = story.json(id);
    let signature = &mut json["signatures"]["127.0.0.1:1"]["ed25519:a"];
    *signature = story.json(id)["hashes"]["sha256"].take();
    json
}

#[tokio::test]
async fn a_repeated_transaction_gets_the_same_answer_and_happens_once_even_after_a_restart() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let good = story.write(&[&tip], message(bob(), "good"));
        let bad = story.write(&[&tip], message(bob(), "bad"));
        let pdus = raw(&[story.json(&good), forged(&story, &bad)]);
        let server = bob().server_name();
        let first = house.transact_as((server, "t"), pdus.clone()).await;
        let first = first.unwrap().get().to_owned();
        let parsed: Value = serde_json::from_str(&first).unwrap();
        assert_eq!(parsed["pdus"][good.as_str()], json!({}));
        assert!(parsed["pdus"][bad.as_str()]["error"].is_string(), "{first}");
        house.settled(&story.room_id).await;
        let shown = house.timeline(&story.room_id).await;

        let house = house.restart().await;
        // What it says now doesn't matter: it was answered.
        let other = story.write(&[&tip], message(bob(), "other"));
        for pdus in [pdus, raw(&[story.json(&other)])] {
            let again = house.transact_as((server, "t"), pdus.clone()).await;
            assert_eq!(again.unwrap().get(), first);
        }
        house.settled(&story.room_id).await;
        assert_eq!(house.timeline(&story.room_id).await, shown);
        // Transaction IDs are each server's own.
        let pdus = raw(&[story.json(&other)]);
        let theirs = house.transact_as((carol().server_name(), "t"), pdus.clone());
        assert_ne!(theirs.await.unwrap().get(), first);
    })
    .await;
}

#[tokio::test]
async fn what_others_put_under_unsigned_is_not_stored() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let id = story.write(&[&tip], message(bob(), "hello"));
        let mut event = story.json(&id);
        event["unsigned"] = json!({"age_ts": 3, "transaction_id": "t", "prev_content": {}});
        house.transact(bob(), vec![event]).await.unwrap();
        house.settled(&story.room_id).await;
        let stored = house.event(&story.room_id, &id).await.unwrap();
        assert_eq!(stored.pdu.json, story.pdu(&id).json);
    })
    .await;
}

#[tokio::test]
async fn one_transaction_of_a_server_is_taken_at_a_time() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let id = story.write(&[&tip], message(bob(), "hello"));
        let pdus = raw(&[story.json(&id)]);
        let take = |user: &'static ruma::UserId, txn_id: &'static str| {
            let taken = house.transact_as((user.server_name(), txn_id), pdus.clone());
            Box::pin(taken)
        };
        let taking = house.rooms.begin_taking(bob().server_name(), "a");
        let taking = taking.await.unwrap();
        let other = take(bob(), "b").await;
        assert!(matches!(other, Err(ReceiveError::Busy)), "{other:?}");
        take(carol(), "b").await.unwrap();
        let first = async {
            let answer = house.rooms.receive_transaction(&taking, pdus.clone());
            let answer = answer.await.unwrap();
            drop(taking);
            answer
        };
        let (first, same) = tokio::join!(first, take(bob(), "a"));
        assert_eq!(first.get(), same.unwrap().get());
        take(bob(), "b").await.unwrap();
        house.settled(&story.room_id).await;
        let shown = house.timeline(&story.room_id).await;
        assert_eq!(shown.iter().filter(|shown| **shown == id).count(), 1);
    })
    .await;
}

#[tokio::test]
async fn malformed_pdus_do_not_affect_their_neighbours() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let ids = story.chain(&tip, ["a", "b", "c"].map(|body| message(bob(), body)));
        let odd = story.write(&[&tip], message(bob(), "odd"));
        let mut without_depth = story.json(&odd);
        without_depth.as_object_mut().unwrap().remove("depth");
        let mut depth_as_text = story.json(&odd);
        depth_as_text["depth"] = json!("7");
        let mut negative = story.json(&odd);
        negative["depth"] = json!(-1);
        let mut too_large = story.json(&odd);
        too_large["depth"] = json!(1_u64 << 53);
        let answer = house
            .transact(
                bob(),
                vec![
                    json!({"room_id": story.room_id}),
                    story.json(&ids[0]),
                    json!("no event"),
                    without_depth,
                    story.json(&ids[1]),
                    depth_as_text,
                    negative,
                    too_large,
                    forged(&story, &odd),
                    json!({"room_id": 7}),
                    story.json(&ids[2]),
                ],
            )
            .await
            .unwrap();
        for id in &ids {
            assert_eq!(answer["pdus"][id.as_str()], json!({}));
        }
        assert!(
            answer["pdus"][odd.as_str()]["error"].is_string(),
            "{answer}"
        );
        house.settled(&story.room_id).await;
        for id in &ids {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Accepted));
        }
        assert_eq!(house.verdict(&story, &odd).await, None);
    })
    .await;
}

#[tokio::test]
async fn acknowledged_events_are_judged_after_a_crash() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let ids = story.chain(&tip, ["a", "b", "c"].map(|body| message(bob(), body)));
        house
            .push(&story, bob(), &ids.iter().collect::<Vec<_>>())
            .await;
        // Before the room's worker has had its turn.
        house.fresh.env.tasks.stopping().cancel();
        let house = house.restart().await;
        house.settled(&story.room_id).await;
        for id in &ids {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Accepted));
        }
        assert_eq!(house.tip(&story.room_id).await, ids[2]);
    })
    .await;
}

#[tokio::test]
async fn a_crash_before_the_judgement_leaves_the_events_staged() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let ids = story.chain(&tip, ["a", "b"].map(|body| message(bob(), body)));
        house.fresh.env.tasks.stopping().cancel();
        house
            .push(&story, bob(), &ids.iter().collect::<Vec<_>>())
            .await;
        tokio::task::yield_now().await;
        assert_eq!(house.staged(&story.room_id).await, 2);
        let house = house.restart().await;
        house.settled(&story.room_id).await;
        assert_eq!(house.tip(&story.room_id).await, ids[1]);
    })
    .await;
}

#[tokio::test]
async fn events_of_a_room_take_their_places_in_the_order_of_arrival() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let mut sent = Vec::new();
        // None refers to another, so nothing but arrival orders them.
        for round in 0..6 {
            let ids: Vec<_> = (0..40)
                .map(|n| story.write(&[&tip], message(bob(), &format!("{round}/{n}"))))
                .collect();
            let from = [bob(), carol(), mallory()][round % 3];
            house
                .push(&story, from, &ids.iter().collect::<Vec<_>>())
                .await;
            sent.extend(ids);
        }
        house.settled(&story.room_id).await;
        let mut shown = house.timeline(&story.room_id).await;
        shown.retain(|id| sent.contains(id));
        assert_eq!(shown, sent);
        let mut last = StreamPosition(0);
        for id in &sent {
            let event = house.event(&story.room_id, id).await.unwrap();
            let myelin_core::event::Place::Timeline { position, .. } = event.place else {
                panic!("{id} is an outlier");
            };
            assert!(position > last);
            last = position;
        }
    })
    .await;
}

#[tokio::test]
async fn events_of_a_room_we_are_not_in_are_ignored() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        house
            .rooms
            .leave(alice(), &story.room_id, None)
            .await
            .unwrap();
        house.tell(&mut story).await;
        let left = house.tip(&story.room_id).await;
        assert_ne!(left, tip);
        let id = story.write(&[&left], message(bob(), "are you there?"));
        let gap = story.write(&[&id], message(mallory(), "after a gap"));
        let mut nowhere = story.clone();
        nowhere.room_id = room_id!("!nowhere:127.0.0.1:1").to_owned();
        let unknown = nowhere.write(&[&tip], message(mallory(), "who is there?"));
        let pdus = vec![story.json(&gap), nowhere.json(&unknown), story.json(&id)];
        let answer = house.transact(mallory(), pdus).await.unwrap();
        assert_eq!(answer["pdus"], json!({}));
        assert_eq!(house.staged(&story.room_id).await, 0);
        assert_eq!(house.verdict(&story, &id).await, None);
        assert!(house.rooms.room(&nowhere.room_id).await.unwrap().is_none());
        let running = house.fresh.env.tasks.running();
        assert!(!running.contains(&"settle parked events"), "{running:?}");
    })
    .await;
}

#[tokio::test]
async fn a_known_event_is_ignored() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let id = house.says(&mut story, &[&tip], topic(bob(), "one")).await;
        let next = house.says(&mut story, &[&id], message(bob(), "next")).await;
        let shown = house.timeline(&story.room_id).await;
        // Twice in one transaction, and from another server.
        house.push(&story, carol(), &[&id, &next, &id]).await;
        house.settled(&story.room_id).await;
        assert_eq!(house.timeline(&story.room_id).await, shown);
        assert_eq!(house.tip(&story.room_id).await, next);
    })
    .await;
}

#[tokio::test]
async fn a_burst_is_kept_whole() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let words = (0..5_000).map(|n| message(bob(), &n.to_string()));
        let ids = story.chain(&tip, words);
        let before = house.timeline(&story.room_id).await.len();
        for piece in ids.chunks(50) {
            house
                .push(&story, bob(), &piece.iter().collect::<Vec<_>>())
                .await;
        }
        house.settled(&story.room_id).await;
        assert_eq!(house.timeline(&story.room_id).await[before..], ids);
        assert_eq!(house.tip(&story.room_id).await, ids[4_999]);
    })
    .await;
}
