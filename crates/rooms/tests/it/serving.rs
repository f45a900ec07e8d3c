//! What other servers may ask.

use std::{collections::BTreeSet, time::Duration};

use myelin_core::{event::Verdict, state::Membership};
use myelin_rooms::{Moment, ServeError};
use myelin_storage::{
    Priority, StorageError, accounts, events::Direction, testing::on_each_engine,
};
use ruma::{OwnedEventId, ServerName, event_id, room_id, server_name};
use serde_json::{Value, json};

use crate::{
    house::{House, alice, new_event, wish},
    resident::{joins, json_of},
    story::{Story, bob, carol, mallory, membership, message, topic},
};

fn parsed(answer: Result<String, ServeError>) -> Value {
    serde_json::from_str(&answer.unwrap()).unwrap()
}

fn set(ids: &Value) -> BTreeSet<String> {
    let ids = ids.as_array().unwrap().iter();
    let ids: Vec<String> = ids.map(|id| id.as_str().unwrap().to_owned()).collect();
    let set: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(set.len(), ids.len(), "twice: {ids:?}");
    set
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a OwnedEventId>) -> BTreeSet<String> {
    ids.into_iter().map(ToString::to_string).collect()
}

/// The IDs of whole events, in their order.
fn ids_of(house_version: myelin_core::room_version::RoomVersion, events: &Value) -> Vec<String> {
    let id = |event: &Value| {
        let parsed =
            myelin_core::validate::Unverified::parse(house_version, &event.to_string(), None);
        parsed.unwrap().event_id().to_string()
    };
    events.as_array().unwrap().iter().map(id).collect()
}

/// All that the events of a state reach through their auth events.
fn chain<'a>(story: &Story, of: impl IntoIterator<Item = &'a OwnedEventId>) -> BTreeSet<String> {
    let mut next: Vec<OwnedEventId> = Vec::new();
    for id in of {
        next.extend(story.pdu(id).auth_events.iter().cloned());
    }
    let mut reached = BTreeSet::new();
    while let Some(id) = next.pop() {
        if reached.insert(id.to_string()) {
            next.extend(story.pdu(&id).auth_events.iter().cloned());
        }
    }
    reached
}

#[tokio::test]
async fn the_state_at_an_event_is_that_before_it_with_its_auth_chain() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let first = house.says(&mut story, &[&tip], topic(bob(), "first")).await;
        let second = house
            .says(&mut story, &[&first], topic(bob(), "second"))
            .await;
        let before = story.after(&first).clone();
        let (rooms, server) = (&house.rooms, bob().server_name());
        let answer = parsed(rooms.serve_state_ids(server, &story.room_id, &second).await);
        assert_eq!(set(&answer["pdu_ids"]), ids(before.values()));
        assert!(set(&answer["pdu_ids"]).contains(first.as_str()));
        assert_eq!(
            set(&answer["auth_chain_ids"]),
            chain(&story, before.values())
        );
        let whole = rooms.serve_state(server, &story.room_id, &second).await;
        let whole = json_of(whole.unwrap()).await;
        let listed = |key: &str| BTreeSet::from_iter(ids_of(story.version, &whole[key]));
        assert_eq!(listed("pdus"), ids(before.values()));
        assert_eq!(listed("auth_chain"), chain(&story, before.values()));
        let auth = rooms
            .serve_event_auth(server, &story.room_id, &second)
            .await;
        let auth = json_of(auth.unwrap()).await;
        let listed = BTreeSet::from_iter(ids_of(story.version, &auth["auth_chain"]));
        assert_eq!(listed, chain(&story, [&second]));
        // A message's chain too, though nothing is authorised by messages.
        let said = house
            .says(&mut story, &[&second], message(carol(), "hello"))
            .await;
        let auth = rooms.serve_event_auth(server, &story.room_id, &said).await;
        let auth = json_of(auth.unwrap()).await;
        let listed = BTreeSet::from_iter(ids_of(story.version, &auth["auth_chain"]));
        assert_eq!(listed, chain(&story, [&said]));
        let event = parsed(rooms.serve_event(server, &second).await);
        assert_eq!(event["pdus"], json!([story.json(&second)]));
        assert_eq!(event["origin"], "x.example");
    })
    .await;
}

