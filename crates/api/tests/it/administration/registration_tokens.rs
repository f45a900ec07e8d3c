//! Registration tokens, as administrators make and end them.

use std::time::Duration;

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use super::Office;

const NEW_TOKEN: &str = "v1/registration_tokens/new";
const TOKEN: &str = "v1/registration_tokens/abcd";

#[tokio::test]
async fn a_registration_token_lets_as_many_in_as_it_says() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let wish = json!({ "token": "abcd", "uses_allowed": 1 });
        let made = office.ask(Method::POST, NEW_TOKEN, wish).await;
        let shown = json!({
            "token": "abcd", "uses_allowed": 1, "pending": 0, "completed": 0, "expiry_time": null,
        });
        assert_eq!(made, (StatusCode::OK, shown));
        assert!(office.lets_in("anna").await);
        assert!(!office.lets_in("bert").await);
        let used = office.get(TOKEN).await;
        let counts = (&used["completed"], &used["uses_allowed"]);
        assert_eq!(counts, (&json!(1), &json!(1)));
        let more = json!({ "uses_allowed": 3 });
        let changed = office.ask(Method::PUT, TOKEN, more).await.1;
        let counts = (&changed["completed"], &changed["uses_allowed"]);
        assert_eq!(counts, (&json!(1), &json!(3)));
        assert!(office.lets_in("bert").await);
        office.done(Method::DELETE, TOKEN, Value::Null).await;
        assert!(!office.lets_in("carl").await);
        let made = office.ask(Method::POST, NEW_TOKEN, json!({ "length": 5 }));
        assert_eq!(made.await.1["token"].as_str().unwrap().len(), 5);
    })
    .await;
}

#[tokio::test]
async fn a_registration_token_ends_when_it_says() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let until = fresh.env.clock.now_ms() + 1000;
        let wish = json!({ "token": "abcd", "expiry_time": until });
        let made = office.ask(Method::POST, NEW_TOKEN, wish).await;
        assert_eq!(made.1["expiry_time"], until);
        assert!(office.lets_in("anna").await);
        assert_eq!(office.token_count("?valid=true").await, 1);
        fresh.env.clock.advance(Duration::from_secs(2));
        assert!(!office.lets_in("bert").await);
        assert_eq!(office.token_count("?valid=true").await, 0);
        assert_eq!(office.token_count("?valid=false").await, 1);
        assert_eq!(office.token_count("").await, 1);
        let ever = json!({ "expiry_time": null });
        office.ask(Method::PUT, TOKEN, ever).await;
        assert!(office.lets_in("bert").await);
    })
    .await;
}

#[tokio::test]
async fn registration_tokens_that_cannot_be_are_refused() {
    let fresh = Fresh::sqlite().await;
    let office = Office::open(&fresh).await;
    office
        .ask(Method::POST, NEW_TOKEN, json!({ "token": "abcd" }))
        .await;
    for (body, error) in [
        (json!({ "token": 5 }), "token must be a string"),
        (
            json!({ "token": "" }),
            "token must not be empty and must not be longer than 64 characters",
        ),
        (
            json!({ "token": "a b" }),
            "token must consist only of characters matched by the regex [A-Za-z0-9-_]",
        ),
        (json!({ "token": "abcd" }), "Token already exists: abcd"),
        (json!({ "length": "x" }), "length must be an integer"),
        (
            json!({ "length": 65 }),
            "length must be greater than zero and not greater than 64",
        ),
        (
            json!({ "uses_allowed": -1 }),
            "uses_allowed must be a non-negative integer or null",
        ),
        (
            json!({ "expiry_time": "x" }),
            "expiry_time must be an integer or null",
        ),
        (
            json!({ "expiry_time": 1 }),
            "expiry_time must not be in the past",
        ),
    ] {
        let refused = office.refused(Method::POST, NEW_TOKEN, body).await;
        assert_eq!(refused, (400, format!("M_INVALID_PARAM {error}")));
    }
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let refused = office
            .refused(method, "v1/registration_tokens/no", json!({}))
            .await;
        assert_eq!(
            refused,
            (404, "M_NOT_FOUND No such registration token: no".to_owned())
        );
    }
}
