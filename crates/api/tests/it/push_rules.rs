//! What users want to be told of.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, edus::sync};

const ROOT: &str = "/_matrix/client/v3/pushrules";

/// A request about alice's rules, by the end of its path.
async fn call(
    site: &Site,
    token: &str,
    (method, end): (Method, &str),
    body: Value,
) -> (StatusCode, Value) {
    let target = format!("{ROOT}{end}");
    site.call(method, &target, Some(token), body).await
}

/// The IDs of the user's own rules of a kind, in order.
async fn own(site: &Site, token: &str, kind: &str) -> Vec<String> {
    let (_, rules) = call(site, token, (Method::GET, "/global/"), Value::Null).await;
    let rules = rules[kind].as_array().unwrap().iter();
    rules
        .filter(|rule| rule["default"] == false)
        .map(|rule| rule["rule_id"].as_str().unwrap().to_owned())
        .collect()
}

/// A rule of each kind.
fn rules() -> [(&'static str, Value); 5] {
    let condition = json!({ "kind": "event_match", "key": "type", "pattern": "m.*" });
    let highlight = json!({ "set_tweak": "highlight" });
    let (notify, nothing) = (json!(["notify"]), json!(["dont_notify", "coalesce"]));
    [
        (
            "override/a",
            json!({ "conditions": [condition], "actions": notify }),
        ),
        ("underride/a", json!({ "actions": [highlight] })),
        (
            "content/a",
            json!({ "pattern": "cake*lie", "actions": notify }),
        ),
        ("room/!r:example.org", json!({ "actions": [] })),
        ("sender/@bob:example.org", json!({ "actions": nothing })),
    ]
}

#[tokio::test]
async fn a_rule_is_made_read_changed_and_removed() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let ok = (StatusCode::OK, json!({}));
        for (name, body) in rules() {
            let end = format!("/global/{name}");
            assert_eq!(
                call(&site, &alice, (Method::PUT, &end), body.clone()).await,
                ok
            );
            let (_, rule) = call(&site, &alice, (Method::GET, &end), Value::Null).await;
            let mut expected = body;
            let (kind, id) = name.split_once('/').unwrap();
            expected["rule_id"] = json!(id);
            expected["enabled"] = json!(true);
            expected["default"] = json!(false);
            if kind == "underride" {
                expected["conditions"] = json!([]);
            }
            if kind == "sender" {
                // These do nothing.
                expected["actions"] = json!([]);
            }
            assert_eq!(rule, expected, "{name}");
            for (part, value) in [
                ("enabled", json!(false)),
                (
                    "actions",
                    json!([{ "set_tweak": "sound", "value": "bing" }]),
                ),
            ] {
                let end = format!("{end}/{part}");
                let set = json!({ part: value });
                assert_eq!(
                    call(&site, &alice, (Method::PUT, &end), set.clone()).await,
                    ok
                );
                let got = call(&site, &alice, (Method::GET, &end), Value::Null).await;
                assert_eq!(got, (StatusCode::OK, set), "{end}");
            }
            assert_eq!(
                call(&site, &alice, (Method::DELETE, &end), Value::Null).await,
                ok
            );
            let (gone, answer) = call(&site, &alice, (Method::GET, &end), Value::Null).await;
            assert_eq!(
                (gone, &answer["errcode"]),
                (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND"))
            );
            assert_eq!(own(&site, &bob, kind).await, [""; 0]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_rule_goes_first_or_where_it_is_put() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let alice = site.token("alice").await;
    let steps: [(&str, &[&str]); 7] = [
        ("a", &["a"]),
        ("b", &["b", "a"]),
        ("c?after=b", &["b", "c", "a"]),
        ("d?before=b", &["d", "b", "c", "a"]),
        // With both, what counts is what it comes before.
        ("e?before=a&after=d", &["d", "b", "c", "e", "a"]),
        // A change in place.
        ("b", &["d", "b", "c", "e", "a"]),
        ("a?before=d", &["a", "d", "b", "c", "e"]),
    ];
    for kind in ["override", "content"] {
        for (step, expected) in steps {
            let end = format!("/global/{kind}/{step}");
            let body = json!({ "pattern": "x", "actions": [] });
            let (status, answer) = call(&site, &alice, (Method::PUT, &end), body).await;
            assert_eq!(status, StatusCode::OK, "{end} {answer}");
            assert_eq!(own(&site, &alice, kind).await, expected, "{end}");
        }
    }
    // The one that turns everything off stays above all.
    let (_, rules) = call(&site, &alice, (Method::GET, "/"), Value::Null).await;
    assert_eq!(rules["global"]["override"][0]["rule_id"], ".m.rule.master");
}

#[tokio::test]
async fn predefined_rules_are_changed_but_not_made_or_removed() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let alice = site.token("alice").await;
    for (part, set) in [
        (
            "override/.m.rule.master/enabled",
            json!({ "enabled": true }),
        ),
        (
            "underride/.m.rule.message/actions",
            json!({ "actions": [] }),
        ),
    ] {
        let end = format!("/global/{part}");
        let put = call(&site, &alice, (Method::PUT, &end), set.clone()).await;
        assert_eq!(put, (StatusCode::OK, json!({})));
        let got = call(&site, &alice, (Method::GET, &end), Value::Null).await;
        assert_eq!(got, (StatusCode::OK, set));
    }
}

const RULE: &str = r#"{"actions":["notify"],"pattern":"x"}"#;

/// What is refused: the end of the path, the body, the status and the code.
const WRONG: &[(Method, &str, &str, u16, &str)] = &[
    (Method::GET, "/global/content/none", "", 404, "M_NOT_FOUND"),
    (
        Method::GET,
        "/global/content/none/enabled",
        "",
        404,
        "M_NOT_FOUND",
    ),
    (
        Method::GET,
        "/global/content/none/actions",
        "",
        404,
        "M_NOT_FOUND",
    ),
    (
        Method::GET,
        "/global/content/.m.rule.none",
        "",
        404,
        "M_NOT_FOUND",
    ),
    (Method::GET, "/global/moon/a", "", 400, "M_INVALID_PARAM"),
    (
        Method::DELETE,
        "/global/content/none",
        "",
        404,
        "M_NOT_FOUND",
    ),
    (
        Method::DELETE,
        "/global/override/.m.rule.master",
        "",
        400,
        "M_INVALID_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/none/enabled",
        r#"{"enabled":true}"#,
        404,
        "M_NOT_FOUND",
    ),
    (
        Method::PUT,
        "/global/content/none/actions",
        r#"{"actions":[]}"#,
        404,
        "M_NOT_FOUND",
    ),
    (
        Method::PUT,
        "/global/content/a/enabled",
        r#"{}"#,
        400,
        "M_MISSING_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/a/enabled",
        r#"{"enabled":1}"#,
        400,
        "M_BAD_JSON",
    ),
    (
        Method::PUT,
        "/global/content/a/actions",
        r#"{}"#,
        400,
        "M_MISSING_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/a/actions",
        r#"{"actions":1}"#,
        400,
        "M_BAD_JSON",
    ),
    (
        Method::PUT,
        "/global/content/a/actions",
        r#"{"actions":["ring"]}"#,
        400,
        "M_INVALID_PARAM",
    ),
    (Method::PUT, "/global/moon/a", RULE, 400, "M_INVALID_PARAM"),
    (
        Method::PUT,
        "/global/content/.a",
        RULE,
        400,
        "M_INVALID_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/a%2Fb",
        RULE,
        400,
        "M_INVALID_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/a%5Cb",
        RULE,
        400,
        "M_INVALID_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/a?before=none",
        RULE,
        400,
        "M_UNKNOWN",
    ),
    (
        Method::PUT,
        "/global/content/a?after=none",
        RULE,
        400,
        "M_UNKNOWN",
    ),
    (
        Method::PUT,
        "/global/override/a?before=.m.rule.master",
        RULE,
        400,
        "M_INVALID_PARAM",
    ),
    (
        Method::PUT,
        "/global/override/a?after=.m.rule.master",
        RULE,
        400,
        "M_INVALID_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/a",
        r#"{"actions":[]}"#,
        400,
        "M_MISSING_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/a",
        r#"{"pattern":"x"}"#,
        400,
        "M_MISSING_PARAM",
    ),
    (
        Method::PUT,
        "/global/content/a",
        r#"{"pattern":1,"actions":[]}"#,
        400,
        "M_BAD_JSON",
    ),
    (Method::PUT, "/global/content/a", r#"[]"#, 400, "M_BAD_JSON"),
    (
        Method::PUT,
        "/global/override/a",
        r#"{"actions":[],"conditions":[{}]}"#,
        400,
        "M_BAD_JSON",
    ),
    (
        Method::PUT,
        "/global/override/a",
        r#"{"actions":[],"conditions":1}"#,
        400,
        "M_BAD_JSON",
    ),
    (
        Method::PUT,
        "/global/room/nowhere",
        RULE,
        400,
        "M_INVALID_PARAM",
    ),
    (
        Method::PUT,
        "/global/sender/nobody",
        RULE,
        400,
        "M_INVALID_PARAM",
    ),
];

#[tokio::test]
async fn rules_in_wrong_forms_are_refused_and_change_nothing() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let alice = site.token("alice").await;
        let before = call(&site, &alice, (Method::GET, "/"), Value::Null).await;
        for (method, end, body, status, code) in WRONG {
            let body = serde_json::from_str(body).unwrap_or_default();
            let answer = call(&site, &alice, (method.clone(), end), body).await;
            let found = (answer.0.as_u16(), &answer.1["errcode"]);
            assert_eq!(found, (*status, &json!(code)), "{method} {end}");
        }
        let large = json!({ "pattern": "x".repeat(70_000), "actions": [] });
        let answer = call(&site, &alice, (Method::PUT, "/global/content/a"), large).await;
        let found = (answer.0.as_u16(), &answer.1["errcode"]);
        assert_eq!(found, (400, &json!("M_INVALID_PARAM")));
        let after = call(&site, &alice, (Method::GET, "/"), Value::Null).await;
        assert_eq!(after, before);
    })
    .await;
}