#[tokio::test]
async fn where_no_state_is_known_there_is_nothing_to_serve() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let outlier = story.write(&[&tip], topic(bob(), "outlier"));
        house.put_outlier(&story, &outlier).await;
        let unknown = event_id!("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").to_owned();
        let (rooms, server) = (&house.rooms, bob().server_name());
        for id in [&outlier, &unknown] {
            let state = rooms.serve_state_ids(server, &story.room_id, id).await;
            assert!(matches!(state, Err(ServeError::NotFound(_))), "{state:?}");
            let state = rooms
                .serve_state(server, &story.room_id, id)
                .await
                .map(drop);
            assert!(matches!(state, Err(ServeError::NotFound(_))), "{state:?}");
        }
        let none = rooms.serve_event(server, &unknown).await;
        assert!(matches!(none, Err(ServeError::NotFound(_))), "{none:?}");
        let nowhere = room_id!("!nowhere:x.example");
        let none = rooms.serve_state_ids(server, nowhere, &tip).await;
        assert!(matches!(none, Err(ServeError::NotFound(_))), "{none:?}");
        // An event of another room is none of this one.
        let (_, elsewhere) = house.shared_room().await;
        let none = rooms
            .serve_state_ids(server, &story.room_id, &elsewhere)
            .await;
        assert!(matches!(none, Err(ServeError::NotFound(_))), "{none:?}");
    })
    .await;
}

#[tokio::test]
async fn servers_that_are_not_in_the_room_get_nothing() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let left = membership(mallory(), mallory(), "leave");
        house.says(&mut story, &[&tip], left).await;
        let (rooms, room_id) = (&house.rooms, &story.room_id);
        let strangers: [&ServerName; 2] =
            [server_name!("stranger.example"), mallory().server_name()];
        for server in strangers {
            let missing = json!({"earliest_events": [], "latest_events": [tip]}).to_string();
            let answers = [
                rooms.serve_event(server, &tip).await,
                rooms
                    .serve_event_auth(server, room_id, &tip)
                    .await
                    .map(|_| String::new()),
                rooms
                    .serve_state(server, room_id, &tip)
                    .await
                    .map(|_| String::new()),
                rooms.serve_state_ids(server, room_id, &tip).await,
                rooms
                    .serve_missing_events(server, room_id, missing.as_bytes())
                    .await,
                rooms
                    .serve_backfill(server, room_id, vec![tip.clone()], 10)
                    .await,
            ];
            for answer in answers {
                assert!(
                    matches!(answer, Err(ServeError::Forbidden(_))),
                    "{answer:?}"
                );
            }
        }
    })
    .await;
}

async fn missing(house: &House, story: &Story, request: Value) -> Vec<String> {
    let body = request.to_string();
    let server = bob().server_name();
    let answer = house
        .rooms
        .serve_missing_events(server, &story.room_id, body.as_bytes());
    ids_of(story.version, &parsed(answer.await)["events"])
}

