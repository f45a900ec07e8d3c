//! Rejected and soft-failed events: what they change and what they don't.

use std::{collections::BTreeSet, slice::from_ref};

use myelin_core::{
    event::{Event, Place, Verdict},
    number::{EventNr, StreamPosition},
};
use myelin_storage::{
    events::{self, NewEvent},
    testing::on_each_engine,
};
use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId,
    canonical_json::redact,
    signatures::{add_content_hash_to_event, reference_hash},
};
use serde_json::{Value, json};

use crate::{
    house::{House, alice},
    story::{Entries, Story, bob, carol, key_of, mallory, membership, message, state, topic},
};

fn entry(state: &Entries, event_type: &str) -> OwnedEventId {
    state[&(event_type.to_owned(), String::new())].clone()
}

#[tokio::test]
async fn every_timeline_event_has_its_state_and_a_rejected_one_changes_nothing() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let accepted = story.write(&[&tip], topic(bob(), "by bob"));
        // Carol has no power over topics.
        let rejected = story.write(&[&accepted], topic(carol(), "by carol"));
        story.is_rejected(&rejected);
        let next = story.write(&[&rejected], message(carol(), "as you wish"));
        let ids = [accepted, rejected.clone(), next.clone()];
        let answer = house
            .push(&story, carol(), &ids.iter().collect::<Vec<_>>())
            .await;
        assert_eq!(answer[rejected.as_str()], json!({}));
        house.settled(&story.room_id).await;
        let expected = [Verdict::Accepted, Verdict::Rejected, Verdict::Accepted];
        for (id, expected) in ids.iter().zip(expected) {
            assert_eq!(house.verdict(&story, id).await, Some(expected));
            let before = story.before(&story.pdu(id).prev_events);
            assert_eq!(house.state_before(&story.room_id, id).await, before);
        }
        assert_eq!(house.current(&story.room_id).await, *story.after(&next));
        // The event after the rejected one covers what lies behind it.
        assert_eq!(house.tip(&story.room_id).await, next);
        let shown = house.timeline(&story.room_id).await;
        assert!(!shown.contains(&rejected));
        assert!(shown.ends_with(&[next]));
    })
    .await;
}

#[tokio::test]
async fn a_rejected_event_is_no_extremity() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let rejected = house.says(&mut story, &[&tip], topic(carol(), "no")).await;
        assert_eq!(
            house.verdict(&story, &rejected).await,
            Some(Verdict::Rejected)
        );
        assert_eq!(house.tip(&story.room_id).await, tip);
        let ours = house.say(&story.room_id, alice(), "hello").await;
        let ours = house.event(&story.room_id, &ours).await.unwrap();
        assert_eq!(ours.pdu.prev_events, [tip]);
    })
    .await;
}

/// R2. Servers used to measure in code points what has a limit in bytes, and let such events in.
#[tokio::test]
async fn what_is_too_long_only_in_bytes_is_kept_as_rejected_in_old_rooms_and_dropped_in_new_ones() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for (version, kept) in [("10", Some(Verdict::Rejected)), ("11", None)] {
            let room_id = house.create(version).await;
            let mut story = house.story(&room_id).await;
            let start = house.tip(&room_id).await;
            let join = membership(bob(), bob(), "join");
            let start = house.says(&mut story, &[&start], join).await;
            let short = story.write(&[&start], message(bob(), "short"));
            for (field, value, expected) in [
                ("type", "é".repeat(128), kept),
                ("state_key", "é".repeat(255), kept),
                ("type", "é".repeat(256), None),
                ("state_key", "x".repeat(256), None),
            ] {
                let (long, id) = rewritten(&story, &short, field, &value);
                house.transact(bob(), vec![long]).await.unwrap();
                house.settled(&room_id).await;
                let verdict = house.verdict(&story, &id).await;
                assert_eq!(verdict, expected, "version {version}, {field}");
            }
        }
    })
    .await;
}

/// An event of a story with another value of a field, which no server writes today, and its ID.
fn rewritten(story: &Story, id: &EventId, field: &str, value: &str) -> (Value, OwnedEventId) {
    let rules = story.version.rules();
    let mut event: CanonicalJsonObject = serde_json::from_value(story.json(id)).unwrap();
    event.insert(field.to_owned(), value.into());
    event.remove("signatures");
    add_content_hash_to_event(&mut event).unwrap();
    let mut signed = redact(event.clone(), &rules.redaction, None).unwrap();
    let key = key_of(story.pdu(id).sender.server_name());
    key.sign_json(&mut signed).unwrap();
    event.insert("signatures".into(), signed["signatures"].clone());
    let hash = reference_hash(&event, rules).unwrap();
    let id = format!("${hash}").try_into().unwrap();
    (serde_json::to_value(event).unwrap(), id)
}

#[tokio::test]
async fn an_event_that_only_its_claimed_auth_events_permit_is_rejected() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let before = story.before(from_ref(&tip));
        let levels = entry(&before, "m.room.power_levels");
        let alone = json!({ alice().as_str(): 100 });
        let demoted = house.set_power(&mut story, alone).await;
        let joined = before[&("m.room.member".to_owned(), bob().to_string())].clone();
        let words =
            topic(bob(), "as if").citing([&entry(&before, "m.room.create"), &levels, &joined]);
        let event = house.says(&mut story, &[&demoted], words).await;
        assert_eq!(house.verdict(&story, &event).await, Some(Verdict::Rejected));
        // Other events than ours would have been are no reason, if both permit it (R20).
        let words =
            message(bob(), "well").citing([&entry(&before, "m.room.create"), &levels, &joined]);
        let event = house.says(&mut story, &[&demoted], words).await;
        assert_eq!(house.verdict(&story, &event).await, Some(Verdict::Accepted));
    })
    .await;
}

