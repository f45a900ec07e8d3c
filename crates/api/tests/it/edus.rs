//! What devices and servers tell each other beside the events of rooms.

use http::{Method, StatusCode};
use myelin_storage::{
    Priority, StorageError, params,
    testing::{Fresh, on_each_engine},
};
use serde_json::{Value, json};

use crate::{Site, federation};

/// The body of a transaction with EDUs.
fn transaction(edus: &[Value]) -> Value {
    json!({ "origin": "example.org", "origin_server_ts": 1, "pdus": [], "edus": edus })
}

/// Hands a transaction over as another server would. (It is the same; no other key is at hand.)
pub(crate) async fn receive(site: &Site, txn_id: &str, edus: &[Value]) -> StatusCode {
    let target = format!("/_matrix/federation/v1/send/{txn_id}");
    let body = transaction(edus);
    federation::call(site, Method::PUT, &target, body).await.0
}

pub(crate) async fn sync(site: &Site, token: &str, since: Option<&str>) -> Value {
    let since = since
        .map(|since| format!("since={since}"))
        .unwrap_or_default();
    let target = format!("/_matrix/client/v3/sync?{since}");
    let (status, answer) = site
        .call(Method::GET, &target, Some(token), Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

fn direct_to_device(message_id: &str) -> Value {
    let messages = json!({ "@alice:example.org": { "*": { "key": message_id } } });
    let content = json!({
        "sender": "@bob:example.org", "type": "org.example.key", "message_id": message_id,
        "messages": messages,
    });
    json!({ "edu_type": "m.direct_to_device", "content": content })
}

#[tokio::test]
async fn a_message_reaches_a_device_until_its_next_sync() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let send = "/_matrix/client/v3/sendToDevice/org.example.key/1";
        let body = json!({ "messages": { "@alice:example.org": { "PHONE": { "key": 5 } } } });
        for _ in 0..2 {
            let (status, answer) = site.call(Method::PUT, send, Some(&bob), body.clone()).await;
            assert_eq!((status, answer), (StatusCode::OK, json!({})));
        }
        let event = json!({
            "type": "org.example.key", "sender": "@bob:example.org", "content": { "key": 5 },
        });
        let first = sync(&site, &alice, None).await;
        assert_eq!(first["to_device"]["events"], json!([event]));
        // As long as it isn't acknowledged it may have been lost on the way.
        assert_eq!(
            sync(&site, &alice, None).await["to_device"],
            first["to_device"]
        );
        let since = first["next_batch"].as_str();
        let second = sync(&site, &alice, since).await;
        assert_eq!(second["to_device"]["events"], json!([]));
        assert_eq!(
            sync(&site, &alice, None).await["to_device"]["events"],
            json!([])
        );
    })
    .await;
}

#[tokio::test]
async fn malformed_messages_to_devices_are_refused() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let send = "/_matrix/client/v3/sendToDevice/org.example.key/1";
        let (status, refused) = site.call(Method::PUT, send, None, json!({})).await;
        let missing = (StatusCode::UNAUTHORIZED, &json!("M_MISSING_TOKEN"));
        assert_eq!((status, &refused["errcode"]), missing);
        for (body, errcode) in [
            (json!({}), "M_BAD_JSON"),
            (json!({ "messages": [] }), "M_BAD_JSON"),
            (
                json!({ "messages": { "@alice:example.org": 5 } }),
                "M_BAD_JSON",
            ),
            (json!({ "messages": { "alice": {} } }), "M_INVALID_PARAM"),
        ] {
            let (status, refused) = site
                .call(Method::PUT, send, Some(&alice), body.clone())
                .await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
            assert_eq!(refused["errcode"], errcode, "{body}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_that_cannot_be_stored_fails_the_transaction_and_comes_once_when_it_is_repeated()
{
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let run = async |sql: &'static str| {
            let write = fresh.database.write::<_, StorageError, _>(
                "test",
                Priority::Interactive,
                move |tx| Box::pin(async move { tx.execute(sql, params![]).await }),
            );
            write.await.unwrap();
        };
        run("ALTER TABLE to_device_inbox RENAME TO away").await;
        let edus = [direct_to_device("one"), direct_to_device("two")];
        let status = receive(&site, "1", &edus).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        run("ALTER TABLE away RENAME TO to_device_inbox").await;
        for txn_id in ["1", "1", "2"] {
            assert_eq!(receive(&site, txn_id, &edus).await, StatusCode::OK);
        }
        let answer = sync(&site, &alice, None).await;
        let events = answer["to_device"]["events"].as_array().unwrap();
        let keys: Vec<_> = events
            .iter()
            .map(|event| &event["content"]["key"])
            .collect();
        assert_eq!(keys, ["one", "two"]);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_over_its_limits_has_no_effect() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let edus = vec![direct_to_device("one of many"); 101];
        assert_eq!(receive(&site, "1", &edus).await, StatusCode::BAD_REQUEST);
        let mut body = transaction(&edus[..1]);
        body["pdus"] = json!(vec![json!({}); 51]);
        let target = "/_matrix/federation/v1/send/2";
        let (status, _) = federation::call(&site, Method::PUT, target, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let events = |answer: Value| answer["to_device"]["events"].as_array().unwrap().len();
        assert_eq!(events(sync(&site, &alice, None).await), 0);
        // As many as are allowed, and what nobody understands does no harm.
        let mut edus = edus[..99].to_vec();
        edus.push(json!({ "edu_type": "org.example.unknown", "content": 5 }));
        assert_eq!(receive(&site, "3", &edus).await, StatusCode::OK);
        assert_eq!(events(sync(&site, &alice, None).await), 1);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_taken_of_a_transaction_beside_another_of_its_server() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let begun = site.rooms.begin_taking(site.rooms.server_name(), "first");
        let begun = begun.await.unwrap();
        let edus = [direct_to_device("one")];
        let refused = receive(&site, "second", &edus).await;
        assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS);
        let events = |answer: Value| answer["to_device"]["events"].as_array().unwrap().len();
        assert_eq!(events(sync(&site, &alice, None).await), 0);
        drop(begun);
        assert_eq!(receive(&site, "second", &edus).await, StatusCode::OK);
        assert_eq!(events(sync(&site, &alice, None).await), 1);
    })
    .await;
}

