//! Events found by their words: by whom, in which order, and with what around them.

use myelin_core::state::Membership;
use myelin_storage::{params, testing::on_each_engine};
use myelin_sync::{SearchRequest, SyncError};
use ruma::{OwnedRoomId, RoomId, UserId};
use serde_json::{Value, json, value::to_raw_value};

use crate::house::{House, alice, bob, carol, viewer};

async fn search(
    house: &House,
    user: &UserId,
    criteria: &Value,
    from: Option<&str>,
) -> Result<Value, SyncError> {
    let request = SearchRequest {
        viewer: viewer(user),
        from: from.map(|from| from.parse().unwrap()),
        criteria: serde_json::from_value(criteria.clone()).unwrap(),
    };
    let results = house.sync.search(&request).await?;
    Ok(serde_json::to_value(results).unwrap())
}

/// What the results of a page say.
fn bodies(results: &Value) -> Vec<&str> {
    let results = results["results"].as_array().unwrap().iter();
    let said = results.map(|result| {
        let content = &result["result"]["content"];
        let mut texts = ["body", "name", "topic"]
            .iter()
            .filter_map(|key| content[key].as_str());
        texts.next().unwrap()
    });
    said.collect()
}

/// What a user finds with some criteria, the newest first.
async fn found_with(house: &House, user: &UserId, mut criteria: Value) -> Vec<String> {
    criteria["order_by"] = json!("recent");
    let results = search(house, user, &criteria, None).await.unwrap();
    bodies(&results).into_iter().map(str::to_owned).collect()
}

/// What a user finds with some words, the newest first.
async fn found(house: &House, user: &UserId, term: &str) -> Vec<String> {
    found_with(house, user, json!({ "search_term": term })).await
}

async fn count(house: &House, table: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) FROM {table}");
    let counted = house.fresh.database.read("count", move |tx| {
        Box::pin(async move { tx.query(&sql, params![]).await?[0].int(0) })
    });
    counted.await.unwrap()
}

async fn set_visibility(house: &House, room: &RoomId, visibility: &str) {
    let content = json!({ "history_visibility": visibility });
    let kind = "m.room.history_visibility";
    house.send(room, alice(), kind, Some(""), content).await;
}

/// A room of alice's that follows another one.
async fn successor(house: &House, of: &RoomId) -> OwnedRoomId {
    let predecessor = json!({"predecessor": {"room_id": of, "event_id": "$e"}});
    let Value::Object(creation_content) = predecessor else {
        unreachable!("it is an object");
    };
    house.room_made_with("11", creation_content).await
}

#[tokio::test]
async fn messages_names_and_topics_are_found_by_words_and_nothing_else_is() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.say(&room, alice(), "The quick brown fox").await;
        house
            .say(&room, alice(), "Ein Fuchs, ein Wort: foxes!")
            .await;
        house.say(&room, alice(), "東京へ行く").await;
        house.topic(&room, "About a FOX").await;
        let name = json!({"name": "Den of foxes"});
        house
            .send(&room, alice(), "m.room.name", Some(""), name)
            .await;
        let secret = json!({"body": "fox", "ciphertext": "fox"});
        house
            .send(&room, alice(), "m.room.encrypted", None, secret)
            .await;
        let cases: [(&str, &[&str]); 14] = [
            (
                "fox",
                &[
                    "Den of foxes",
                    "About a FOX",
                    "Ein Fuchs, ein Wort: foxes!",
                    "The quick brown fox",
                ],
            ),
            ("FOX quick", &["The quick brown fox"]),
            ("quick fuchs", &[]),
            ("ox", &[]),
            ("京", &["東京へ行く"]),
            // Words, whatever they mean to an engine.
            ("\"quick\" AND brown*", &[]),
            ("quick:* & 'brown' | fox)", &["The quick brown fox"]),
            ("words:fox", &[]),
            ("NEAR(quick brown, 2)", &[]),
            ("^quick -brown", &["The quick brown fox"]),
            ("quick\\ \u{0}brown", &["The quick brown fox"]),
            ("!b fox", &[]),
            ("?!", &[]),
            ("fox AND", &[]),
        ];
        for (term, expected) in cases {
            assert_eq!(found(&house, alice(), term).await, expected, "{term}");
        }
        let keys = |keys: Value| json!({"search_term": "fox", "keys": keys});
        for (keys, expected) in [
            (keys(json!(["content.topic"])), vec!["About a FOX"]),
            (
                keys(json!(["content.name", "content.topic"])),
                vec!["Den of foxes", "About a FOX"],
            ),
            (keys(json!([])), vec![]),
        ] {
            let said = found_with(&house, alice(), keys.clone()).await;
            assert_eq!(said, expected, "{keys}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_edit_is_found_by_its_new_text() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let event = house.say(&room, alice(), "a colour").await;
        let edit = json!({
            "body": "* a colossus", "msgtype": "m.text", "m.new_content": {"body": "a colossus"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": event},
        });
        house
            .send(&room, alice(), "m.room.message", None, edit)
            .await;
        assert_eq!(found(&house, alice(), "colossus").await, ["* a colossus"]);
        assert_eq!(found(&house, alice(), "colour").await, ["a colour"]);
    })
    .await;
}

