//! Other servers, as administrators see them.

use http::{Method, StatusCode};
use myelin_storage::{
    Priority, StorageError,
    destinations::{self, Failing},
    testing::{Fresh, START_MS, on_each_engine},
};
use serde_json::{Value, json};

use super::Office;

const DESTINATIONS: &str = "v1/federation/destinations";

/// Servers that fail since so many milliseconds before the start, the first for the longest time.
async fn fail(fresh: &Fresh, servers: &'static [&'static str]) {
    let write = fresh.database.write("fail", Priority::Bulk, move |tx| {
        Box::pin(async move {
            for (number, server) in (1..).zip(servers) {
                let failing = Failing {
                    since_ms: START_MS - 10_000 + number,
                    retry_at_ms: START_MS + 5_000,
                    wait_ms: 6_000 + number,
                };
                destinations::put_failing(tx, server, failing).await?;
            }
            Ok(())
        })
    });
    let written: Result<(), StorageError> = write.await;
    written.unwrap();
}

#[tokio::test]
async fn servers_to_which_requests_fail_are_listed() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let none = json!({ "destinations": [], "total": 0 });
        assert_eq!(office.get(DESTINATIONS).await, none);
        fail(&fresh, &["b.example", "a.example", "c.test"]).await;
        let cases: [(&str, &[&str], u64); 7] = [
            ("", &["a.example", "b.example", "c.test"], 3),
            ("?dir=b", &["c.test", "b.example", "a.example"], 3),
            (
                "?order_by=failure_ts",
                &["b.example", "a.example", "c.test"],
                3,
            ),
            (
                "?order_by=retry_interval&dir=b",
                &["c.test", "a.example", "b.example"],
                3,
            ),
            ("?destination=EXAMPLE", &["a.example", "b.example"], 2),
            ("?destination=_", &[], 0),
            ("?from=1&limit=1", &["b.example"], 3),
        ];
        for (query, expected, total) in cases {
            let list = office.get(&format!("{DESTINATIONS}{query}")).await;
            let rows = list["destinations"].as_array().unwrap();
            let names: Vec<_> = rows
                .iter()
                .map(|row| row["destination"].as_str().unwrap())
                .collect();
            assert_eq!(
                (&*names, &list["total"]),
                (expected, &json!(total)),
                "{query}"
            );
            let next = (query == "?from=1&limit=1").then_some("2");
            assert_eq!(list["next_token"], json!(next), "{query}");
        }
        let one = office.get(&format!("{DESTINATIONS}/a.example")).await;
        let expected = json!({
            "destination": "a.example", "failure_ts": START_MS - 9_998, "retry_interval": 6_002,
            "retry_last_ts": START_MS - 1_002, "last_successful_stream_ordering": null,
        });
        assert_eq!(one, expected);
        for (query, code) in [
            ("?order_by=x", "M_INVALID_PARAM"),
            ("?limit=-1", "M_INVALID_PARAM"),
        ] {
            let target = format!("{DESTINATIONS}{query}");
            let (status, refused) = office.refused(Method::GET, &target, Value::Null).await;
            assert_eq!(status, 400);
            assert!(refused.starts_with(code), "{refused}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_left_alone_is_tried_again_at_once() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let reset = |server: &str| format!("{DESTINATIONS}/{server}/reset_connection");
        let unknown = (404, "M_NOT_FOUND Unknown destination".to_owned());
        for (method, target) in [
            (Method::POST, reset("a.example")),
            (Method::GET, format!("{DESTINATIONS}/a.example")),
        ] {
            assert_eq!(office.refused(method, &target, json!({})).await, unknown);
        }
        let target = reset("%20");
        let (status, refused) = office.refused(Method::POST, &target, json!({})).await;
        assert_eq!(
            (status, refused.split(' ').next()),
            (400, Some("M_INVALID_PARAM"))
        );
        fail(&fresh, &["a.example"]).await;
        office
            .done(Method::POST, &reset("a.example"), json!({}))
            .await;
        let one = office.get(&format!("{DESTINATIONS}/a.example")).await;
        assert_eq!(
            (&one["failure_ts"], &one["retry_last_ts"]),
            (&Value::Null, &json!(0))
        );
        let (status, _) = office
            .ask(Method::POST, &reset("a.example"), json!({}))
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "there is nothing to reset");
    })
    .await;
}
