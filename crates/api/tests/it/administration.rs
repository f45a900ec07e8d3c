//! Synapse's admin API, as tools use it.

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

const NEW_TOKEN: &str = "v1/registration_tokens/new";
const TOKEN: &str = "v1/registration_tokens/abcd";

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

/// Two events of anna's room, each reported by her, and the room.
async fn reported(office: &Office) -> (String, Vec<String>) {
    let anna = office.site.token("anna").await;
    let call = async |method, end: &str, body| {
        let target = format!("/_matrix/client/v3/{end}");
        let (status, answer) = office.site.call(method, &target, Some(&anna), body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    };
    let room = call(Method::POST, "createRoom", json!({ "name": "Tea" })).await;
    let room = room["room_id"].as_str().unwrap().to_owned();
    let mut events = Vec::new();
    for number in 0..2 {
        let send = format!("rooms/{room}/send/m.room.message/{number}");
        let sent = call(Method::PUT, &send, json!({ "body": "spam" })).await;
        let event = sent["event_id"].as_str().unwrap().to_owned();
        let reason = json!({ "reason": format!("reason {number}") });
        call(
            Method::POST,
            &format!("rooms/{room}/report/{event}"),
            reason,
        )
        .await;
        events.push(event);
        office.site.fresh.env.clock.advance(Duration::from_secs(1));
    }
    let all = json!({ "reason": "all of it" });
    call(Method::POST, &format!("rooms/{room}/report"), all).await;
    (room, events)
}

#[tokio::test]
async fn reported_events_are_listed_by_age_and_kind() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        let (room, events) = reported(&office).await;
        let newest = office.get("v1/event_reports?limit=1").await;
        let counts = (&newest["total"], &newest["next_token"]);
        assert_eq!(counts, (&json!(2), &json!(1)));
        for (field, value) in [
            ("event_id", &*events[1]),
            ("reason", "reason 1"),
            ("user_id", "@anna:example.org"),
            ("sender", "@anna:example.org"),
            ("name", "Tea"),
            ("room_id", &room),
        ] {
            assert_eq!(newest["event_reports"][0][field], value, "{field}");
        }
        let oldest = office
            .get("v1/event_reports?dir=f&from=0&user_id=@anna:example.org")
            .await;
        assert_eq!(oldest["event_reports"][0]["event_id"], *events[0]);
        for filter in [
            "user_id=@bert:example.org",
            "event_sender_user_id=@bert:example.org",
            "room_id=!no:example.org",
        ] {
            let none = office.get(&format!("v1/event_reports?{filter}")).await;
            assert_eq!(none["total"], 0, "{filter}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_reported_event_is_shown_to_who_is_not_in_its_room_until_the_report_goes() {
    on_each_engine(async |fresh: Fresh| {
        let office = Office::open(&fresh).await;
        reported(&office).await;
        let list = office.get("v1/event_reports").await;
        let one = format!("v1/event_reports/{}", list["event_reports"][0]["id"]);
        let shown = office.get(&one).await;
        assert_eq!(shown["event_json"]["content"]["body"], "spam");
        office.done(Method::DELETE, &one, Value::Null).await;
        let gone = (404, "M_NOT_FOUND Event report not found".to_owned());
        for method in [Method::GET, Method::DELETE] {
            assert_eq!(office.refused(method, &one, Value::Null).await, gone);
        }
        assert_eq!(office.get("v1/event_reports").await["total"], 1);
        let bad = office.refused(Method::GET, "v1/event_reports/x", Value::Null);
        let (status, error) = bad.await;
        assert!(
            status == 400 && error.starts_with("M_INVALID_PARAM"),
            "{error}"
        );
    })
    .await;
}