#[tokio::test]
async fn nobody_finds_what_they_may_not_see() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        set_visibility(&house, &room, "joined").await;
        house.say(&room, alice(), "word before").await;
        house.join(&room, bob()).await;
        house.say(&room, alice(), "word during").await;
        house.leave(&room, bob()).await;
        house.say(&room, alice(), "word after").await;
        let open = house.room().await;
        set_visibility(&house, &open, "world_readable").await;
        house.say(&open, alice(), "word outside").await;
        let all = ["word outside", "word after", "word during", "word before"];
        assert_eq!(found(&house, alice(), "word").await, all);
        assert_eq!(found(&house, bob(), "word").await, ["word during"]);
        // Anybody could read the open room; that is not being in it.
        assert!(found(&house, carol(), "word").await.is_empty());
        house
            .set_membership(&room, carol(), Membership::Invite)
            .await;
        assert!(found(&house, carol(), "word").await.is_empty());
        // How many there are says nothing of what is hidden either.
        let criteria = json!({"search_term": "word"});
        let results = search(&house, bob(), &criteria, None).await.unwrap();
        assert_eq!(results["count"], 1);
        house.rooms.forget(bob(), &room).await.unwrap();
        assert!(found(&house, bob(), "word").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_was_redacted_is_not_found_and_leaves_the_index() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let first = house.say(&room, alice(), "word one").await;
        house.say(&room, alice(), "word two").await;
        assert_eq!(
            found(&house, alice(), "word").await,
            ["word two", "word one"]
        );
        house.redact(&room, alice(), &first).await;
        assert_eq!(found(&house, alice(), "word").await, ["word two"]);
        assert_eq!(count(&house, "search_events").await, 1);
        // Gone before it was looked at.
        let third = house.say(&room, alice(), "word three").await;
        house.redact(&room, alice(), &third).await;
        assert_eq!(found(&house, alice(), "word").await, ["word two"]);
        assert_eq!(count(&house, "search_events").await, 1);
    })
    .await;
}

#[tokio::test]
async fn a_redaction_counts_before_the_index_has_heard_of_it() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let event = house.say(&room, alice(), "word").await;
        let first = json!({"search_term": "word", "order_by": "recent"});
        assert_eq!(
            bodies(&search(&house, alice(), &first, None).await.unwrap()),
            ["word"]
        );
        house.redact(&room, alice(), &event).await;
        // Who goes on waits for nothing.
        let rest = search(&house, alice(), &first, Some("q1_999_0"))
            .await
            .unwrap();
        assert_eq!(bodies(&rest), Vec::<&str>::new());
        assert_eq!(count(&house, "search_events").await, 1);
    })
    .await;
}

#[tokio::test]
async fn what_was_held_before_there_was_an_index_is_found() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for number in 0..450 {
            house.say(&room, alice(), &format!("word {number}")).await;
        }
        assert_eq!(found(&house, alice(), "449").await, ["word 449"]);
        let indexed = count(&house, "search_events").await;
        let forget = house.fresh.database.write(
            "forget",
            myelin_storage::Priority::Interactive,
            |tx| {
                Box::pin(async move {
                    tx.execute("DELETE FROM search_words WHERE rowid IN (SELECT position FROM search_events)", params![]).await?;
                    tx.execute("DELETE FROM search_events", params![]).await?;
                    let cursor = "DELETE FROM settings WHERE name = 'search_cursor'";
                    tx.execute(cursor, params![]).await.map(drop)
                })
            },
        );
        forget.await.map_err(|error: myelin_storage::StorageError| error).unwrap();
        assert_eq!(found(&house, alice(), "0").await, ["word 0"]);
        assert_eq!(count(&house, "search_events").await, indexed);
    })
    .await;
}

