//! What relates to an event: by itself, and bundled with it.

use std::time::Duration;

use myelin_core::state::Membership;
use myelin_storage::testing::on_each_engine;
use myelin_sync::{
    Asking, ContextRequest, Direction, Include, RelationsRequest, RoomEventFilter, SyncError,
    ThreadsRequest,
};
use ruma::{EventId, OwnedEventId, RoomId, UserId, event_id, room_id};
use serde_json::{Value, json, value::to_raw_value};

use crate::house::{House, alice, bob, carol, filtered, joined, request, said, viewer};

/// Sends a message that relates to another event, a second after what was sent last.
async fn relate(
    house: &House,
    room: &RoomId,
    user: &UserId,
    (rel_type, parent): (&str, &EventId),
    body: &str,
) -> OwnedEventId {
    house.fresh.env.clock.advance(Duration::from_secs(1));
    let content = json!({
        "body": body, "msgtype": "m.text", "m.new_content": {"body": body},
        "m.relates_to": {"rel_type": rel_type, "event_id": parent, "key": body},
    });
    house
        .send(room, user, "m.room.message", None, content)
        .await
}

async fn ignore(house: &House, user: &UserId, ignored: &UserId) {
    let content = json!({"ignored_users": {ignored.as_str(): {}}});
    let content = to_raw_value(&content).unwrap();
    let put = house
        .users
        .put_account_data(user, None, "m.ignored_user_list", &content);
    put.await.unwrap();
}

/// What is bundled with an event, as a user sees it.
async fn bundle(house: &House, room: &RoomId, user: &UserId, event: &EventId) -> Value {
    let event = house.sync.event(&viewer(user), room, event).await.unwrap();
    let event: Value = serde_json::from_str(event.get()).unwrap();
    event["unsigned"]["m.relations"].clone()
}

/// All that relates to an event.
pub(crate) fn all(room: &RoomId, user: &UserId, parent: &EventId) -> RelationsRequest {
    RelationsRequest {
        viewer: viewer(user),
        room_id: room.to_owned(),
        event_id: parent.to_owned(),
        rel_type: None,
        event_type: None,
        direction: Direction::Backward,
        from: None,
        to: None,
        limit: None,
        recurse: None,
    }
}

pub(crate) async fn related(house: &House, request: &RelationsRequest) -> Value {
    serde_json::to_value(house.sync.relations(request).await.unwrap()).unwrap()
}

fn threads(room: &RoomId, user: &UserId) -> ThreadsRequest {
    ThreadsRequest {
        viewer: viewer(user),
        room_id: room.to_owned(),
        include: Include::All,
        limit: None,
        from: None,
    }
}

async fn listed(house: &House, request: &ThreadsRequest) -> Value {
    serde_json::to_value(house.sync.threads(request).await.unwrap()).unwrap()
}

#[tokio::test]
async fn the_last_edit_goes_along_with_an_event_wherever_it_is_shown() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let event = house.say(&room, alice(), "hullo").await;
        relate(&house, &room, alice(), ("m.replace", &event), "hello").await;
        let last = relate(&house, &room, alice(), ("m.replace", &event), "Hello").await;
        // Neither is an edit.
        relate(&house, &room, bob(), ("m.replace", &event), "Goodbye").await;
        relate(&house, &room, alice(), ("m.replace", &last), "Hey").await;
        let expected = bundle(&house, &room, bob(), &event).await;
        assert_eq!(expected["m.replace"]["event_id"], last.as_str());
        assert_eq!(
            expected["m.replace"]["content"]["m.new_content"]["body"],
            "Hello"
        );
        assert_eq!(expected["m.replace"]["room_id"], room.as_str());
        assert_eq!(expected.as_object().unwrap().len(), 1);
        assert_eq!(bundle(&house, &room, bob(), &last).await, Value::Null);

        let page = house.messages(&room, bob(), Direction::Backward, None);
        let page = serde_json::to_value(page.await.unwrap()).unwrap();
        let from = page["end"].as_str().unwrap();
        let page = house.messages(&room, bob(), Direction::Backward, Some(from));
        let page = serde_json::to_value(page.await.unwrap()).unwrap();
        assert_eq!(page["chunk"][0]["unsigned"]["m.relations"], expected);
        let context = ContextRequest {
            asking: Asking::AsUser,
            viewer: viewer(bob()),
            room_id: room.clone(),
            event_id: last.clone(),
            limit: Some(10),
            filter: RoomEventFilter::default(),
        };
        let context = serde_json::to_value(house.sync.context(&context).await.unwrap()).unwrap();
        assert_eq!(
            context["events_before"][1]["unsigned"]["m.relations"],
            expected
        );
        assert_eq!(context["event"]["event_id"], last.as_str());
        assert_eq!(said(&context["events_after"]), ["Goodbye", "Hey"]);
        let synced = house.first_sync(bob()).await;
        let timeline = &joined(&synced, &room)["timeline"]["events"];
        let shown = timeline
            .as_array()
            .unwrap()
            .iter()
            .find(|shown| shown["event_id"] == event.as_str());
        let shown = &shown.unwrap()["unsigned"]["m.relations"]["m.replace"];
        assert_eq!(shown["event_id"], last.as_str());

        house.redact(&room, alice(), &last).await;
        let before = bundle(&house, &room, bob(), &event).await;
        assert_eq!(before["m.replace"]["content"]["body"], "hello");
        house.redact(&room, alice(), &event).await;
        assert_eq!(bundle(&house, &room, bob(), &event).await, Value::Null);
    })
    .await;
}

