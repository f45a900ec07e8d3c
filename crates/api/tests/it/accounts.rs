use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::Site;

#[tokio::test]
async fn somebody_registers_logs_in_and_out() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let register = "/_matrix/client/v3/register";
        let wish = json!({ "username": "alice", "password": "secret" });
        let (status, asked) = site.call(Method::POST, register, None, wish.clone()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(asked["flows"], json!([{ "stages": ["m.login.dummy"] }]));
        assert_eq!(
            (&asked["completed"], &asked["params"]),
            (&json!([]), &json!({}))
        );
        assert!(asked.get("errcode").is_none());
        let mut answer = wish.clone();
        answer["auth"] = json!({ "type": "m.login.dummy", "session": asked["session"] });
        let (status, registered) = site
            .call(Method::POST, register, None, answer.clone())
            .await;
        assert_eq!(status, StatusCode::OK, "{registered}");
        assert_eq!(registered["user_id"], "@alice:example.org");
        assert_eq!(registered["home_server"], "example.org");
        let (status, refused) = site.call(Method::POST, register, None, answer).await;
        assert_eq!(
            (status, &refused["errcode"]),
            (StatusCode::BAD_REQUEST, &json!("M_USER_IN_USE"))
        );

        let (_, flows) = site
            .call(Method::GET, "/_matrix/client/v3/login", None, Value::Null)
            .await;
        let by_token = json!({ "type": "m.login.token", "get_login_token": true });
        assert_eq!(
            flows["flows"],
            json!([{ "type": "m.login.password" }, by_token])
        );
        let login = |user: Value, password: &str| {
            let mut body = json!({ "type": "m.login.password", "password": password });
            body.as_object_mut()
                .unwrap()
                .extend(user.as_object().unwrap().clone());
            site.call(Method::POST, "/_matrix/client/v3/login", None, body)
        };
        let identified =
            json!({ "identifier": { "type": "m.id.user", "user": "@alice:example.org" } });
        let (status, logged_in) = login(identified.clone(), "secret").await;
        assert_eq!(status, StatusCode::OK, "{logged_in}");
        let base_url = &logged_in["well_known"]["m.homeserver"]["base_url"];
        assert_eq!(base_url, "https://matrix.example.org");
        let (status, _) = login(json!({ "user": "alice" }), "secret").await;
        assert_eq!(status, StatusCode::OK, "the older form");
        let (status, refused) = login(identified, "wrong").await;
        assert_eq!(
            (status, &refused["errcode"]),
            (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN"))
        );

        let token = logged_in["access_token"].as_str().unwrap();
        let who = "/_matrix/client/v3/account/whoami";
        let (_, me) = site.call(Method::GET, who, Some(token), Value::Null).await;
        assert_eq!(me["device_id"], logged_in["device_id"]);
        let in_query = format!("{who}?access_token={token}");
        let (status, _) = site.call(Method::GET, &in_query, None, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "as older clients send it");
        let logout = "/_matrix/client/v3/logout";
        let (status, _) = site
            .call(Method::POST, logout, Some(token), Value::Null)
            .await;
        assert_eq!(status, StatusCode::OK);
        let (status, ended) = site.call(Method::GET, who, Some(token), Value::Null).await;
        let expected = (StatusCode::UNAUTHORIZED, &json!("M_UNKNOWN_TOKEN"));
        assert_eq!((status, &ended["errcode"]), expected);
    })
    .await;
}

#[tokio::test]
async fn login_requests_that_lack_something_are_refused() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let cases = [
        (json!({ "type": "m.login.sso" }), "M_UNKNOWN"),
        (json!({ "type": "m.login.token" }), "M_MISSING_PARAM"),
        (
            json!({ "type": "m.login.password", "user": "alice" }),
            "M_MISSING_PARAM",
        ),
        (
            json!({ "type": "m.login.password", "password": "x" }),
            "M_MISSING_PARAM",
        ),
        (
            json!({ "type": "m.login.password", "password": "x", "identifier": { "type": "m.id.phone" } }),
            "M_UNKNOWN",
        ),
    ];
    for (body, errcode) in cases {
        let login = "/_matrix/client/v3/login";
        let (status, answer) = site.call(Method::POST, login, None, body.clone()).await;
        assert_eq!(
            (status, &answer["errcode"]),
            (StatusCode::BAD_REQUEST, &json!(errcode)),
            "{body}"
        );
    }
}