#[tokio::test]
async fn a_filter_says_which_events_and_rooms_are_searched() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        house.register(alice()).await;
        let old = house.room().await;
        house.say(&old, alice(), "word old").await;
        let new = successor(&house, &old).await;
        house.join(&new, bob()).await;
        house.say(&new, bob(), "word bob").await;
        let other = house.room().await;
        let file = json!({"body": "word file", "msgtype": "m.file", "url": "mxc://x.example/y"});
        house
            .send(&other, alice(), "m.room.message", None, file)
            .await;
        house.topic(&other, "word topic").await;
        let cases = [
            (
                json!({}),
                vec!["word topic", "word file", "word bob", "word old"],
            ),
            (json!({"rooms": [other]}), vec!["word topic", "word file"]),
            // With the room that it was upgraded from.
            (json!({"rooms": [new]}), vec!["word bob", "word old"]),
            (
                json!({"rooms": [new], "not_rooms": [old]}),
                vec!["word bob"],
            ),
            (json!({"rooms": [old]}), vec!["word old"]),
            (json!({"rooms": []}), vec![]),
            (json!({"not_rooms": [old, other]}), vec!["word bob"]),
            (json!({"senders": [bob()]}), vec!["word bob"]),
            (
                json!({"not_senders": [bob()], "types": ["m.room.message"]}),
                vec!["word file", "word old"],
            ),
            (json!({"not_types": ["m.room.*"]}), vec![]),
            (json!({"contains_url": true}), vec!["word file"]),
            (json!({"limit": 1}), vec!["word topic"]),
        ];
        for (filter, expected) in cases {
            let criteria = json!({"search_term": "word", "filter": filter});
            let said = found_with(&house, alice(), criteria.clone()).await;
            assert_eq!(said, expected, "{criteria}");
        }
        // Bob was never in the old room.
        assert_eq!(found(&house, bob(), "word").await, ["word bob"]);
        let content = json!({"ignored_users": {bob().as_str(): {}}});
        let content = to_raw_value(&content).unwrap();
        let ignored = "m.ignored_user_list";
        house
            .users
            .put_account_data(alice(), None, ignored, &content)
            .await
            .unwrap();
        let said = found(&house, alice(), "word").await;
        assert_eq!(said, ["word topic", "word file", "word old"]);
    })
    .await;
}

/// All pages of a search, each as its bodies, and how many results the first counted.
async fn pages(house: &House, criteria: &Value, from: Option<String>) -> (Vec<Vec<String>>, Value) {
    let (mut pages, mut from, mut counted) = (Vec::new(), from, Value::Null);
    loop {
        let page = search(house, alice(), criteria, from.as_deref())
            .await
            .unwrap();
        pages.push(bodies(&page).into_iter().map(str::to_owned).collect());
        if counted.is_null() {
            counted = page["count"].clone();
        }
        assert_eq!(page["count"], counted);
        match page["next_batch"].as_str() {
            Some(next) => from = Some(next.to_owned()),
            None => return (pages, counted),
        }
    }
}

#[tokio::test]
async fn results_come_in_order_page_by_page_whatever_is_sent_meanwhile() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        let said = [
            "a word among many others",
            "word",
            "a word or two",
            "words",
            "word word",
        ];
        for body in said {
            house.say(&room, alice(), body).await;
        }
        let criteria =
            |order: &str| json!({"search_term": "word", "order_by": order, "filter": {"limit": 2}});
        let first = search(&house, alice(), &criteria("recent"), None)
            .await
            .unwrap();
        assert_eq!(bodies(&first), ["word word", "words"]);
        assert_eq!(first["highlights"], json!(["word", "words"]));
        house.say(&room, alice(), "word too late").await;
        let next = first["next_batch"].as_str().unwrap().to_owned();
        let (rest, count) = pages(&house, &criteria("recent"), Some(next)).await;
        assert_eq!(
            rest,
            [
                vec!["a word or two", "word"],
                vec!["a word among many others"]
            ]
        );
        assert_eq!(count, 5);
        let (ranked, count) = pages(&house, &criteria("rank"), None).await;
        let expected = [
            vec!["word word", "word"],
            vec!["word too late", "a word or two"],
            vec!["a word among many others", "words"],
        ];
        assert_eq!(ranked, expected);
        assert_eq!(count, 6);
        let criteria = json!({"search_term": "word"});
        let best = search(&house, alice(), &criteria, None).await.unwrap();
        let results = best["results"].as_array().unwrap().iter();
        let ranks: Vec<f64> = results
            .map(|result| result["rank"].as_f64().unwrap())
            .collect();
        assert!(ranks.is_sorted_by(|one, next| one > next), "{ranks:?}");
    })
    .await;
}