#[tokio::test]
async fn missing_events_come_oldest_first_and_only_from_the_timeline() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let chain = story.chain(&tip, (0..30).map(|n| message(bob(), &n.to_string())));
        house.push_all(&story, bob(), &chain).await;
        let texts: Vec<String> = chain.iter().map(ToString::to_string).collect();
        let latest = &chain[29];
        let all = json!({"earliest_events": [chain[24]], "latest_events": [latest]});
        assert_eq!(missing(&house, &story, all).await, texts[25..29]);
        let default = json!({"earliest_events": [tip], "latest_events": [latest]});
        assert_eq!(
            missing(&house, &story, default.clone()).await,
            texts[19..29]
        );
        for (limit, expected) in [(3, 3), (20, 20), (1_000, 20), (0, 0)] {
            let mut limited = default.clone();
            limited["limit"] = json!(limit);
            let served = missing(&house, &story, limited).await;
            assert_eq!(served, texts[29 - expected..29]);
        }
        let mut deep = default.clone();
        deep["min_depth"] = json!(story.pdu(&chain[26]).depth);
        assert_eq!(missing(&house, &story, deep).await, texts[26..29]);
        // What isn't in the timeline is not served, and not gone past.
        let outlier = story.write(&[&tip], topic(bob(), "outlier"));
        house.put_outlier(&story, &outlier).await;
        let at_outlier =
            json!({"earliest_events": [], "latest_events": [outlier], "min_depth": 100});
        assert_eq!(
            missing(&house, &story, at_outlier).await,
            Vec::<String>::new()
        );
        let server = bob().server_name();
        let malformed = house
            .rooms
            .serve_missing_events(server, &story.room_id, b"{}")
            .await;
        assert!(
            matches!(malformed, Err(ServeError::BadJson(_))),
            "{malformed:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn soft_failed_events_are_served_and_rejected_ones_are_not() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let ban = membership(bob(), mallory(), "ban");
        house.says(&mut story, &[&tip], ban).await;
        let soft = house
            .says(&mut story, &[&tip], message(mallory(), "spam"))
            .await;
        assert_eq!(
            house.verdict(&story, &soft).await,
            Some(Verdict::SoftFailed)
        );
        let rejected = house.says(&mut story, &[&soft], topic(carol(), "no")).await;
        assert_eq!(
            house.verdict(&story, &rejected).await,
            Some(Verdict::Rejected)
        );
        let after = house
            .says(&mut story, &[&rejected], message(carol(), "well"))
            .await;
        let request = json!({"earliest_events": [tip], "latest_events": [after]});
        assert_eq!(missing(&house, &story, request).await, [soft.as_str()]);
        let event = parsed(house.rooms.serve_event(bob().server_name(), &soft).await);
        assert_eq!(event["pdus"], json!([story.json(&soft)]));
        let backfilled =
            house
                .rooms
                .serve_backfill(bob().server_name(), &story.room_id, vec![after.clone()], 2);
        let backfilled = ids_of(story.version, &parsed(backfilled.await)["pdus"]);
        assert_eq!(backfilled, [after.to_string(), soft.to_string()]);
    })
    .await;
}

#[tokio::test]
async fn a_backfill_goes_back_from_the_given_events_and_has_a_hundred_at_most() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let chain = story.chain(&tip, (0..120).map(|n| message(bob(), &n.to_string())));
        house.push_all(&story, bob(), &chain).await;
        for (limit, expected) in [(5, 5), (1_000, 100)] {
            let from = vec![chain[119].clone()];
            let answer =
                house
                    .rooms
                    .serve_backfill(bob().server_name(), &story.room_id, from, limit);
            let served = ids_of(story.version, &parsed(answer.await)["pdus"]);
            let nearest: Vec<String> = chain.iter().rev().map(ToString::to_string).collect();
            assert_eq!(served, nearest[..expected]);
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_server_may_not_see_it_gets_in_redacted_form() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for (visibility, seen) in [("joined", false), ("invited", false), ("shared", true)] {
            let room_id = house.rooms.create(alice(), wish("11")).await.unwrap();
            let content = json!({ "history_visibility": visibility });
            let set = house.send(
                &room_id,
                alice(),
                "m.room.history_visibility",
                Some(""),
                content,
            );
            set.await.unwrap();
            let before = house.say(&room_id, alice(), "secret").await;
            let mut story = house.story(&room_id).await;
            let join = house
                .says(&mut story, &[&before], membership(bob(), bob(), "join"))
                .await;
            let after = house
                .says(&mut story, &[&join], message(bob(), "hello"))
                .await;
            let from = vec![after.clone()];
            let answer = house
                .rooms
                .serve_backfill(bob().server_name(), &room_id, from, 3)
                .await;
            let answer = parsed(answer);
            let expected = [&after, &join, &before].map(ToString::to_string);
            // Redacted or not, they are the same events.
            assert_eq!(ids_of(story.version, &answer["pdus"]), expected);
            let body = answer["pdus"][2]["content"].get("body");
            assert_eq!(body.is_some(), seen, "{visibility}");
            assert_eq!(answer["pdus"][0], story.json(&after));
            let event = parsed(house.rooms.serve_event(bob().server_name(), &before).await);
            assert_eq!(event["pdus"][0]["content"].get("body").is_some(), seen);
        }
    })
    .await;
}

