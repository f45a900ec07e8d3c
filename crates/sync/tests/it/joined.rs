//! `/sync` of rooms where the user is.

use std::{collections::BTreeMap, time::Duration};

use myelin_storage::testing::on_each_engine;
use serde_json::{Value, json};

use crate::house::{House, alice, bob, carol, filtered, joined, request, said, since, sorted};
use myelin_sync::{Direction, SyncRequest};

/// What a client ends up with that applies an answer to what it had.
fn applied(before: &BTreeMap<String, String>, section: &Value) -> BTreeMap<String, String> {
    let mut state = before.clone();
    for list in [&section["state"]["events"], &section["timeline"]["events"]] {
        for event in list.as_array().into_iter().flatten() {
            if let Some(key) = event["state_key"].as_str() {
                let place = format!("{} {key}", event["type"].as_str().unwrap());
                state.insert(place, event["event_id"].as_str().unwrap().to_owned());
            }
        }
    }
    state
}

#[tokio::test]
async fn a_first_sync_shows_the_newest_events_and_the_state_before_them() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for number in 0..12 {
            house.say(&room, alice(), &format!("m{number}")).await;
        }
        let answer = house.first_sync(alice()).await;
        let section = joined(&answer, &room);
        let messages: Vec<String> = (2..12).map(|number| format!("m{number}")).collect();
        assert_eq!(said(&section["timeline"]["events"]), messages);
        assert_eq!(section["timeline"]["limited"], true);
        let state = said(&section["state"]["events"]);
        for expected in [
            "m.room.create",
            "m.room.power_levels",
            "@alice:x.example join",
        ] {
            assert!(state.contains(&expected.to_owned()), "{state:?}");
        }
        assert_eq!(section["summary"]["m.joined_member_count"], 1);
        assert!(section.get("state_after").is_none());
    })
    .await;
}

#[tokio::test]
async fn a_room_that_fits_its_timeline_is_not_limited_and_needs_no_state() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let answer = house.first_sync(alice()).await;
        let section = joined(&answer, &room);
        assert_eq!(section["timeline"]["limited"], false, "{section}");
        assert_eq!(said(&section["timeline"]["events"])[0], "m.room.create");
        assert_eq!(section["state"]["events"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn a_further_sync_has_what_happened_since_and_nothing_else() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, quiet) = (house.room().await, house.room().await);
        let first = house.first_sync(alice()).await;
        assert_eq!(first["rooms"]["join"].as_object().unwrap().len(), 2);
        let second = house.next_sync(alice(), &first).await;
        assert_eq!(second["rooms"]["join"], json!({}));
        assert_eq!(second["next_batch"], first["next_batch"]);
        house.say(&room, alice(), "news").await;
        let third = house.next_sync(alice(), &second).await;
        let section = joined(&third, &room);
        assert_eq!(said(&section["timeline"]["events"]), ["news"]);
        assert_eq!(section["timeline"]["limited"], false);
        assert_eq!(section["state"]["events"], json!([]));
        assert!(section.get("summary").is_none());
        assert_eq!(joined(&third, &quiet), &Value::Null);
        // The same token again gives the same answer: it may have got lost.
        let again = house.next_sync(alice(), &second).await;
        assert_eq!(joined(&again, &room)["timeline"], section["timeline"]);
    })
    .await;
}

#[tokio::test]
async fn state_that_changed_in_a_gap_comes_before_the_timeline() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let first = house.first_sync(alice()).await;
        let had = applied(&BTreeMap::new(), joined(&first, &room));
        house.topic(&room, "old").await;
        house.join(&room, bob()).await;
        for number in 0..12 {
            house.say(&room, bob(), &format!("m{number}")).await;
        }
        let topic = house.topic(&room, "new").await;
        let second = house.next_sync(alice(), &first).await;
        let section = joined(&second, &room);
        assert_eq!(section["timeline"]["limited"], true);
        let state = said(&section["state"]["events"]);
        assert_eq!(sorted(state), ["@bob:x.example join", "m.room.topic"]);
        assert_eq!(section["summary"]["m.joined_member_count"], 2);
        let has = applied(&had, section);
        assert_eq!(has["m.room.topic "], topic.as_str());
        assert!(has.contains_key("m.room.member @bob:x.example"));
        // What lies in the gap can be read page by page, without overlap.
        let from = section["timeline"]["prev_batch"].as_str().unwrap();
        let page = house
            .messages(&room, alice(), Direction::Backward, Some(from))
            .await;
        let page = serde_json::to_value(page.unwrap()).unwrap();
        let newest = &said(&page["chunk"])[0];
        assert_eq!(
            (&**newest, &*said(&section["timeline"]["events"])[0]),
            ("m2", "m3")
        );
    })
    .await;
}