#[tokio::test]
async fn groups_have_their_results_and_go_on_by_themselves() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (one, two) = (house.room().await, house.room().await);
        house.join(&one, bob()).await;
        house.say(&one, alice(), "word 1").await;
        house.say(&one, bob(), "word 2").await;
        house.say(&two, alice(), "word 3").await;
        house.say(&one, alice(), "word 4").await;
        for order in ["recent", "rank"] {
            let criteria = json!({
                "search_term": "word", "order_by": order, "filter": {"limit": 2},
                "groupings": {"group_by": [{"key": "room_id"}, {"key": "sender"}]},
            });
            let page = search(&house, alice(), &criteria, None).await.unwrap();
            assert_eq!(bodies(&page), ["word 4", "word 3"], "{order}");
            let ids: Vec<&Value> = page["results"]
                .as_array()
                .unwrap()
                .iter()
                .map(|result| &result["result"]["event_id"])
                .collect();
            let groups = &page["groups"];
            assert_eq!(groups["room_id"][one.as_str()]["results"], json!([ids[0]]));
            assert_eq!(groups["room_id"][one.as_str()]["order"], 0);
            assert_eq!(groups["room_id"][two.as_str()]["results"], json!([ids[1]]));
            assert_eq!(groups["room_id"][two.as_str()]["order"], 1);
            assert_eq!(groups["room_id"][two.as_str()]["next_batch"], Value::Null);
            assert_eq!(groups["sender"][alice().as_str()]["results"], json!(ids));
            for (kind, group, expected) in [
                ("room_id", one.as_str(), vec!["word 2", "word 1"]),
                ("sender", alice().as_str(), vec!["word 1"]),
            ] {
                let next = groups[kind][group]["next_batch"].as_str().unwrap();
                let rest = search(&house, alice(), &criteria, Some(next))
                    .await
                    .unwrap();
                assert_eq!(bodies(&rest), expected, "{order} {kind}");
                assert_eq!(rest["next_batch"], Value::Null);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_result_comes_with_what_was_said_around_it_and_the_state_of_its_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for body in ["a", "b", "c", "word", "d", "e", "f"] {
            house.say(&room, alice(), body).await;
        }
        let around = json!({"before_limit": 2, "after_limit": 1, "include_profile": true});
        let criteria =
            json!({"search_term": "word", "event_context": around, "include_state": true});
        let results = search(&house, alice(), &criteria, None).await.unwrap();
        let context = &results["results"][0]["context"];
        assert_eq!(crate::house::said(&context["events_before"]), ["c", "b"]);
        assert_eq!(crate::house::said(&context["events_after"]), ["d"]);
        assert!(
            context["profile_info"][alice().as_str()].is_object(),
            "{context}"
        );
        let from = |end: &str| context[end].as_str().unwrap().to_owned();
        let back = myelin_sync::Direction::Backward;
        let earlier = house
            .messages(&room, alice(), back, Some(&from("start")))
            .await
            .unwrap();
        let earlier = serde_json::to_value(earlier).unwrap();
        assert_eq!(crate::house::said(&earlier["chunk"])[0], "a");
        let state = crate::house::said(&results["state"][room.as_str()]);
        assert!(state.contains(&"m.room.create".to_owned()), "{state:?}");
        assert!(state.contains(&format!("{} join", alice())), "{state:?}");
        let plain = search(&house, alice(), &json!({"search_term": "word"}), None)
            .await
            .unwrap();
        assert_eq!(plain["state"], Value::Null);
        assert_eq!(plain["results"][0]["context"], Value::Null);
        // A wish for more than is given is cut short.
        let around = json!({"before_limit": 1_000_000, "after_limit": 0});
        let criteria = json!({"search_term": "word", "event_context": around});
        let results = search(&house, alice(), &criteria, None).await.unwrap();
        let context = &results["results"][0]["context"];
        assert_eq!(context["events_after"], json!([]));
        assert!(context["events_before"].as_array().unwrap().len() <= 20);
    })
    .await;
}