/// The rules in an answer of `/sync`.
fn synced(answer: &Value) -> Option<&Value> {
    let events = answer["account_data"]["events"].as_array().unwrap();
    let rules = events.iter().find(|event| event["type"] == "m.push_rules");
    rules.map(|event| &event["content"])
}

#[tokio::test]
async fn changed_rules_come_with_the_next_sync_and_outlive_the_server() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let data = "/_matrix/client/v3/user/@alice:example.org/account_data/m.push_rules";
        let first = sync(&site, &alice, None).await;
        let predefined = call(&site, &alice, (Method::GET, "/"), Value::Null).await.1;
        assert_eq!(synced(&first), Some(&predefined));
        let got = site
            .call(Method::GET, data, Some(&alice), Value::Null)
            .await;
        assert_eq!(got, (StatusCode::OK, predefined));
        let since_of_bob = sync(&site, &bob, None).await;
        let rule = json!({ "pattern": "cake", "actions": ["notify"] });
        call(&site, &alice, (Method::PUT, "/global/content/cake"), rule).await;
        let changed = call(&site, &alice, (Method::GET, "/"), Value::Null).await.1;
        let since = first["next_batch"].as_str();
        let news = sync(&site, &alice, since).await;
        assert_eq!(synced(&news), Some(&changed));
        let nothing = sync(&site, &alice, news["next_batch"].as_str()).await;
        assert_eq!(synced(&nothing), None);
        let of_bob = sync(&site, &bob, since_of_bob["next_batch"].as_str()).await;
        assert_eq!(synced(&of_bob), None);
        // Another process over the same database.
        let site = Site::start(&fresh).await;
        assert_eq!(synced(&sync(&site, &alice, None).await), Some(&changed));
        let got = site
            .call(Method::GET, data, Some(&alice), Value::Null)
            .await;
        assert_eq!(got, (StatusCode::OK, changed));
    })
    .await;
}

