//! Sessions that are renewed, logging in on another device, and proving to others who one is.

use std::time::Duration;

use http::{Method, StatusCode};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::{Value, json};

use crate::Site;

const REFRESH: &str = "/_matrix/client/v3/refresh";
const WHO_AM_I: &str = "/_matrix/client/v3/account/whoami";
const LOGIN: &str = "/_matrix/client/v3/login";

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

impl Site {
    /// Begins a session that can be renewed; answers its tokens.
    async fn renewable(&self) -> (String, String) {
        let body = json!({
            "type": "m.login.password",
            "user": "alice",
            "password": "secret",
            "refresh_token": true,
        });
        let (status, answer) = self.call(Method::POST, LOGIN, None, body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["expires_in_ms"], 3_600_000);
        (
            text(&answer["access_token"]),
            text(&answer["refresh_token"]),
        )
    }

    async fn refresh(&self, token: &str) -> (StatusCode, Value) {
        let body = json!({ "refresh_token": token });
        self.call(Method::POST, REFRESH, None, body).await
    }

    /// Renews a session; answers its new tokens.
    async fn renewed(&self, token: &str) -> (String, String) {
        let (status, answer) = self.refresh(token).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        (
            text(&answer["access_token"]),
            text(&answer["refresh_token"]),
        )
    }

    /// What becomes of a request with this access token.
    async fn who(&self, token: &str) -> (StatusCode, Value) {
        self.call(Method::GET, WHO_AM_I, Some(token), Value::Null)
            .await
    }
}

