//! What users are told of, and the list of it.

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, edus::sync};

const LIST: &str = "/_matrix/client/v3/notifications";

#[tokio::test]
async fn a_user_is_told_by_its_rules_of_now_and_lists_its_own_only() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let create = "/_matrix/client/v3/createRoom";
        let wish = json!({ "preset": "public_chat" });
        let (_, created) = site.call(Method::POST, create, Some(&alice), wish).await;
        let room = created["room_id"].as_str().unwrap();
        let join = format!("/_matrix/client/v3/join/{room}");
        site.call(Method::POST, &join, Some(&bob), json!({})).await;
        let say = async |number: u32, words: &str| {
            let target = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{number}");
            let body = json!({ "msgtype": "m.text", "body": words });
            let sent = site.call(Method::PUT, &target, Some(&alice), body).await;
            assert_eq!(sent.0, StatusCode::OK, "{}", sent.1);
        };
        say(1, "one").await;
        let rule = "/_matrix/client/v3/pushrules/global/content/tea";
        let loud = json!({ "pattern": "tea", "actions": ["notify", { "set_tweak": "highlight" }] });
        site.call(Method::PUT, rule, Some(&bob), loud.clone()).await;
        say(2, "tea?").await;
        site.call(Method::DELETE, rule, Some(&bob), Value::Null)
            .await;
        say(3, "more tea?").await;
        let answer = sync(&site, &bob, None).await;
        let counts = json!({ "highlight_count": 1, "notification_count": 3 });
        let section = &answer["rooms"]["join"][room];
        assert_eq!(section["unread_notifications"], counts);
        let list = async |token: &str, query: &str| {
            let target = format!("{LIST}{query}");
            let got = site
                .call(Method::GET, &target, Some(token), Value::Null)
                .await;
            assert_eq!(got.0, StatusCode::OK, "{}", got.1);
            got.1
        };
        let bodies = |page: &Value| -> Vec<Value> {
            let list = page["notifications"].as_array().unwrap().iter();
            list.map(|of| of["event"]["content"]["body"].clone())
                .collect()
        };
        let first = list(&bob, "?limit=2").await;
        assert_eq!(bodies(&first), ["more tea?", "tea?"]);
        let from = first["next_token"].as_str().unwrap();
        let second = list(&bob, &format!("?limit=2&from={from}")).await;
        assert_eq!(bodies(&second), ["one"]);
        assert_eq!(second["next_token"], Value::Null);
        let highlights = list(&bob, "?only=highlight").await;
        assert_eq!(bodies(&highlights), ["tea?"]);
        assert_eq!(highlights["notifications"][0]["actions"], loud["actions"]);
        assert_eq!(highlights["notifications"][0]["room_id"], room);
        assert_eq!(bodies(&list(&alice, "").await), [""; 0]);
    })
    .await;
}