#[tokio::test]
async fn a_message_from_beside_a_ban_is_soft_failed() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let ban = house
            .says(&mut story, &[&tip], membership(bob(), mallory(), "ban"))
            .await;
        assert_eq!(house.verdict(&story, &ban).await, Some(Verdict::Accepted));
        let beside = house
            .says(&mut story, &[&tip], message(mallory(), "spam"))
            .await;
        assert_eq!(
            house.verdict(&story, &beside).await,
            Some(Verdict::SoftFailed)
        );
        // An honest server's event on the same branch is fine.
        let honest = house
            .says(&mut story, &[&tip], message(carol(), "hello"))
            .await;
        assert_eq!(
            house.verdict(&story, &honest).await,
            Some(Verdict::Accepted)
        );
        let shown = house.timeline(&story.room_id).await;
        assert!(!shown.contains(&beside));
        let expected = BTreeSet::from([ban.clone(), honest.clone()]);
        assert_eq!(house.extremities(&story.room_id).await, expected);
        assert_eq!(
            house.current(&story.room_id).await,
            story.before(&[ban, honest])
        );
    })
    .await;
}

#[tokio::test]
async fn a_soft_failed_event_that_is_referred_to_becomes_state() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let left = house
            .says(&mut story, &[&tip], membership(bob(), bob(), "leave"))
            .await;
        // Written before he left, and late.
        let topic = house
            .says(&mut story, &[&tip], topic(bob(), "before I go").long_ago())
            .await;
        assert_eq!(
            house.verdict(&story, &topic).await,
            Some(Verdict::SoftFailed)
        );
        let key = ("m.room.topic".to_owned(), String::new());
        assert!(!house.current(&story.room_id).await.contains_key(&key));
        let merge = house
            .says(&mut story, &[&left, &topic], message(carol(), "both"))
            .await;
        assert_eq!(house.verdict(&story, &merge).await, Some(Verdict::Accepted));
        assert_eq!(house.tip(&story.room_id).await, merge);
        let current = house.current(&story.room_id).await;
        assert_eq!(current, *story.after(&merge));
        assert_eq!(current.get(&key), Some(&topic));
    })
    .await;
}

#[tokio::test]
async fn an_event_after_only_a_soft_failed_one_joins_its_branch_to_the_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let ban = house
            .says(&mut story, &[&tip], membership(bob(), mallory(), "ban"))
            .await;
        let beside = house
            .says(&mut story, &[&tip], message(mallory(), "spam"))
            .await;
        let after = house
            .says(&mut story, &[&beside], message(carol(), "who was that?"))
            .await;
        assert_eq!(house.verdict(&story, &after).await, Some(Verdict::Accepted));
        let expected = BTreeSet::from([ban.clone(), after.clone()]);
        assert_eq!(house.extremities(&story.room_id).await, expected);
        let ours = house.say(&story.room_id, alice(), "a spammer").await;
        let ours = house.event(&story.room_id, &ours).await.unwrap();
        let parents: BTreeSet<_> = ours.pdu.prev_events.iter().cloned().collect();
        assert_eq!(parents, expected);
        assert_eq!(
            house.current(&story.room_id).await,
            story.before(&[ban, after])
        );
    })
    .await;
}

#[tokio::test]
async fn a_parent_that_comes_after_its_child_is_no_extremity() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let content = json!({"alias": "#x:127.0.0.1:1"});
        let words = state(bob(), "m.room.canonical_alias", "", content);
        let first = house.says(&mut story, &[&tip], words).await;
        let second = house
            .says(&mut story, &[&first], message(bob(), "second"))
            .await;
        let third = house
            .says(&mut story, &[&tip, &second], message(carol(), "third"))
            .await;
        assert_eq!(house.tip(&story.room_id).await, third);
    })
    .await;
}

#[tokio::test]
async fn what_an_accepted_event_reaches_through_soft_failed_ones_is_no_extremity() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let late = story.write(&[&tip], message(bob(), "late"));
        let failed = story.chain(&late, ["a", "b"].map(|body| message(mallory(), body)));
        let accepted = story.write(&[&failed[1]], message(carol(), "accepted"));
        // The others took their places when the first was missing.
        let room = house.room(&story.room_id).await;
        let before = house.event(&story.room_id, &tip).await.unwrap().before();
        let chain = [
            (&failed[0], Verdict::SoftFailed),
            (&failed[1], Verdict::SoftFailed),
            (&accepted, Verdict::Accepted),
        ];
        let rows: Vec<NewEvent> = (2_000_001..)
            .zip(chain)
            .map(|(nr, (id, verdict))| NewEvent {
                event: Event {
                    nr: EventNr(nr),
                    pdu: story.pdu(id).clone(),
                    verdict,
                    place: Place::Timeline {
                        before: before.unwrap(),
                        position: StreamPosition(-nr),
                    },
                    redacted_by: None,
                },
                reason: None,
                auth_events: Vec::new(),
                prev_events: vec![EventNr(nr - 1)],
            })
            .collect();
        let (nr, missing) = (room.key.room, late.clone());
        house
            .write(move |tx| {
                Box::pin(async move {
                    events::put_reference(tx, nr, EventNr(2_000_000), &missing).await?;
                    events::put(tx, nr, &rows).await
                })
            })
            .await;
        house.push_all(&story, bob(), from_ref(&late)).await;
        assert_eq!(house.verdict(&story, &late).await, Some(Verdict::Accepted));
        assert_eq!(house.tip(&story.room_id).await, tip);
    })
    .await;
}
