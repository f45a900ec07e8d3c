//! Rooms that refer to each other's events, and IDs that turn up where they don't belong.

use std::{collections::BTreeSet, slice::from_ref};

use myelin_core::{
    build::{EventDraft, countersign},
    event::Verdict,
    keys::KeyPair,
};
use myelin_storage::testing::on_each_engine;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, uint};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    house::{House, alice},
    peers::Peers,
    story::{Story, bob, carol, key_of, mallory, message, state, topic},
};

#[tokio::test]
async fn parents_and_auth_events_of_another_room_stop_nothing() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let (other, elsewhere) = house.shared_room().await;
        // The story takes the other room's last event for its own.
        let mut lies = story.clone();
        lies.believe(&other);
        let parent = lies.write(&[&elsewhere, &tip], message(mallory(), "a foreign parent"));
        let cited: Vec<_> = story.after(&tip).clone().into_values().take(1).collect();
        let words = message(mallory(), "a foreign auth event");
        let auth = lies.write(&[&tip], words.citing(cited.iter().chain([&elsewhere])));
        house
            .push_all(&lies, mallory(), &[parent.clone(), auth.clone()])
            .await;
        assert_eq!(house.verdict(&lies, &parent).await, None);
        assert_eq!(house.verdict(&lies, &auth).await, None);
        assert_eq!(house.tip(&story.room_id).await, tip);
        // Both rooms go on, also for those who were in the liar's company.
        for story in [&mut story, &mut other.clone()] {
            let tip = house.tip(&story.room_id).await;
            let next = house.says(story, &[&tip], topic(bob(), "on")).await;
            assert_eq!(house.tip(&story.room_id).await, next);
            house.say(&story.room_id, alice(), "and on").await;
        }
        let house = house.restart().await;
        assert_eq!(house.staged(&story.room_id).await, 0);
    })
    .await;
}

#[tokio::test]
async fn an_id_that_another_room_referred_to_first_is_no_trouble() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let (mut other, elsewhere) = house.shared_room().await;
        let real = story.write(&[&tip], topic(bob(), "real"));
        // A redaction is stored although nobody has what it redacts.
        let claim = crate::story::redaction(mallory(), &real);
        let claim = house.says(&mut other, &[&elsewhere], claim).await;
        assert_eq!(house.verdict(&other, &claim).await, Some(Verdict::Accepted));
        for round in 0..2 {
            house.push_all(&story, bob(), from_ref(&real)).await;
            assert_eq!(
                house.verdict(&story, &real).await,
                Some(Verdict::Accepted),
                "{round}"
            );
            assert_eq!(house.verdict(&other, &real).await, None);
            assert_eq!(house.tip(&story.room_id).await, real);
        }
        let child = house
            .says(&mut story, &[&real], message(carol(), "child"))
            .await;
        assert_eq!(house.tip(&story.room_id).await, child);
        assert_eq!(house.tip(&other.room_id).await, claim);
        let house = house.restart().await;
        assert_eq!(house.current(&story.room_id).await, *story.after(&child));
    })
    .await;
}

/// An event like another one that refers to so many parents, and so many auth events, of which nobody has heard;
/// signed by a key of this version.
fn referring(
    (story, like): (&Story, &OwnedEventId),
    parents: usize,
    auth_events: usize,
    key_version: &str,
) -> Value {
    let unheard = |number: usize| format!("${number:A>43}");
    let mut event = story.json(like);
    let refer = |list: &mut Value, count: usize| {
        let list = list.as_array_mut().unwrap();
        list.extend((list.len()..count).map(|number| unheard(number).into()));
    };
    refer(&mut event["prev_events"], parents);
    refer(&mut event["auth_events"], auth_events);
    event["signatures"] = json!({});
    let mut key = key_of(story.pdu(like).sender.server_name());
    if key.key_id().key_name().as_str() != key_version {
        key = KeyPair::new(
            key.server_name().to_owned(),
            key_version.try_into().unwrap(),
            [7; 32],
        );
    }
    let signed = countersign(story.version, &event.to_string(), &key).unwrap();
    serde_json::from_str(&signed).unwrap()
}

#[tokio::test]
async fn an_event_with_too_many_parents_or_auth_events_is_set_aside_and_nothing_is_asked() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let (mut story, tip) = house.shared_room().await;
        let like = story.write(&[&tip], message(bob(), "look there"));
        // By a key that this server has, and one that it would have to ask for.
        for key in ["a", "unheard"] {
            for (parents, auth_events) in [(21, 0), (0, 11), (21, 11), (500, 500)] {
                let event = referring((&story, &like), parents, auth_events, key);
                let answer = house.transact(bob(), vec![event]).await.unwrap();
                assert_eq!(answer, json!({ "pdus": {} }));
            }
        }
        let next = house
            .says(&mut story, &[&tip], message(carol(), "on"))
            .await;
        assert_eq!(house.tip(&story.room_id).await, next);
        assert_eq!(peers.asked(), []);
        // At the limits it is an event like others.
        let event = referring((&story, &like), 20, 10, "a");
        let answer = house.transact(bob(), vec![event]).await.unwrap();
        assert_eq!(answer["pdus"].as_object().unwrap().len(), 1, "{answer}");
        house.settled(&story.room_id).await;
        assert_eq!(peers.times("get_missing_events"), 1);
    })
    .await;
}