#[tokio::test]
async fn messages_for_nobody_and_messages_that_are_too_large_leave_nothing_behind() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let messages = |message_id: &str, messages: Value| {
            let mut edu = direct_to_device(message_id);
            edu["content"]["messages"] = messages;
            edu
        };
        let to_all = |content: &str| json!({ "*": { "words": content } });
        let nobody = (0..20_000).map(|number| (format!("@nobody{number}:example.org"), json!({})));
        let nobody: serde_json::Map<_, _> = nobody.collect();
        let mut alice_too = nobody.clone();
        alice_too.insert("@alice:example.org".to_owned(), to_all("hello"));
        let (large, elsewhere) = ("x".repeat(200_000), to_all("hello"));
        let edus = [
            messages("nobody", json!(nobody)),
            messages(
                "elsewhere",
                json!({ "@alice:example.com": elsewhere, "alice": {} }),
            ),
            messages("large", json!({ "@alice:example.org": to_all(&large) })),
        ];
        // The server's own keys are stored when they are used first.
        assert_eq!(receive(&site, "0", &[]).await, StatusCode::OK);
        let before = site.stored().await;
        assert_eq!(receive(&site, "1", &edus).await, StatusCode::OK);
        assert_eq!(site.stored().await, before);
        let edus = [messages("alice too", json!(alice_too))];
        assert_eq!(receive(&site, "2", &edus).await, StatusCode::OK);
        let shown = sync(&site, &alice, None).await;
        let events = shown["to_device"]["events"].as_array().unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["content"]["words"], "hello");
    })
    .await;
}

/// A room of alice's with a message in it: its part of paths, and the event's ID.
pub(crate) async fn room(site: &Site, alice: &str) -> (String, String) {
    let create = "/_matrix/client/v3/createRoom";
    let (_, created) = site
        .call(Method::POST, create, Some(alice), Value::Null)
        .await;
    let room_id = created["room_id"].as_str().unwrap();
    let room = format!("/_matrix/client/v3/rooms/{room_id}");
    let send = format!("{room}/send/m.room.message/1");
    let message = json!({ "msgtype": "m.text", "body": "hello" });
    let (_, sent) = site.call(Method::PUT, &send, Some(alice), message).await;
    (room, sent["event_id"].as_str().unwrap().to_owned())
}

/// Fails unless a request is answered with that status and error.
pub(crate) async fn refused(
    site: &Site,
    (method, target): (Method, &str),
    token: Option<&str>,
    body: &Value,
    expected: (u16, &str),
) {
    let (status, answer) = site.call(method, target, token, body.clone()).await;
    let found = (status.as_u16(), answer["errcode"].as_str().unwrap());
    assert_eq!(found, expected, "{target} {body}");
}

#[tokio::test]
async fn users_type_in_their_rooms_for_themselves() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let (room, _) = room(&site, &alice).await;
        let of = |user: &str| format!("{room}/typing/@{user}:example.org");
        let yes = json!({ "typing": true, "timeout": 30_000 });
        let (status, answer) = site
            .call(Method::PUT, &of("alice"), Some(&alice), yes.clone())
            .await;
        assert_eq!((status, answer), (StatusCode::OK, json!({})));
        let shown = sync(&site, &alice, None).await;
        let rooms = shown["rooms"]["join"].as_object().unwrap().values();
        let ephemeral: Vec<_> = rooms.map(|room| &room["ephemeral"]["events"]).collect();
        let typing =
            json!({ "type": "m.typing", "content": { "user_ids": ["@alice:example.org"] } });
        assert_eq!(ephemeral, [&json!([typing])]);
        let elsewhere = "/_matrix/client/v3/rooms/!no:example.org/typing/@alice:example.org";
        for (target, token, body, expected) in [
            (of("bob"), Some(&alice), &yes, (403, "M_FORBIDDEN")),
            (of("bob"), Some(&bob), &yes, (403, "M_FORBIDDEN")),
            (of("alice"), None, &yes, (401, "M_MISSING_TOKEN")),
            (of("alice"), Some(&alice), &json!({}), (400, "M_BAD_JSON")),
            (
                of("alice"),
                Some(&alice),
                &json!({ "typing": true, "timeout": -1 }),
                (400, "M_BAD_JSON"),
            ),
            (
                elsewhere.to_owned(),
                Some(&alice),
                &yes,
                (404, "M_NOT_FOUND"),
            ),
        ] {
            let token = token.map(String::as_str);
            refused(&site, (Method::PUT, &target), token, body, expected).await;
        }
    })
    .await;
}