#[tokio::test]
async fn a_thread_is_summed_up_with_the_event_that_it_began_with() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        house.join(&room, carol()).await;
        let root = house.say(&room, alice(), "root").await;
        relate(&house, &room, bob(), ("m.thread", &root), "one").await;
        let last = relate(&house, &room, bob(), ("m.thread", &root), "two").await;
        let edit = relate(&house, &room, bob(), ("m.replace", &last), "Two").await;
        for (user, participated) in [(alice(), true), (bob(), true), (carol(), false)] {
            let thread = &bundle(&house, &room, user, &root).await["m.thread"];
            assert_eq!(thread["count"], 2);
            assert_eq!(thread["current_user_participated"], participated, "{user}");
            let latest = &thread["latest_event"];
            assert_eq!(latest["event_id"], last.as_str());
            let nested = &latest["unsigned"]["m.relations"]["m.replace"];
            assert_eq!(nested["event_id"], edit.as_str());
        }
        let third = relate(&house, &room, carol(), ("m.thread", &root), "three").await;
        ignore(&house, alice(), carol()).await;
        let counted = [(alice(), 2, &last), (bob(), 3, &third)];
        for (user, count, latest) in counted {
            let thread = &bundle(&house, &room, user, &root).await["m.thread"];
            assert_eq!(
                (&thread["count"], &thread["latest_event"]["event_id"]),
                (&json!(count), &json!(latest))
            );
        }
        house.redact(&room, carol(), &third).await;
        assert_eq!(
            bundle(&house, &room, bob(), &root).await["m.thread"]["count"],
            2
        );
        // The thread outlives what it began with.
        house.redact(&room, alice(), &root).await;
        assert_eq!(
            bundle(&house, &room, bob(), &root).await["m.thread"]["count"],
            2
        );
    })
    .await;
}

#[tokio::test]
async fn references_are_named_and_reactions_are_not_but_both_are_found() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let event = house.say(&room, alice(), "event").await;
        let reaction = relate(&house, &room, bob(), ("m.annotation", &event), "+").await;
        assert_eq!(bundle(&house, &room, alice(), &event).await, Value::Null);
        let one = relate(&house, &room, alice(), ("m.reference", &event), "one").await;
        let two = relate(&house, &room, bob(), ("m.reference", &event), "two").await;
        let expected = json!({"m.reference": {"chunk": [{"event_id": one}, {"event_id": two}]}});
        assert_eq!(bundle(&house, &room, alice(), &event).await, expected);
        let found = related(&house, &all(&room, alice(), &event)).await;
        assert_eq!(said(&found["chunk"]), ["two", "one", "+"]);
        assert_eq!(found.as_object().unwrap().len(), 1, "{found}");
        house.redact(&room, bob(), &reaction).await;
        ignore(&house, alice(), bob()).await;
        let found = related(&house, &all(&room, alice(), &event)).await;
        assert_eq!(said(&found["chunk"]), ["one"]);
        let expected = json!({"m.reference": {"chunk": [{"event_id": one}]}});
        assert_eq!(bundle(&house, &room, alice(), &event).await, expected);
    })
    .await;
}

/// A room with an event, a thread from it, and what relates to an event of the thread, step by step.
async fn related_widely(house: &House) -> (ruma::OwnedRoomId, OwnedEventId) {
    let room = house.room().await;
    let event = house.say(&room, alice(), "event").await;
    let one = relate(house, &room, alice(), ("m.thread", &event), "one").await;
    for body in ["two", "three"] {
        relate(house, &room, alice(), ("m.thread", &event), body).await;
    }
    let reaction = relate(house, &room, alice(), ("m.annotation", &one), "+").await;
    let second = relate(house, &room, alice(), ("x", &reaction), "second").await;
    relate(house, &room, alice(), ("x", &second), "third").await;
    let sticker = json!({"m.relates_to": {"rel_type": "m.thread", "event_id": event}});
    house.send(&room, alice(), "m.sticker", None, sticker).await;
    (room, event)
}