#[tokio::test]
async fn what_somebody_wrote_who_wants_to_be_forgotten_is_served_in_redacted_form() {
    on_each_engine(|fresh| async move {
        let database = fresh.database.clone();
        let house = House::open(fresh).await;
        let room_id = house.rooms.create(alice(), wish("11")).await.unwrap();
        let said = house.say(&room_id, alice(), "secret").await;
        let mut story = house.story(&room_id).await;
        let join = house
            .says(&mut story, &[&said], membership(bob(), bob(), "join"))
            .await;
        let server = bob().server_name();
        let is_whole = async || {
            let page = house
                .rooms
                .serve_backfill(server, &room_id, vec![join.clone()], 2);
            let event = house.rooms.serve_event(server, &said).await;
            [
                parsed(page.await)["pdus"][1].clone(),
                parsed(event)["pdus"][0].clone(),
            ]
            .map(|event| event["content"].get("body").is_some())
        };
        for (erase, whole) in [(false, true), (true, false)] {
            let close = database.write("close", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    accounts::put(tx, alice(), None, false, 0).await?;
                    accounts::close(tx, alice(), erase).await
                })
            });
            let closed: Result<(), StorageError> = close.await;
            closed.unwrap();
            assert_eq!(is_whole().await, [whole; 2], "{erase}");
        }
    })
    .await;
}

#[tokio::test]
async fn redacted_events_are_served_in_redacted_form() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let said = house.say(&story.room_id, alice(), "oops").await;
        let outlier = story.write(&[&tip], topic(bob(), "oops"));
        house.put_outlier(&story, &outlier).await;
        for id in [&said, &outlier] {
            let before = parsed(house.rooms.serve_event(bob().server_name(), id).await);
            assert_ne!(before["pdus"][0]["content"], json!({}));
            let mut event = new_event(alice(), "m.room.redaction", None, &json!({}));
            event.redacts = Some(id.clone());
            house.rooms.send(&story.room_id, event).await.unwrap();
            let after = parsed(house.rooms.serve_event(bob().server_name(), id).await);
            assert_eq!(after["pdus"][0]["content"], json!({}));
            assert_eq!(
                after["pdus"][0]["signatures"],
                before["pdus"][0]["signatures"]
            );
        }
    })
    .await;
}

#[tokio::test]
async fn events_are_found_by_time_for_servers_in_the_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        let room_id = &story.room_id;
        let wait = || house.rooms.env().clock.advance(Duration::from_secs(10));
        wait();
        let first = house.say(room_id, alice(), "first").await;
        wait();
        let second = house.say(room_id, alice(), "second").await;
        let times = async |id: &OwnedEventId| {
            let event = house.event(room_id, id).await.unwrap();
            i64::from(event.pdu.origin_server_ts.get())
        };
        let (at_first, at_second) = (times(&first).await, times(&second).await);
        let find = async |server: &ServerName, at_ms, direction| {
            let moment = Moment { at_ms, direction };
            house.rooms.serve_event_at(server, room_id, moment).await
        };
        let server = bob().server_name();
        for (at_ms, direction, id, time) in [
            (at_first, Direction::Forward, &first, at_first),
            (at_first + 1, Direction::Forward, &second, at_second),
            (at_second - 1, Direction::Backward, &first, at_first),
        ] {
            let found = parsed(find(server, at_ms, direction).await);
            let expected = json!({ "event_id": id, "origin_server_ts": time });
            assert_eq!(found, expected);
        }
        let nothing = find(server, at_second + 1, Direction::Forward).await;
        assert!(
            matches!(nothing, Err(ServeError::NotFound(_))),
            "{nothing:?}"
        );
        let stranger = server_name!("stranger.example");
        let refused = find(stranger, at_first, Direction::Forward).await;
        assert!(
            matches!(refused, Err(ServeError::Forbidden(_))),
            "{refused:?}"
        );
        // What a server may not see isn't named to it.
        let visibility = json!({ "history_visibility": "joined" });
        let kind = "m.room.history_visibility";
        let sent = house.send(room_id, alice(), kind, Some(""), visibility);
        sent.await.unwrap();
        for user in [mallory(), bob()] {
            let kick = house
                .rooms
                .set_membership(alice(), room_id, user, Membership::Leave, None);
            kick.await.unwrap();
        }
        wait();
        let secret = house.say(room_id, alice(), "secret").await;
        joins(&house, room_id, bob()).await;
        let found = find(server, times(&secret).await, Direction::Forward).await;
        assert_ne!(parsed(found)["event_id"], secret.as_str());
    })
    .await;
}
