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
async fn receive(site: &Site, txn_id: &str, edus: &[Value]) -> StatusCode {
    let target = format!("/_matrix/federation/v1/send/{txn_id}");
    let body = transaction(edus);
    federation::call(site, Method::PUT, &target, body).await.0
}

async fn sync(site: &Site, token: &str, since: Option<&str>) -> Value {
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
