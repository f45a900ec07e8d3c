//! What happens to those who ask too often.

use std::{net::IpAddr, time::Duration};

use axum::{body::Body, extract::Request};
use http::{Method, StatusCode, header};
use myelin_api::{Access, Peer, Route, routes};
use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_users::{Limit, Quota, Quotas, Who};
use ruma::user_id;
use serde_json::{Value, json};

use crate::{
    Site,
    errors::example,
    peer::{Ask, known},
    read,
};

const MINUTE: Duration = Duration::from_secs(60);

/// Twice, and then once a minute.
const QUOTA: Quota = Quota {
    burst: 2,
    per_minute: 1,
};

async fn limited(fresh: &Fresh) -> Site {
    Site::start_with(fresh, |_, users| users.quotas = Some(quotas())).await
}

fn quotas() -> Quotas {
    Quotas {
        messages: QUOTA,
        joins: QUOTA,
        remote_joins: QUOTA,
        invites: QUOTA,
        searches: QUOTA,
        registrations: QUOTA,
        logins: QUOTA,
        lookups: QUOTA,
        wrong_passwords: QUOTA,
        federation: QUOTA,
    }
}

/// A request from an address: status, `Retry-After`, and body.
async fn call_from(
    site: &Site,
    from: IpAddr,
    (method, target): (Method, &str),
    (token, body): (Option<&str>, Value),
) -> (StatusCode, Option<String>, Value) {
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .extension(Peer(from));
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = site.send(request).await;
    let after = response.headers().get(header::RETRY_AFTER);
    let after = after.map(|after| after.to_str().unwrap().to_owned());
    let (status, answer) = read(response).await;
    (status, after, answer)
}

fn address(number: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, u8::try_from(number).unwrap()])
}

#[tokio::test]
async fn whoever_asks_a_limited_endpoint_too_often_is_told_when_to_ask_again() {
    on_each_engine(async |fresh: Fresh| {
        let site = limited(&fresh).await;
        let is_limited = |route: &Route| route.limit.is_some();
        let limited: Vec<_> = routes().into_iter().filter(is_limited).collect();
        assert!(limited.len() > 15);
        for (number, route) in limited.iter().enumerate() {
            let token = match route.access {
                Access::Guest | Access::User => Some(site.token(&format!("user{number}")).await),
                _ => None,
            };
            let target = example(route.path);
            let call = async || {
                let ask = (route.method.clone(), &*target);
                call_from(&site, address(number), ask, (token.as_deref(), json!({}))).await
            };
            for _ in 0..2 {
                assert_ne!(call().await.0, StatusCode::TOO_MANY_REQUESTS, "{target}");
            }
            let (status, after, answer) = call().await;
            assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{target}: {answer}");
            let told = json!({
                "errcode": "M_LIMIT_EXCEEDED", "error": "Too many requests", "retry_after_ms": 60_001,
            });
            assert_eq!(answer, told, "{target}");
            assert_eq!(after.as_deref(), Some("61"), "{target}");
            fresh.env.clock.advance(MINUTE);
            assert_ne!(call().await.0, StatusCode::TOO_MANY_REQUESTS, "{target}");
        }
    })
    .await;
}