#[tokio::test]
async fn relations_come_in_pages_either_way() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, event) = related_widely(&house).await;
        let mut pages = Vec::new();
        for direction in [Direction::Backward, Direction::Forward] {
            let mut from = None;
            loop {
                let request = RelationsRequest {
                    direction,
                    from: from.clone(),
                    limit: Some(2),
                    ..all(&room, alice(), &event)
                };
                let page = related(&house, &request).await;
                pages.push(said(&page["chunk"]));
                assert_eq!(
                    page.get("prev_batch"),
                    from.map(|from| json!(from)).as_ref()
                );
                match page.get("next_batch") {
                    Some(next) => from = next.as_str().map(str::to_owned),
                    None => break,
                }
            }
        }
        let expected = [
            ["m.sticker", "three"],
            ["two", "one"],
            ["one", "two"],
            ["three", "m.sticker"],
        ];
        assert_eq!(pages, expected);
    })
    .await;
}

#[tokio::test]
async fn relations_are_chosen_by_kind_and_type_and_over_several_steps() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let (room, event) = related_widely(&house).await;
        let cases = [
            ("m.thread", "", None, "m.sticker three two one"),
            ("m.thread", "m.room.message", None, "three two one"),
            ("m.thread", "unknown", None, ""),
            ("m.annotation", "", Some(true), ""),
            ("", "", Some(false), "m.sticker three two one"),
            ("", "", Some(true), "m.sticker second + three two one"),
        ];
        let given = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        for (rel_type, event_type, recurse, expected) in cases {
            let request = RelationsRequest {
                rel_type: given(rel_type),
                event_type: given(event_type),
                recurse,
                ..all(&room, alice(), &event)
            };
            let found = related(&house, &request).await;
            assert_eq!(said(&found["chunk"]).join(" "), expected, "{request:?}");
            let depth = recurse.map(|recurse| json!(if recurse { 3 } else { 1 }));
            assert_eq!(found.get("recursion_depth"), depth.as_ref());
        }
    })
    .await;
}