#[tokio::test]
async fn an_event_that_cites_itself_or_the_future_is_refused() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let future = story.write(&[&tip], topic(bob(), "future"));
        let cited: Vec<_> = story.after(&tip).clone().into_values().take(2).collect();
        let words = message(mallory(), "now").citing(cited.iter().chain([&future]));
        let event = house.says(&mut story, &[&tip], words).await;
        assert_eq!(house.verdict(&story, &event).await, None);
        assert_eq!(house.tip(&story.room_id).await, tip);
    })
    .await;
}

#[tokio::test]
async fn a_depth_at_the_end_of_all_depths_does_not_stop_the_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let words = message(mallory(), "deep").at_depth((1 << 53) - 1);
        let deep = house.says(&mut story, &[&tip], words).await;
        assert_eq!(house.verdict(&story, &deep).await, Some(Verdict::Accepted));
        let ours = house.say(&story.room_id, alice(), "ours").await;
        assert_eq!(
            house.extremities(&story.room_id).await,
            BTreeSet::from([ours])
        );
    })
    .await;
}

#[tokio::test]
async fn an_event_without_parents_changes_nothing() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let before = house.current(&story.room_id).await;
        let levels = before[&("m.room.power_levels".to_owned(), String::new())].clone();
        let create = before[&("m.room.create".to_owned(), String::new())].clone();
        let member = before[&("m.room.member".to_owned(), bob().to_string())].clone();
        let words = topic(bob(), "from nowhere").citing([&create, &levels, &member]);
        let event = house.says(&mut story, &[], words.at_depth(9)).await;
        assert_ne!(house.verdict(&story, &event).await, Some(Verdict::Accepted));
        assert_eq!(house.current(&story.room_id).await, before);
        assert_eq!(house.tip(&story.room_id).await, tip);
    })
    .await;
}

#[tokio::test]
async fn a_second_create_event_is_refused_and_so_is_what_is_built_on_it() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let before = house.current(&story.room_id).await;
        for state_key in [Some(""), Some("other"), None] {
            // The room's ID is of the server that signs.
            let draft = EventDraft {
                room_id: Some(story.room_id.clone()),
                sender: alice().to_owned(),
                event_type: "m.room.create".to_owned(),
                state_key: state_key.map(str::to_owned),
                content: to_raw_value(&json!({"room_version": "11"})).unwrap(),
                prev_events: Vec::new(),
                auth_events: Vec::new(),
                depth: 1,
                origin_server_ts: MilliSecondsSinceUnixEpoch(uint!(1)),
                redacts: None,
            };
            let create = draft.finish(story.version, house.key()).unwrap().into_pdu();
            story.read(create.clone());
            let child = story.write(&[&create.event_id, &tip], message(bob(), "child"));
            house
                .push_all(&story, bob(), &[create.event_id.clone(), child.clone()])
                .await;
            assert_eq!(house.verdict(&story, &create.event_id).await, None);
            assert_eq!(house.verdict(&story, &child).await, None);
        }
        assert_eq!(house.tip(&story.room_id).await, tip);
        assert_eq!(house.current(&story.room_id).await, before);
    })
    .await;
}

#[tokio::test]
async fn a_zero_in_the_text_of_an_event_stops_nothing() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let odd = [
            state(bob(), "x", "a\0b", json!({})),
            state(bob(), "x", "a\u{1}b", json!({})),
            state(bob(), "x", "a\u{1}0b", json!({})),
            state(bob(), "y\0", "", json!({"z\0": "\0"})),
            // The reasons for rejecting these quote them.
            state(mallory(), "y\0", "", json!({})),
            state(
                mallory(),
                "m.room.power_levels",
                "",
                json!({"users": {"\0": 1}}),
            ),
        ];
        let ids = story.chain(&tip, odd);
        house.push_all(&story, bob(), &ids).await;
        for id in &ids[..4] {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Accepted));
        }
        for id in &ids[4..] {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Rejected));
        }
        let house = house.restart().await;
        let current = house.current(&story.room_id).await;
        for (key, id) in ["a\0b", "a\u{1}b", "a\u{1}0b"].iter().zip(&ids) {
            let key = ("x".to_owned(), (*key).to_owned());
            assert_eq!(current.get(&key), Some(id));
        }
        house.say(&story.room_id, alice(), "on").await;
    })
    .await;
}