#[tokio::test]
async fn a_renewed_session_takes_the_place_of_the_old_one_when_it_is_used() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        site.token("alice").await;
        let (access, refresh) = site.renewable().await;
        let lost = site.renewed(&refresh).await;
        // The answer was lost, so the client asks again; the old token still speaks for it.
        let (new_access, new_refresh) = site.renewed(&refresh).await;
        assert_eq!(site.who(&lost.0).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(site.refresh(&lost.1).await.0, StatusCode::UNAUTHORIZED);
        assert_eq!(site.who(&access).await.0, StatusCode::OK);
        let (status, me) = site.who(&new_access).await;
        assert_eq!(
            (status, &me["user_id"]),
            (StatusCode::OK, &json!("@alice:example.org"))
        );
        assert_eq!(site.who(&access).await.0, StatusCode::UNAUTHORIZED);
        let (status, answer) = site.refresh(&refresh).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer["errcode"], "M_UNKNOWN_TOKEN");
        // Renewing counts as use, too.
        let (third_access, _) = site.renewed(&new_refresh).await;
        let (fourth_access, fourth_refresh) = site.renewed(&new_refresh).await;
        assert_eq!(site.who(&third_access).await.0, StatusCode::UNAUTHORIZED);
        let (fifth_access, _) = site.renewed(&fourth_refresh).await;
        for token in [new_access, new_refresh] {
            assert_eq!(site.who(&token).await.0, StatusCode::UNAUTHORIZED);
        }
        let (_, again) = site.who(&fourth_access).await;
        assert_eq!(again["device_id"], me["device_id"], "the device stays");
        assert_eq!(site.who(&fifth_access).await.0, StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn an_access_token_that_ended_is_a_soft_logout_and_can_be_renewed() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let for_ever = site.token("alice").await;
        let (access, refresh) = site.renewable().await;
        fresh.env.clock.advance(Duration::from_millis(3_599_999));
        assert_eq!(site.who(&access).await.0, StatusCode::OK);
        fresh.env.clock.advance(Duration::from_millis(1));
        let (status, answer) = site.who(&access).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer["errcode"], "M_UNKNOWN_TOKEN");
        assert_eq!(answer["soft_logout"], true);
        assert_eq!(site.who(&for_ever).await.0, StatusCode::OK);
        let (access, refresh) = site.renewed(&refresh).await;
        assert_eq!(site.who(&access).await.0, StatusCode::OK);
        let logout = "/_matrix/client/v3/logout";
        let out = site.call(Method::POST, logout, Some(&access), Value::Null);
        assert_eq!(out.await.0, StatusCode::OK);
        let (_, answer) = site.who(&access).await;
        assert_eq!(answer["soft_logout"], false);
        assert_eq!(site.refresh(&refresh).await.0, StatusCode::UNAUTHORIZED);
        for (body, code) in [
            (json!({}), "M_MISSING_PARAM"),
            (json!({ "refresh_token": 5 }), "M_BAD_JSON"),
        ] {
            let (status, answer) = site.call(Method::POST, REFRESH, None, body).await;
            assert_eq!(
                (status, &answer["errcode"]),
                (StatusCode::BAD_REQUEST, &json!(code))
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_new_account_can_begin_with_a_session_that_is_renewed() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let body = json!({
        "username": "alice",
        "password": "secret",
        "refresh_token": true,
        "auth": { "type": "m.login.dummy" },
    });
    let register = "/_matrix/client/v3/register";
    let (status, answer) = site.call(Method::POST, register, None, body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["expires_in_ms"], 3_600_000);
    site.renewed(&text(&answer["refresh_token"])).await;
}

#[tokio::test]
async fn a_login_token_logs_another_device_in_once_and_soon() {
    let fresh = Fresh::sqlite().await;
    let site = Site::start(&fresh).await;
    let token = site.token("alice").await;
    let target = "/_matrix/client/v1/login/get_token";
    let give = async |auth: Value| {
        let body = json!({ "auth": auth });
        site.call(Method::POST, target, Some(&token), body).await
    };
    let auth = |password: &str| json!({ "type": "m.login.password", "user": "alice", "password": password });
    let (status, asked) = give(Value::Null).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{asked}");
    let (status, refused) = give(auth("wrong")).await;
    assert_eq!(
        (status, &refused["errcode"]),
        (StatusCode::UNAUTHORIZED, &json!("M_FORBIDDEN"))
    );
    let log_in = async |given: &Value| {
        let body = json!({ "type": "m.login.token", "token": given["login_token"] });
        site.call(Method::POST, LOGIN, None, body).await
    };
    let (status, given) = give(auth("secret")).await;
    assert_eq!(
        (status, &given["expires_in_ms"]),
        (StatusCode::OK, &json!(120_000))
    );
    let (status, answer) = log_in(&given).await;
    assert_eq!(
        (status, &answer["user_id"]),
        (StatusCode::OK, &json!("@alice:example.org"))
    );
    assert_ne!(answer["device_id"], "PHONE");
    let refused = (StatusCode::FORBIDDEN, json!("M_FORBIDDEN"));
    let (status, again) = log_in(&given).await;
    assert_eq!((status, again["errcode"].clone()), refused, "it is used up");
    let (_, given) = give(auth("secret")).await;
    fresh.env.clock.advance(Duration::from_secs(120));
    let (status, late) = log_in(&given).await;
    assert_eq!((status, late["errcode"].clone()), refused, "it has ended");
}

#[tokio::test]
async fn a_user_proves_to_others_who_it_is_and_nobody_else() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let token = site.token("alice").await;
        let request = async |user: &str| {
            let target = format!("/_matrix/client/v3/user/{user}/openid/request_token");
            site.call(Method::POST, &target, Some(&token), json!({}))
                .await
        };
        let info = async |query: String| {
            let target = format!("/_matrix/federation/v1/openid/userinfo{query}");
            site.call(Method::GET, &target, None, Value::Null).await
        };
        let (status, refused) = request("@bob:example.org").await;
        assert_eq!(
            (status, &refused["errcode"]),
            (StatusCode::FORBIDDEN, &json!("M_FORBIDDEN"))
        );
        let (status, refused) = request("bob").await;
        assert_eq!(
            (status, &refused["errcode"]),
            (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM"))
        );
        let (status, given) = request("@alice:example.org").await;
        assert_eq!(status, StatusCode::OK, "{given}");
        assert_eq!(given["token_type"], "Bearer");
        assert_eq!(given["matrix_server_name"], "example.org");
        assert_eq!(given["expires_in"], 3600);
        let query = format!("?access_token={}", text(&given["access_token"]));
        let proven = (StatusCode::OK, json!({ "sub": "@alice:example.org" }));
        assert_eq!(info(query.clone()).await, proven);
        assert_eq!(
            site.who(&text(&given["access_token"])).await.0,
            StatusCode::UNAUTHORIZED
        );
        let (status, answer) = info(String::new()).await;
        assert_eq!(
            (status, &answer["errcode"]),
            (StatusCode::UNAUTHORIZED, &json!("M_MISSING_TOKEN"))
        );
        fresh.env.clock.advance(Duration::from_secs(3600));
        for query in [query, format!("?access_token={token}")] {
            let (status, answer) = info(query).await;
            assert_eq!(
                (status, &answer["errcode"]),
                (StatusCode::UNAUTHORIZED, &json!("M_UNKNOWN_TOKEN"))
            );
        }
    })
    .await;
}