#[tokio::test]
async fn a_client_may_ask_for_the_state_after_the_timeline() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let first = house.first_sync(alice()).await;
        house.topic(&room, "new").await;
        let after = SyncRequest {
            use_state_after: true,
            ..since(request(alice()), &first)
        };
        let second = house.synced(&after).await;
        let section = joined(&second, &room);
        assert_eq!(said(&section["timeline"]["events"]), ["m.room.topic"]);
        assert_eq!(said(&section["state_after"]["events"]), ["m.room.topic"]);
        assert!(section.get("state").is_none());
    })
    .await;
}

#[tokio::test]
async fn the_full_state_comes_when_asked_for() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, quiet) = (house.room().await, house.room().await);
        let first = house.first_sync(alice()).await;
        house.say(&room, alice(), "news").await;
        let full = SyncRequest {
            full_state: true,
            ..since(request(alice()), &first)
        };
        let second = house.synced(&full).await;
        assert_eq!(
            said(&joined(&second, &room)["timeline"]["events"]),
            ["news"]
        );
        assert_eq!(
            said(&joined(&second, &quiet)["timeline"]["events"]),
            [""; 0]
        );
        for room in [&room, &quiet] {
            let state = said(&joined(&second, room)["state"]["events"]);
            assert!(state.contains(&"m.room.create".to_owned()), "{state:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn filters_choose_rooms_events_and_their_number() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, other) = (house.room().await, house.room().await);
        house.join(&room, bob()).await;
        for body in ["a1", "a2", "a3"] {
            house.say(&room, alice(), body).await;
            house.say(&room, bob(), &body.replace('a', "b")).await;
        }
        let not_other = json!({"room": {"not_rooms": [other.as_str()]}});
        let answer = house.synced(&filtered(request(alice()), &not_other)).await;
        assert_eq!(joined(&answer, &other), &Value::Null);
        assert_ne!(joined(&answer, &room), &Value::Null);
        let cases = [
            (json!({"limit": 1}), vec!["b3"], true),
            (json!({"limit": 0}), vec![], true),
            (
                json!({"senders": [bob().as_str()], "types": ["m.room.message"]}),
                vec!["b1", "b2", "b3"],
                true,
            ),
            (
                json!({"senders": [alice().as_str()], "types": ["*.message"], "limit": 2}),
                vec!["a2", "a3"],
                true,
            ),
            (json!({"types": ["no.such"]}), vec![], true),
        ];
        for (timeline, expected, limited) in cases {
            let filter = json!({"room": {"timeline": timeline}});
            let answer = house.synced(&filtered(request(alice()), &filter)).await;
            let section = &joined(&answer, &room)["timeline"];
            assert_eq!(said(&section["events"]), expected, "{filter}");
            assert_eq!(section["limited"], limited, "{filter}");
        }
        let fields = json!({"event_fields": ["content.body"], "room": {"timeline": {"limit": 1}}});
        let answer = house.synced(&filtered(request(alice()), &fields)).await;
        let events = &joined(&answer, &room)["timeline"]["events"];
        assert_eq!(events, &json!([{"content": {"body": "b3"}}]));
    })
    .await;
}