#[tokio::test]
async fn what_a_client_asks_for_when_it_starts_is_answered() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let get = |target: &'static str| site.call(Method::GET, target, Some(&token), Value::Null);
        let (_, versions) = get("/_matrix/client/versions").await;
        assert!(
            versions["versions"]
                .as_array()
                .unwrap()
                .contains(&json!("v1.11"))
        );
        let (_, capabilities) = get("/_matrix/client/v3/capabilities").await;
        let room_versions = &capabilities["capabilities"]["m.room_versions"];
        assert_eq!(room_versions["default"], "12");
        let fields = &capabilities["capabilities"]["m.profile_fields"];
        assert_eq!(fields, &json!({ "enabled": true }));
        assert_eq!(
            room_versions["available"],
            json!({
                "1": "stable", "2": "stable", "3": "stable", "4": "stable", "5": "stable", "6": "stable",
                "7": "stable", "8": "stable", "9": "stable", "10": "stable", "11": "stable", "12": "stable",
            })
        );
        let (_, rules) = get("/_matrix/client/v3/pushrules/").await;
        assert_eq!(rules["global"]["override"][0]["rule_id"], ".m.rule.master");
        let (_, well_known) = get("/.well-known/matrix/client").await;
        assert_eq!(
            well_known["m.homeserver"]["base_url"],
            "https://matrix.example.org"
        );
        let keys = json!({ "one_time_keys": { "signed_curve25519:AAAAAQ": { "key": "x" } } });
        let upload = "/_matrix/client/v3/keys/upload";
        let (_, counts) = site.call(Method::POST, upload, Some(&token), keys).await;
        assert_eq!(
            counts,
            json!({ "one_time_key_counts": { "signed_curve25519": 1 } })
        );
        let store = "/_matrix/client/v3/user/@alice:example.org/filter";
        let filter = json!({ "room": { "timeline": { "limit": 5 } } });
        let (_, stored) = site
            .call(Method::POST, store, Some(&token), filter.clone())
            .await;
        assert_eq!(stored, json!({ "filter_id": "0" }));
        let (_, read) = get("/_matrix/client/v3/user/@alice:example.org/filter/0").await;
        assert_eq!(read, filter);
        let (_, first) = get("/_matrix/client/v3/sync?filter=0&timeout=0").await;
        assert_eq!(first["device_one_time_keys_count"]["signed_curve25519"], 1);
        assert_eq!(first["account_data"]["events"][0]["type"], "m.push_rules");
    })
    .await;
}

#[tokio::test]
async fn a_profile_belongs_to_its_user() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        site.token("bob").await;
        let profile = "/_matrix/client/v3/profile/@alice:example.org";
        let name = format!("{profile}/displayname");
        let set = |target: String, body: Value| {
            let (site, token) = (&site, &token);
            async move { site.call(Method::PUT, &target, Some(token), body).await }
        };
        let (status, _) = set(name.clone(), json!({ "displayname": "Alice" })).await;
        assert_eq!(status, StatusCode::OK);
        let (_, shown) = site.call(Method::GET, profile, None, Value::Null).await;
        assert_eq!(shown, json!({ "displayname": "Alice" }));
        let (_, shown) = site.call(Method::GET, &name, None, Value::Null).await;
        assert_eq!(shown, json!({ "displayname": "Alice" }));
        for (target, body, errcode) in [
            (name.clone(), json!({}), "M_MISSING_PARAM"),
            (name.clone(), json!({ "displayname": 5 }), "M_BAD_JSON"),
            (
                name.replace("alice", "bob"),
                json!({ "displayname": "Eve" }),
                "M_FORBIDDEN",
            ),
            (
                format!("{profile}/Shoe"),
                json!({ "Shoe": 5 }),
                "M_INVALID_PARAM",
            ),
            (
                format!("{profile}/{}", "x".repeat(256)),
                json!({}),
                "M_KEY_TOO_LARGE",
            ),
            (
                format!("{profile}/org.example.shoe"),
                json!({ "org.example.shoe": "x".repeat(64 * 1024) }),
                "M_PROFILE_TOO_LARGE",
            ),
            (
                format!("{profile}/m.tz").replace("alice", "bob"),
                json!({ "m.tz": "Europe/London" }),
                "M_FORBIDDEN",
            ),
        ] {
            let (_, refused) = set(target.clone(), body).await;
            assert_eq!(refused["errcode"], errcode, "{target}");
        }
        let (status, _) = site
            .call(Method::DELETE, &name, Some(&token), Value::Null)
            .await;
        assert_eq!(status, StatusCode::OK);
        let (_, shown) = site.call(Method::GET, profile, None, Value::Null).await;
        assert_eq!(shown, json!({}));
        let nobody = profile.replace("alice", "nobody");
        let (status, _) = site.call(Method::GET, &nobody, None, Value::Null).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    })
    .await;
}

#[tokio::test]
async fn a_profile_has_any_field_that_its_user_sets() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let profile = "/_matrix/client/v3/profile/@alice:example.org";
        let (name, shoe) = (
            format!("{profile}/displayname"),
            format!("{profile}/org.example.shoe"),
        );
        let alice = json!({ "displayname": "Alice" });
        let size = json!({ "org.example.shoe": { "size": 45 } });
        for (field, value) in [(&name, &alice), (&shoe, &size)] {
            let set = site.call(Method::PUT, field, Some(&token), value.clone());
            assert_eq!(set.await, (StatusCode::OK, json!({})));
        }
        let get = async |target: &str| site.call(Method::GET, target, None, Value::Null).await;
        assert_eq!(get(&shoe).await, (StatusCode::OK, size));
        let (_, whole) = get(profile).await;
        let expected = json!({ "displayname": "Alice", "org.example.shoe": { "size": 45 } });
        assert_eq!(whole, expected);
        for field in [&name, &shoe] {
            let removed = site.call(Method::DELETE, field, Some(&token), Value::Null);
            assert_eq!(removed.await, (StatusCode::OK, json!({})));
        }
        assert_eq!(get(profile).await, (StatusCode::OK, json!({})));
        assert_eq!(get(&name).await, (StatusCode::OK, json!({})));
        let (status, unset) = get(&shoe).await;
        assert_eq!(
            (status, &unset["errcode"]),
            (StatusCode::NOT_FOUND, &json!("M_NOT_FOUND"))
        );
    })
    .await;
}
