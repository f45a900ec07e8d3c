//! Synapse's admin API, as tools use it.

mod event_reports;
mod federation;
mod history;
mod history_purges;
mod registration_tokens;
mod room_deletions;
mod rooms;

use std::time::Duration;

use http::{Method, StatusCode};
use myelin_api::{Access, routes};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::{Site, errors::example};

const ADMIN: &str = "/_synapse/admin";
const WHO_AM_I: &str = "/_matrix/client/v3/account/whoami";

/// The site with an administrator's token.
struct Office {
    site: Site,
    root: String,
}

impl Office {
    async fn open(fresh: &Fresh) -> Self {
        let site = Site::start(fresh).await;
        let root = site.admin("root").await;
        Self { site, root }
    }

    /// A request of the administrator's, below the admin API's path.
    async fn ask(&self, method: Method, end: &str, body: Value) -> (StatusCode, Value) {
        let target = format!("{ADMIN}/{end}");
        self.site
            .call(method, &target, Some(&self.root), body)
            .await
    }

    async fn get(&self, end: &str) -> Value {
        let (status, answer) = self.ask(Method::GET, end, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{end}: {answer}");
        answer
    }

    /// A request that changes something and says no more than that.
    async fn done(&self, method: Method, end: &str, body: Value) {
        let answer = self.ask(method, end, body).await;
        assert_eq!(answer, (StatusCode::OK, json!({})), "{end}");
    }

    /// What a request is refused with.
    async fn refused(&self, method: Method, end: &str, body: Value) -> (u16, String) {
        let (status, answer) = self.ask(method, end, body).await;
        let code = answer["errcode"].as_str().unwrap_or_default();
        (
            status.as_u16(),
            format!("{code} {}", answer["error"].as_str().unwrap_or_default()),
        )
    }

    /// The local parts of a page of users.
    async fn names(&self, end: &str) -> Vec<String> {
        let answer = self.get(end).await;
        let name = |user: &Value| {
            let name = user["name"].as_str().unwrap();
            name[1..name.len() - ":example.org".len()].to_owned()
        };
        answer["users"]
            .as_array()
            .unwrap()
            .iter()
            .map(name)
            .collect()
    }

    async fn who_am_i(&self, token: &str) -> (StatusCode, Value) {
        self.site
            .call(Method::GET, WHO_AM_I, Some(token), Value::Null)
            .await
    }
}

#[tokio::test]
async fn administration_is_for_administrators() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let token = site.token("alice").await;
    let mut count = 0;
    for route in routes() {
        if route.access == Access::Admin {
            let target = example(route.path);
            let answer = site
                .call(route.method, &target, Some(&token), json!({}))
                .await;
            let error = json!({ "errcode": "M_FORBIDDEN", "error": "You are not a server admin" });
            assert_eq!(answer, (StatusCode::FORBIDDEN, error), "{target}");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

#[tokio::test]
async fn accounts_are_listed_by_name_kind_and_order_page_by_page() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        for name in ["anna", "bert", "b_rt"] {
            office.site.token(name).await;
        }
        let named = json!({ "displayname": "Zoë 100%", "admin": true });
        office
            .ask(Method::PUT, "v2/users/@anna:example.org", named)
            .await;
        office
            .ask(Method::POST, "v1/deactivate/@bert:example.org", json!({}))
            .await;
        for (end, expected) in [
            ("v2/users", vec!["anna", "b_rt", "root"]),
            (
                "v2/users?deactivated=true",
                vec!["anna", "b_rt", "bert", "root"],
            ),
            ("v2/users?deactivated=false", vec!["anna", "b_rt", "root"]),
            ("v3/users", vec!["anna", "b_rt", "bert", "root"]),
            ("v3/users?deactivated=true", vec!["bert"]),
            ("v3/users?name=B_R", vec!["b_rt"]),
            ("v3/users?name=zo%C3%AB", vec!["anna"]),
            ("v3/users?name=100%25", vec!["anna"]),
            ("v3/users?name=example", vec![]),
            (
                "v3/users?user_id=example",
                vec!["anna", "b_rt", "bert", "root"],
            ),
            ("v3/users?admins=true&dir=b", vec!["root", "anna"]),
            ("v3/users?admins=false", vec!["b_rt", "bert"]),
            (
                "v3/users?order_by=admin",
                vec!["b_rt", "bert", "anna", "root"],
            ),
            (
                "v3/users?order_by=displayname&dir=b",
                vec!["anna", "b_rt", "bert", "root"],
            ),
            (
                "v3/users?order_by=is_guest&guests=false",
                vec!["anna", "b_rt", "bert", "root"],
            ),
            ("v3/users?from=1&limit=2", vec!["b_rt", "bert"]),
        ] {
            assert_eq!(office.names(end).await, expected, "{end}");
        }
        let page = office.get("v3/users?from=1&limit=2").await;
        assert_eq!(
            (&page["total"], &page["next_token"]),
            (&json!(4), &json!("3"))
        );
        let rest = office.get("v3/users?from=3&limit=2").await;
        assert_eq!((&rest["total"], rest.get("next_token")), (&json!(4), None));
        for end in [
            "v2/users?from=-1",
            "v2/users?order_by=shoe",
            "v2/users?dir=x",
        ] {
            let (status, answer) = office.ask(Method::GET, end, Value::Null).await;
            let found = (status.as_u16(), &answer["errcode"]);
            assert_eq!(found, (400, &json!("M_INVALID_PARAM")), "{end}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_account_is_made_changed_closed_and_opened_again() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = "v2/users/@anna:example.org";
        let put = async |body: Value| office.ask(Method::PUT, anna, body).await;
        let wish = json!({ "password": "secret", "displayname": "Anna", "threepids": [] });
        let (status, made) = put(wish).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        assert_eq!(
            (&made["name"], &made["admin"]),
            (&json!("@anna:example.org"), &json!(false))
        );
        let log_in = async |password: &str| {
            let body = json!({ "type": "m.login.password", "user": "anna", "password": password });
            office
                .site
                .call(Method::POST, "/_matrix/client/v3/login", None, body)
                .await
        };
        let token = log_in("secret").await.1["access_token"]
            .as_str()
            .unwrap()
            .to_owned();
        let (status, kept) = put(json!({ "password": "other", "logout_devices": false })).await;
        assert_eq!(
            (status, &kept["displayname"]),
            (StatusCode::OK, &json!("Anna"))
        );
        assert_eq!(office.who_am_i(&token).await.0, StatusCode::OK);
        put(json!({ "password": "third", "displayname": null })).await;
        assert_eq!(office.who_am_i(&token).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(office.get(anna).await["displayname"], Value::Null);
        let reset = "v1/reset_password/@anna:example.org";
        office
            .done(Method::POST, reset, json!({ "new_password": "fourth" }))
            .await;
        assert_eq!(log_in("third").await.0, StatusCode::FORBIDDEN);
        assert_eq!(log_in("fourth").await.0, StatusCode::OK);

        let closed = office.ask(
            Method::POST,
            "v1/deactivate/@anna:example.org",
            json!({ "erase": true }),
        );
        assert_eq!(
            closed.await.1,
            json!({ "id_server_unbind_result": "success" })
        );
        let shown = office.get(anna).await;
        assert_eq!(
            (&shown["deactivated"], &shown["erased"]),
            (&json!(true), &json!(true))
        );
        assert_eq!(log_in("fourth").await.1["errcode"], "M_USER_DEACTIVATED");
        let (_, opened) = put(json!({ "deactivated": false, "password": "fifth" })).await;
        assert_eq!(
            (&opened["deactivated"], &opened["erased"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(log_in("fifth").await.0, StatusCode::OK);
        assert_eq!(
            put(json!({ "deactivated": true })).await.1["deactivated"],
            true
        );
    })
    .await;
}

/// Method, path below the admin API's, body, and the status, code and text of the answer.
const REFUSED: [(&str, &str, &str, u16, &str); 20] = [
    (
        "GET",
        "v2/users/@no:example.org",
        "",
        404,
        "M_NOT_FOUND User not found",
    ),
    (
        "GET",
        "v2/users/@no:example.com",
        "",
        400,
        "M_UNKNOWN Can only look up local users",
    ),
    (
        "PUT",
        "v2/users/@no:example.com",
        "{}",
        400,
        "M_UNKNOWN This endpoint can only be used with local users",
    ),
    (
        "PUT",
        "v2/users/@no:example.org",
        r#"{"user_type":"bot"}"#,
        400,
        "M_UNKNOWN Invalid user type",
    ),
    (
        "PUT",
        "v2/users/@no:example.org",
        r#"{"locked":true}"#,
        400,
        "M_UNKNOWN This server does not lock accounts",
    ),
    (
        "PUT",
        "v2/users/@root:example.org",
        r#"{"admin":false}"#,
        400,
        "M_UNKNOWN You may not demote yourself.",
    ),
    (
        "PUT",
        "v1/users/@root:example.org/admin",
        r#"{"admin":false}"#,
        400,
        "M_UNKNOWN You may not demote yourself.",
    ),
    (
        "PUT",
        "v1/users/@root:example.org/admin",
        "{}",
        400,
        "M_MISSING_PARAM Missing admin",
    ),
    (
        "GET",
        "v1/users/@no:example.org/admin",
        "",
        404,
        "M_NOT_FOUND User not found",
    ),
    (
        "POST",
        "v1/users/@root:example.org/login",
        "{}",
        400,
        "M_UNKNOWN Cannot use admin API to login as self",
    ),
    (
        "POST",
        "v1/users/@no:example.org/login",
        "{}",
        404,
        "M_NOT_FOUND User not found",
    ),
    (
        "POST",
        "v1/users/@no:example.com/login",
        "{}",
        400,
        "M_UNKNOWN Only local users can be logged in as",
    ),
    (
        "POST",
        "v1/reset_password/@no:example.org",
        r#"{"new_password":"x"}"#,
        404,
        "M_NOT_FOUND User not found",
    ),
    (
        "POST",
        "v1/reset_password/@no:example.org",
        "{}",
        400,
        "M_MISSING_PARAM Missing new_password",
    ),
    (
        "POST",
        "v1/deactivate/@no:example.org",
        "{}",
        404,
        "M_NOT_FOUND User not found",
    ),
    (
        "POST",
        "v1/deactivate/@no:example.com",
        "{}",
        400,
        "M_UNKNOWN Can only deactivate local users",
    ),
    (
        "GET",
        "v2/users/@no:example.org/devices",
        "",
        404,
        "M_NOT_FOUND User not found",
    ),
    (
        "GET",
        "v2/users/@root:example.org/devices/NO",
        "",
        404,
        "M_NOT_FOUND No such device",
    ),
    (
        "POST",
        "v2/users/@root:example.org/delete_devices",
        "{}",
        400,
        "M_MISSING_PARAM Missing devices",
    ),
    (
        "GET",
        "v1/username_available?username=root",
        "",
        400,
        "M_USER_IN_USE This user ID is taken",
    ),
];

#[tokio::test]
async fn what_cannot_be_done_to_accounts_is_refused() {
    let fresh = Fresh::sqlite().await;
    let office = Office::open(&fresh).await;
    for (method, end, body, status, error) in REFUSED {
        let body = match body {
            "" => Value::Null,
            body => serde_json::from_str(body).unwrap(),
        };
        let method = method.parse().unwrap();
        let refused = office.refused(method, end, body).await;
        assert_eq!(refused, (status, error.to_owned()), "{end}");
    }
    let capital = office
        .refused(Method::PUT, "v2/users/@Anna:example.org", json!({}))
        .await;
    assert!(capital.1.starts_with("M_INVALID_USERNAME"), "{capital:?}");
}

#[tokio::test]
async fn an_administrator_sees_devices_and_acts_for_users() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let anna = office.site.token("anna").await;
        assert_eq!(
            office.get("v1/username_available?username=bert").await,
            json!({ "available": true })
        );
        assert!(office.get("v1/server_version").await["server_version"].is_string());
        let whois = office.get("v1/whois/@anna:example.org").await;
        assert!(whois["devices"]["PHONE"].is_object(), "{whois}");

        let devices = "v2/users/@anna:example.org/devices";
        let phone = format!("{devices}/PHONE");
        office
            .done(Method::PUT, &phone, json!({ "display_name": "Lost" }))
            .await;
        let list = office.get(devices).await;
        let shown = &list["devices"][0];
        assert_eq!(
            (&list["total"], &shown["display_name"]),
            (&json!(1), &json!("Lost"))
        );
        assert_eq!(*shown, office.get(&phone).await);
        assert_eq!(shown["user_id"], "@anna:example.org");

        let create = office.site.call(
            Method::POST,
            "/_matrix/client/v3/createRoom",
            Some(&anna),
            json!({}),
        );
        let room = create.await.1["room_id"].clone();
        let rooms = office.get("v1/users/@anna:example.org/joined_rooms").await;
        assert_eq!(rooms, json!({ "joined_rooms": [room], "total": 1 }));

        let log_in = "v1/users/@anna:example.org/login";
        let token = office.ask(Method::POST, log_in, json!({})).await.1["access_token"].clone();
        let until = fresh.env.clock.now_ms() + 1000;
        let short = office
            .ask(Method::POST, log_in, json!({ "valid_until_ms": until }))
            .await;
        let (token, short) = (token.as_str().unwrap(), short.1["access_token"].clone());
        for token in [token, short.as_str().unwrap()] {
            assert_eq!(
                office.who_am_i(token).await.1["user_id"],
                "@anna:example.org"
            );
        }
        assert_eq!(office.get(devices).await["total"], 1, "nobody sees that");
        fresh.env.clock.advance(Duration::from_secs(2));
        assert_eq!(
            office.who_am_i(short.as_str().unwrap()).await.0,
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(office.who_am_i(token).await.0, StatusCode::OK);

        office.done(Method::DELETE, &phone, Value::Null).await;
        assert_eq!(office.who_am_i(&anna).await.0, StatusCode::UNAUTHORIZED);
        let several = "v2/users/@anna:example.org/delete_devices";
        office
            .done(
                Method::POST,
                several,
                json!({ "devices": ["PHONE", "TABLET"] }),
            )
            .await;

        let flag = "v1/users/@anna:example.org/admin";
        assert_eq!(office.get(flag).await, json!({ "admin": false }));
        office
            .done(Method::PUT, flag, json!({ "admin": true }))
            .await;
        assert_eq!(office.get(flag).await, json!({ "admin": true }));
    })
    .await;
}

impl Office {
    /// Whether somebody can register with the token, tried twice: by asking, and by doing it.
    async fn lets_in(&self, name: &str) -> bool {
        let path = "/_matrix/client/v1/register/m.login.registration_token/validity?token=abcd";
        let valid = self.site.call(Method::GET, path, None, Value::Null).await.1;
        let auth = json!({ "type": "m.login.registration_token", "token": "abcd" });
        let body = json!({ "username": name, "password": "secret", "auth": auth });
        let register = "/_matrix/client/v3/register";
        let (status, _) = self.site.call(Method::POST, register, None, body).await;
        assert_eq!(valid["valid"] == true, status == StatusCode::OK);
        status == StatusCode::OK
    }

    async fn token_count(&self, query: &str) -> usize {
        let list = self.get(&format!("v1/registration_tokens{query}")).await;
        list["registration_tokens"].as_array().unwrap().len()
    }
}
