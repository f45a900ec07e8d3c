//! Keys of servers: this one's, and those of others for which it is asked as a notary.

use http::{Method, StatusCode};
use myelin_core::keys::{KeyPair, verify_json};
use myelin_federation::SigningKeys;
use myelin_storage::{
    Priority, StorageError,
    server_keys::{self, KeyDocumentRow, ServerKeyRow},
    testing::{Fresh, START_MS, on_each_engine},
};
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use serde_json::{Value, json};

use crate::{Site, peer::key};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Nobody can be reached under this name.
const AWAY: &str = "127.0.0.1:1";

/// Lets the server under test have heard what a server says of its key.
async fn heard(fresh: &Fresh, key: &KeyPair) -> CanonicalJsonObject {
    let document = SigningKeys::from(key.clone()).document(START_MS);
    let server = key.server_name().to_string();
    let document_ms = START_MS + DAY_MS;
    let rows = [ServerKeyRow {
        server: server.clone(),
        key_id: key.key_id().to_string(),
        public_key: key.verifying_key().to_bytes().to_vec(),
        valid_until_ms: document_ms,
        document_ms,
    }];
    let documents = [KeyDocumentRow {
        server,
        document_ms,
        heard_ms: START_MS,
        document: CanonicalJsonValue::Object(document.clone()).to_string(),
    }];
    let put: Result<(), StorageError> = fresh
        .database
        .write("keys", Priority::Bulk, move |tx| {
            Box::pin(async move {
                server_keys::put(tx, &rows).await?;
                server_keys::put_documents(tx, &documents).await
            })
        })
        .await;
    put.unwrap();
    document
}

async fn ask(site: &Site, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let path = format!("/_matrix/key/v2/{path}");
    site.call(method, &path, None, body).await
}

/// Checks that what is told is what the owner of the key said, and signed by both.
fn assert_vouched(site: &Site, told: &Value, document: &CanonicalJsonObject, key: &KeyPair) {
    let told: CanonicalJsonObject = serde_json::from_value(told.clone()).unwrap();
    for field in ["server_name", "verify_keys", "valid_until_ts"] {
        assert_eq!(told[field], document[field]);
    }
    for pair in [site.keys.active(), key] {
        let by = pair.server_name();
        let verified = verify_json(&told, by, pair.key_id(), &pair.verifying_key());
        assert_eq!(verified, Ok(()), "{by}");
    }
}

#[tokio::test]
async fn the_keys_of_another_server_are_told_as_it_signed_them_and_signed_here() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (key, other) = (key(AWAY, "a"), key("127.0.0.1:2", "b"));
        let documents = [heard(&fresh, &key).await, heard(&fresh, &other).await];
        let of = |server: &str, wanted: Value| json!({ "server_keys": { server: wanted } });
        let both = json!({ "server_keys": { AWAY: {}, "127.0.0.1:2": {}, "127.0.0.1:3": {} } });
        let (get, post) = (Method::GET, Method::POST);
        let far = START_MS + 30 * DAY_MS;
        let asked = [
            (&get, format!("query/{AWAY}"), Value::Null, 1),
            (
                &get,
                format!("query/{AWAY}?minimum_valid_until_ts=1"),
                Value::Null,
                1,
            ),
            // Newer than can be had: the last that is known.
            (
                &get,
                format!("query/{AWAY}?minimum_valid_until_ts={far}"),
                Value::Null,
                1,
            ),
            (&post, "query".to_owned(), both, 2),
            (
                &post,
                "query".to_owned(),
                of(AWAY, json!({ "ed25519:a": {} })),
                1,
            ),
            (
                &post,
                "query".to_owned(),
                of(
                    AWAY,
                    json!({ "ed25519:a": { "minimum_valid_until_ts": far }, "no key": {} }),
                ),
                1,
            ),
            (
                &post,
                "query".to_owned(),
                of(AWAY, json!({ "ed25519:other": {} })),
                0,
            ),
            (
                &post,
                "query".to_owned(),
                of(AWAY, json!({ "no key": {} })),
                0,
            ),
            (&post, "query".to_owned(), of("127.0.0.1:3", json!({})), 0),
            (&post, "query".to_owned(), json!({ "server_keys": {} }), 0),
            (&get, "query/127.0.0.1:3".to_owned(), Value::Null, 0),
        ];
        for (method, path, body, count) in asked {
            let (status, answer) = ask(&site, method.clone(), &path, body.clone()).await;
            assert_eq!(status, StatusCode::OK, "{path} {body}: {answer}");
            let told = answer["server_keys"].as_array().unwrap();
            assert_eq!(told.len(), count, "{path} {body}: {answer}");
            for (told, (document, key)) in told.iter().zip(documents.iter().zip([&key, &other])) {
                assert_vouched(&site, told, document, key);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn this_servers_own_keys_are_told_by_itself_as_by_a_notary() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (_, own) = ask(&site, Method::GET, "server", Value::Null).await;
        let key_id = site.keys.active().key_id().as_str();
        assert!(own["verify_keys"][key_id]["key"].is_string(), "{own}");
        let told = (StatusCode::OK, json!({ "server_keys": [own] }));
        let get = ask(&site, Method::GET, "query/example.org", Value::Null).await;
        assert_eq!(get, told);
        let body = json!({ "server_keys": { "example.org": { key_id: {} } } });
        assert_eq!(ask(&site, Method::POST, "query", body).await, told);
    })
    .await;
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let bad = |wanted: Value| json!({ "server_keys": wanted });
        let wanted = |minimum: Value| {
            bad(json!({ AWAY: { "ed25519:a": { "minimum_valid_until_ts": minimum } } }))
        };
        let gets = [
            "query/not%20a%20name",
            "query/@a:b",
            &format!("query/{AWAY}?minimum_valid_until_ts=-1"),
            &format!("query/{AWAY}?minimum_valid_until_ts=soon"),
        ]
        .map(|path| (Method::GET, path.to_owned(), Value::Null, "M_INVALID_PARAM"));
        let posts = [
            (json!({}), "M_BAD_JSON"),
            (bad(json!([])), "M_BAD_JSON"),
            (bad(json!({ "not a name": {} })), "M_BAD_JSON"),
            (bad(json!({ AWAY: [] })), "M_BAD_JSON"),
            (bad(json!({ AWAY: { "ed25519:a": 5 } })), "M_BAD_JSON"),
            (wanted(json!("5")), "M_BAD_JSON"),
            (wanted(json!(-5)), "M_BAD_JSON"),
            (wanted(json!(5.5)), "M_BAD_JSON"),
            (Value::Null, "M_NOT_JSON"),
        ]
        .map(|(body, code)| (Method::POST, "query".to_owned(), body, code));
        for (method, path, body, code) in gets.into_iter().chain(posts) {
            let (status, answer) = ask(&site, method, &path, body.clone()).await;
            let found = (status, &answer["errcode"]);
            assert_eq!(
                found,
                (StatusCode::BAD_REQUEST, &json!(code)),
                "{path} {body}"
            );
        }
    })
    .await;
}