#[tokio::test]
async fn the_fully_read_mark_is_read_as_account_data() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let create = "/_matrix/client/v3/createRoom";
        let (_, created) = site
            .call(Method::POST, create, Some(&alice), json!({}))
            .await;
        let room = created["room_id"].as_str().unwrap();
        let data = format!(
            "/_matrix/client/v3/user/@alice:example.org/rooms/{room}/account_data/m.fully_read"
        );
        let (status, answer) = site
            .call(Method::GET, &data, Some(&alice), Value::Null)
            .await;
        assert_eq!(
            (status.as_u16(), &answer["errcode"]),
            (404, &json!("M_NOT_FOUND"))
        );
        let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
        let (_, sent) = site
            .call(Method::PUT, &send, Some(&alice), json!({ "body": "x" }))
            .await;
        let marks = format!("/_matrix/client/v3/rooms/{room}/read_markers");
        let mark = json!({ "m.fully_read": sent["event_id"] });
        site.call(Method::POST, &marks, Some(&alice), mark).await;
        let got = site
            .call(Method::GET, &data, Some(&alice), Value::Null)
            .await;
        assert_eq!(
            got,
            (StatusCode::OK, json!({ "event_id": sent["event_id"] }))
        );
        let (status, _) = site.call(Method::GET, &data, Some(&bob), Value::Null).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    })
    .await;
}