#[tokio::test]
async fn who_may_not_see_an_event_learns_nothing_of_what_relates_to_it() {
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
        house.join(&room, bob()).await;
        let event = house.say(&room, alice(), "event").await;
        relate(&house, &room, alice(), ("m.reference", &event), "seen").await;
        house.leave(&room, bob()).await;
        relate(&house, &room, alice(), ("m.replace", &event), "unseen").await;
        relate(&house, &room, alice(), ("m.thread", &event), "unseen").await;
        relate(&house, &room, alice(), ("m.reference", &event), "unseen").await;
        // Out of the room, and in it again.
        for _ in 0..2 {
            let found = related(&house, &all(&room, bob(), &event)).await;
            assert_eq!(said(&found["chunk"]), ["seen"]);
            let bundle = bundle(&house, &room, bob(), &event).await;
            assert_eq!(bundle["m.reference"]["chunk"].as_array().unwrap().len(), 1);
            assert_eq!(bundle.as_object().unwrap().len(), 1, "{bundle}");
            house.join(&room, bob()).await;
        }
        let nowhere = room_id!("!none:x.example");
        let cases = [
            (&*room, carol(), &*event),
            (&room, alice(), event_id!("$none")),
            (nowhere, alice(), &event),
        ];
        for (room, user, event) in cases {
            let refused = house.sync.relations(&all(room, user, event)).await;
            assert!(
                matches!(refused, Err(SyncError::NotFound(_))),
                "{refused:?}"
            );
        }
        for room in [&*room, nowhere] {
            let refused = house.sync.threads(&threads(room, carol())).await;
            assert!(
                matches!(refused, Err(SyncError::Forbidden(_))),
                "{refused:?}"
            );
        }
        let wrong = RelationsRequest {
            from: Some("x".to_owned()),
            ..all(&room, alice(), &event)
        };
        let refused = house.sync.relations(&wrong).await;
        assert!(
            matches!(refused, Err(SyncError::InvalidParam(_))),
            "{refused:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn threads_are_listed_by_what_was_said_last() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let mut roots = Vec::new();
        for (body, user) in [("a", alice()), ("b", bob()), ("c", bob())] {
            roots.push(house.say(&room, user, body).await);
        }
        house.say(&room, alice(), "no thread").await;
        for (root, user, body) in [
            (1, bob(), "1"),
            (2, bob(), "2"),
            (0, bob(), "3"),
            (1, bob(), "4"),
        ] {
            relate(&house, &room, user, ("m.thread", &roots[root]), body).await;
        }
        let found = listed(&house, &threads(&room, alice())).await;
        assert_eq!(said(&found["chunk"]), ["b", "a", "c"]);
        assert!(found.get("next_batch").is_none(), "{found}");
        assert_eq!(
            found["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"],
            2
        );
        let mut from = None;
        for (body, more) in [("b", true), ("a", true), ("c", false)] {
            let request = ThreadsRequest {
                limit: Some(1),
                from: from.take(),
                ..threads(&room, alice())
            };
            let page = listed(&house, &request).await;
            assert_eq!(said(&page["chunk"]), [body]);
            from = page["next_batch"].as_str().map(str::to_owned);
            assert_eq!(from.is_some(), more, "{body}");
        }
        let participated = ThreadsRequest {
            include: Include::Participated,
            ..threads(&room, alice())
        };
        assert_eq!(said(&listed(&house, &participated).await["chunk"]), ["a"]);
        relate(&house, &room, alice(), ("m.thread", &roots[2]), "5").await;
        assert_eq!(
            said(&listed(&house, &participated).await["chunk"]),
            ["c", "a"]
        );
        // Bob's threads with something of alice's are left, and what he began them with is not shown.
        ignore(&house, alice(), bob()).await;
        let found = listed(&house, &threads(&room, alice())).await;
        assert_eq!(found["chunk"].as_array().unwrap().len(), 1, "{found}");
        assert_eq!(found["chunk"][0]["event_id"], roots[2].as_str());
        assert_eq!(found["chunk"][0]["content"], json!({}));
        let nothing = ThreadsRequest {
            limit: Some(0),
            ..threads(&room, alice())
        };
        let refused = house.sync.threads(&nothing).await;
        assert!(
            matches!(refused, Err(SyncError::InvalidParam(_))),
            "{refused:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn events_are_chosen_by_what_relates_to_them() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        let event = house.say(&room, alice(), "event").await;
        let other = house.say(&room, alice(), "other").await;
        relate(&house, &room, alice(), ("m.thread", &event), "reply").await;
        relate(&house, &room, bob(), ("m.annotation", &other), "+").await;
        let cases = [
            (json!({"related_by_rel_types": ["m.thread"]}), vec!["event"]),
            (
                json!({"related_by_rel_types": ["m.thread", "m.annotation"]}),
                vec!["event", "other"],
            ),
            (json!({"related_by_senders": [bob()]}), vec!["other"]),
            (
                json!({"related_by_senders": [bob()], "related_by_rel_types": ["m.thread"]}),
                vec![],
            ),
            (json!({"related_by_rel_types": []}), vec![]),
        ];
        for (filter, expected) in cases {
            let whole = json!({"room": {"timeline": filter}});
            let synced = house.synced(&filtered(request(bob()), &whole)).await;
            assert_eq!(
                said(&joined(&synced, &room)["timeline"]["events"]),
                expected,
                "{filter}"
            );
            let mut request =
                crate::house::messages_request(&room, bob(), Direction::Forward, None);
            request.filter = RoomEventFilter::parse(&filter.to_string()).unwrap();
            let page = house.sync.messages(&request).await.unwrap();
            assert_eq!(
                said(&serde_json::to_value(page.chunk).unwrap()),
                expected,
                "{filter}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn ignored_users_invite_nobody() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for user in [bob(), carol()] {
            house.set_membership(&room, user, Membership::Invite).await;
        }
        ignore(&house, carol(), alice()).await;
        ignore(&house, bob(), carol()).await;
        for (user, shown) in [(bob(), true), (carol(), false)] {
            let invited = &house.first_sync(user).await["rooms"]["invite"];
            assert_eq!(invited.get(room.as_str()).is_some(), shown, "{user}");
        }
    })
    .await;
}

#[tokio::test]
async fn of_ignored_users_only_the_state_is_shown() {
    on_each_engine(|fresh| async {
        let house = House::open(fresh).await;
        let room = house.room().await;
        ignore(&house, alice(), bob()).await;
        let first = house.first_sync(alice()).await;
        house.join(&room, bob()).await;
        house.say(&room, bob(), "unheard").await;
        house.say(&room, alice(), "heard").await;
        let second = house.next_sync(alice(), &first).await;
        let expected = ["@bob:x.example join", "heard"];
        assert_eq!(
            said(&joined(&second, &room)["timeline"]["events"]),
            expected
        );
        let page = house
            .messages(&room, alice(), Direction::Backward, None)
            .await
            .unwrap();
        let shown = said(&serde_json::to_value(page.chunk).unwrap());
        assert_eq!(shown[..2], ["heard", "@bob:x.example join"]);
        let seen = house
            .messages(&room, bob(), Direction::Backward, None)
            .await
            .unwrap();
        assert_eq!(
            said(&serde_json::to_value(seen.chunk).unwrap())[1],
            "unheard"
        );
    })
    .await;
}