#[tokio::test]
async fn joins_for_which_other_servers_are_asked_have_a_limit_of_their_own() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start_with(&fresh, |_, users| {
            users.quotas = Some(Quotas {
                joins: Quota {
                    burst: 100,
                    per_minute: 1,
                },
                ..quotas()
            });
        })
        .await;
        let (alice, bob) = (site.token("alice").await, site.token("bob").await);
        let wish = json!({ "preset": "public_chat" });
        let create = "/_matrix/client/v3/createRoom";
        let (_, room) = site.call(Method::POST, create, Some(&alice), wish).await;
        let here = room["room_id"].as_str().unwrap();
        let elsewhere = ["!nobody:there.invalid", "%23nobody:there.invalid"];
        let join = async |target: &str| {
            let path = format!("/_matrix/client/v3/join/{target}");
            let (status, _) = site.call(Method::POST, &path, Some(&bob), json!({})).await;
            status
        };
        for target in elsewhere {
            let status = join(target).await;
            assert!(
                status.is_server_error() || status == StatusCode::NOT_FOUND,
                "{status}"
            );
        }
        for target in elsewhere {
            assert_eq!(join(target).await, StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!(join(here).await, StatusCode::OK);
        let knock = format!("/_matrix/client/v3/knock/{}", elsewhere[0]);
        let (status, _) = site.call(Method::POST, &knock, Some(&bob), json!({})).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_asks_too_often_does_not_hold_back_others() {
    on_each_engine(async |fresh: Fresh| {
        let site = limited(&fresh).await;
        let (loud, quiet) = (
            known(&fresh, "loud.example").await,
            known(&fresh, "quiet.example").await,
        );
        let target = "/_matrix/federation/v1/query/profile?user_id=@nobody:example.org";
        let ask = Ask::new(Method::GET, target.to_owned(), Value::Null);
        for expected in [404, 404, 429, 429] {
            let (status, answer) = ask.by(&loud, &site).await;
            assert_eq!(status, expected, "{answer}");
        }
        assert_eq!(ask.by(&quiet, &site).await.0, StatusCode::NOT_FOUND);
    })
    .await;
}

#[tokio::test]
async fn wrong_passwords_count_against_the_account_from_wherever_they_come() {
    on_each_engine(async |fresh: Fresh| {
        let site = limited(&fresh).await;
        let token = site.token("alice").await;
        site.token("bob").await;
        let log_in = async |from: usize, user: &str, password: &str| {
            let ask = (Method::POST, "/_matrix/client/v3/login");
            let body = json!({
                "type": "m.login.password", "password": password,
                "identifier": { "type": "m.id.user", "user": user },
            });
            call_from(&site, address(from), ask, (None, body)).await.0
        };
        assert_eq!(log_in(1, "alice", "guess").await, StatusCode::FORBIDDEN);
        // A password that is asked for again is another place to try.
        let ask = (Method::POST, "/_matrix/client/v3/account/password");
        let body = json!({
            "new_password": "mine now",
            "auth": { "type": "m.login.password", "password": "guess", "user": "alice" },
        });
        let tried = call_from(&site, address(2), ask, (Some(&token), body)).await;
        assert_eq!(tried.0, StatusCode::UNAUTHORIZED, "{}", tried.2);
        let refused = StatusCode::TOO_MANY_REQUESTS;
        assert_eq!(log_in(3, "alice", "secret").await, refused);
        assert_eq!(log_in(4, "@alice:example.org", "guess").await, refused);
        assert_eq!(log_in(5, "bob", "secret").await, StatusCode::OK);
        fresh.env.clock.advance(MINUTE);
        assert_eq!(log_in(6, "alice", "secret").await, StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn the_invites_of_a_new_room_count_like_others() {
    on_each_engine(async |fresh: Fresh| {
        let site = limited(&fresh).await;
        let token = site.token("alice").await;
        let create = json!({ "invite": ["@bob:example.org", "@carol:example.org"] });
        let path = "/_matrix/client/v3/createRoom";
        let (status, answer) = site.call(Method::POST, path, Some(&token), create).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let room = answer["room_id"].as_str().unwrap();
        let path = format!("/_matrix/client/v3/rooms/{room}/invite");
        let invite = json!({ "user_id": "@dave:example.org" });
        let (status, answer) = site.call(Method::POST, &path, Some(&token), invite).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{answer}");
    })
    .await;
}

#[tokio::test]
async fn an_administrator_frees_a_user_from_all_limits_or_sets_another_for_messages() {
    on_each_engine(async |fresh: Fresh| {
        let site = limited(&fresh).await;
        let (root, token) = (site.admin("root").await, site.token("alice").await);
        let path = "/_synapse/admin/v1/users/@alice:example.org/override_ratelimit";
        let ask = async |method: Method, path: &str, body: Value| {
            let (status, answer) = site.call(method, path, Some(&root), body).await;
            (status.as_u16(), answer)
        };
        let leave = async || {
            let path = "/_matrix/client/v3/rooms/!none:example.org/leave";
            let (status, _) = site.call(Method::POST, path, Some(&token), json!({})).await;
            status != StatusCode::TOO_MANY_REQUESTS
        };
        assert_eq!(ask(Method::GET, path, Value::Null).await, (200, json!({})));
        assert!(leave().await && leave().await && !leave().await);
        let free = json!({ "messages_per_second": 0, "burst_count": 0 });
        assert_eq!(
            ask(Method::POST, path, json!({})).await,
            (200, free.clone())
        );
        for limit in [Limit::Messages, Limit::Joins, Limit::Invites] {
            let alice = Who::User(user_id!("@alice:example.org").to_owned());
            let limits = site.users.rate_limits();
            assert_eq!(limits.take(limit, alice, 1_000), Ok(()), "{limit:?}");
        }
        // It is kept over a restart.
        let site_again = limited(&fresh).await;
        let (status, answer) = site_again
            .call(Method::GET, path, Some(&root), Value::Null)
            .await;
        assert_eq!((status, answer), (StatusCode::OK, free));

        let four = json!({ "messages_per_second": 1, "burst_count": 4 });
        assert_eq!(ask(Method::POST, path, four.clone()).await, (200, four));
        fresh.env.clock.advance(MINUTE * 10);
        for expected in [true, true, true, true, false] {
            assert_eq!(leave().await, expected);
        }
        fresh.env.clock.advance(Duration::from_secs(1));
        assert!(leave().await && !leave().await);
        assert_eq!(
            ask(Method::DELETE, path, Value::Null).await,
            (200, json!({}))
        );
        assert_eq!(ask(Method::GET, path, Value::Null).await, (200, json!({})));

        let wrong = [
            ("@nobody:example.org", json!({}), 404, "M_NOT_FOUND"),
            ("@alice:y.example", json!({}), 400, "M_UNKNOWN"),
            (
                "@alice:example.org",
                json!({ "burst_count": -1 }),
                400,
                "M_BAD_JSON",
            ),
        ];
        for (user, body, expected, code) in wrong {
            let path = path.replace("@alice:example.org", user);
            let (status, answer) = ask(Method::POST, &path, body).await;
            assert_eq!(
                (status, &answer["errcode"]),
                (expected, &json!(code)),
                "{answer}"
            );
        }
    })
    .await;
}