#[tokio::test]
async fn users_say_up_to_where_they_have_read() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let (room, event) = room(&site, &alice).await;
        let ok = async |target: String, body: Value| {
            let (status, answer) = site.call(Method::POST, &target, Some(&alice), body).await;
            assert_eq!((status, answer), (StatusCode::OK, json!({})), "{target}");
        };
        ok(format!("{room}/receipt/m.read/{event}"), Value::Null).await;
        let main = json!({ "thread_id": "main" });
        ok(format!("{room}/receipt/m.read.private/{event}"), main).await;
        let root = json!({ "thread_id": event });
        ok(format!("{room}/receipt/m.read/{event}"), root).await;
        let markers = json!({ "m.fully_read": event, "m.read": event });
        ok(format!("{room}/read_markers"), markers).await;
        ok(format!("{room}/read_markers"), json!({})).await;
        let shown = sync(&site, &alice, None).await;
        let rooms = shown["rooms"]["join"].as_object().unwrap();
        let shown = rooms.values().next().unwrap();
        let receipts = &shown["ephemeral"]["events"][0]["content"][&event];
        for receipt_type in ["m.read", "m.read.private"] {
            assert!(
                receipts[receipt_type]["@alice:example.org"]["ts"].is_u64(),
                "{receipts}"
            );
        }
        let marker = &shown["account_data"]["events"][0]["content"];
        assert_eq!(marker, &json!({ "event_id": event }));
    })
    .await;
}

#[tokio::test]
async fn receipts_that_cannot_be_are_refused() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let (room, event) = room(&site, &alice).await;
        let main = json!({ "thread_id": "main" });
        let receipt = |receipt_type: &str| format!("{room}/receipt/{receipt_type}/{event}");
        let (read, markers) = (receipt("m.read"), format!("{room}/read_markers"));
        for (target, token, body, expected) in [
            (&read, &bob, json!({}), (403, "M_FORBIDDEN")),
            (
                &markers,
                &bob,
                json!({ "m.read": event }),
                (403, "M_FORBIDDEN"),
            ),
            (
                &read,
                &alice,
                json!({ "thread_id": "" }),
                (400, "M_INVALID_PARAM"),
            ),
            (
                &read,
                &alice,
                json!({ "thread_id": 5 }),
                (400, "M_INVALID_PARAM"),
            ),
            (
                &read,
                &alice,
                json!({ "thread_id": "$other" }),
                (400, "M_INVALID_PARAM"),
            ),
            (
                &receipt("m.fully_read"),
                &alice,
                main,
                (400, "M_INVALID_PARAM"),
            ),
            (
                &receipt("m.seen"),
                &alice,
                json!({}),
                (400, "M_INVALID_PARAM"),
            ),
            (
                &format!("{room}/receipt/m.read/$no"),
                &alice,
                json!({}),
                (400, "M_INVALID_PARAM"),
            ),
            (
                &format!("{room}/receipt/m.read/no"),
                &alice,
                json!({}),
                (400, "M_INVALID_PARAM"),
            ),
            (
                &markers,
                &alice,
                json!({ "m.read": 5 }),
                (400, "M_BAD_JSON"),
            ),
        ] {
            refused(&site, (Method::POST, target), Some(token), &body, expected).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_receipt_for_a_thread_is_for_an_event_of_it() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let (room, root) = room(&site, &alice).await;
        let send = async |txn_id: &str, rel_type: &str, event: &str| {
            let target = format!("{room}/send/org.example.reply/{txn_id}");
            let relation = json!({ "rel_type": rel_type, "event_id": event });
            let content = json!({ "m.relates_to": relation });
            let (_, sent) = site.call(Method::PUT, &target, Some(&alice), content).await;
            sent["event_id"].as_str().unwrap().to_owned()
        };
        let reply = send("a", "m.thread", &root).await;
        let reaction = send("b", "m.annotation", &reply).await;
        let aside = send("c", "m.annotation", &root).await;
        for (event, thread, expected) in [
            (&reply, &*root, 200),
            (&reply, "main", 400),
            (&reaction, &*root, 200),
            (&reaction, "main", 400),
            (&aside, "main", 200),
            (&root, "main", 200),
        ] {
            let target = format!("{room}/receipt/m.read/{event}");
            let body = json!({ "thread_id": thread });
            let (status, answer) = site.call(Method::POST, &target, Some(&alice), body).await;
            assert_eq!(status.as_u16(), expected, "{thread} {answer}");
        }
    })
    .await;
}