#[tokio::test]
async fn a_nameless_room_is_named_after_its_first_members() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.join(&room, carol()).await;
        let first = house.first_sync(bob()).await;
        let heroes = json!([alice().as_str(), carol().as_str()]);
        assert_eq!(joined(&first, &room)["summary"]["m.heroes"], heroes);
        house
            .send(
                &room,
                alice(),
                "m.room.name",
                Some(""),
                json!({"name": "Room"}),
            )
            .await;
        let second = house.next_sync(bob(), &first).await;
        let summary = &joined(&second, &room)["summary"];
        assert!(summary.get("m.heroes").is_none(), "{summary}");
        assert_eq!(summary["m.joined_member_count"], 3);
    })
    .await;
}

#[tokio::test]
async fn who_joins_sees_no_history_that_was_for_members() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let closed = json!({"history_visibility": "joined"});
        house
            .send(
                &room,
                alice(),
                "m.room.history_visibility",
                Some(""),
                closed,
            )
            .await;
        house.say(&room, alice(), "secret").await;
        house.join(&room, bob()).await;
        house.say(&room, alice(), "open").await;
        let first = house.first_sync(bob()).await;
        let timeline = said(&joined(&first, &room)["timeline"]["events"]);
        assert!(!timeline.contains(&"secret".to_owned()), "{timeline:?}");
        assert_eq!(
            timeline[timeline.len() - 2..],
            ["@bob:x.example join", "open"]
        );
        let all = house.first_sync(alice()).await;
        let timeline = said(&joined(&all, &room)["timeline"]["events"]);
        assert!(timeline.contains(&"secret".to_owned()), "{timeline:?}");
    })
    .await;
}

#[tokio::test]
async fn who_was_away_for_long_gets_the_news_of_the_right_rooms() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, quiet, foreign) = (house.room().await, house.room().await, house.room().await);
        for room in [&room, &quiet] {
            house.join(room, bob()).await;
        }
        let first = house.first_sync(bob()).await;
        // As if much had happened in other rooms.
        drop(house.rooms.events_stream().allocate(10_000));
        house.say(&room, alice(), "news").await;
        house.say(&foreign, alice(), "not his").await;
        let second = house.next_sync(bob(), &first).await;
        assert_eq!(second["rooms"]["join"].as_object().unwrap().len(), 1);
        assert_eq!(
            said(&joined(&second, &room)["timeline"]["events"]),
            ["news"]
        );
    })
    .await;
}

#[tokio::test]
async fn a_client_sees_every_event_once_and_in_order_while_others_write() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let rooms = [house.room().await, house.room().await, house.room().await];
        for room in &rooms {
            house.join(room, bob()).await;
        }
        let first = house.first_sync(bob()).await;
        let mut writers = Vec::new();
        for (room, writer) in rooms.iter().flat_map(|room| [(room, "a"), (room, "b")]) {
            let (house, room) = (house.clone(), room.clone());
            let tasks = house.fresh.env.tasks.clone();
            writers.push(tasks.spawn("a writer", async move {
                for number in 0..20 {
                    house
                        .say(&room, alice(), &format!("{writer}{number:02}"))
                        .await;
                }
            }));
        }
        let read = async {
            let mut last = first;
            let mut seen = vec![Vec::new(); rooms.len()];
            while seen.iter().map(Vec::len).sum::<usize>() < 120 {
                let all = json!({"room": {"timeline": {"limit": 100}}});
                let request = filtered(since(request(bob()), &last), &all);
                let timeout = Duration::from_secs(30);
                last = house.synced(&SyncRequest { timeout, ..request }).await;
                for (room, seen) in rooms.iter().zip(&mut seen) {
                    let section = joined(&last, room);
                    if section.is_object() {
                        assert_eq!(section["timeline"]["limited"], false);
                        seen.extend(said(&section["timeline"]["events"]));
                    }
                }
            }
            seen
        };
        let write = async {
            for writer in writers {
                writer.await.unwrap();
            }
        };
        let (seen, ()) = tokio::join!(read, write);
        for seen in seen {
            for writer in ["a", "b"] {
                let of: Vec<&String> = seen
                    .iter()
                    .filter(|body| body.starts_with(writer))
                    .collect();
                let expected: Vec<String> = (0..20)
                    .map(|number| format!("{writer}{number:02}"))
                    .collect();
                assert_eq!(of, expected.iter().collect::<Vec<_>>());
            }
        }
    })
    .await;
}
