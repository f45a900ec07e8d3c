//! Requests that arrive slowly, or never.

use std::{convert::Infallible, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, StatusCode, header};
use myelin_env::{Clock, Task};
use myelin_storage::testing::{Fresh, on_each_engine};
use serde_json::json;
use tower::ServiceExt as _;

use crate::{
    Site,
    peer::{Ask, known},
};

/// More of each kind than are answered at the same time.
const SLOW_SERVERS: usize = 300;
const SLOW_CLIENTS: usize = 2_100;

/// In this time a body has to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the others may take, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests of which nothing but the head ever comes.
fn begin(
    site: &Site,
    fresh: &Fresh,
    (method, target): (Method, &str),
    times: usize,
) -> Vec<Task<StatusCode>> {
    let request = || {
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let request = Request::builder().method(method.clone()).uri(target);
        let request = request.header(header::AUTHORIZATION, "X-Matrix of a stranger");
        request.body(body).unwrap()
    };
    let begun = (0..times).map(|_| {
        let answer = site.router.clone().oneshot(request());
        let tasks = &fresh.env.tasks;
        tasks.spawn(
            "a slow request",
            async move { answer.await.unwrap().status() },
        )
    });
    begun.collect()
}

#[tokio::test]
async fn requests_whose_bodies_never_come_keep_nobody_waiting_and_are_given_up() {
    on_each_engine(async |fresh: Fresh| {
        let site = Site::start(&fresh).await;
        let key = known(&fresh, "a.example").await;
        let alice = site.token("alice").await;
        let send = "/_matrix/federation/v1/send";
        let login = "/_matrix/client/v3/login";
        let mut slow = begin(
            &site,
            &fresh,
            (Method::PUT, &format!("{send}/slow")),
            SLOW_SERVERS,
        );
        slow.extend(begin(&site, &fresh, (Method::POST, login), SLOW_CLIENTS));
        while fresh.env.tasks.count("request") < slow.len() {
            tokio::task::yield_now().await;
        }
        let transaction = json!({ "origin": "a.example", "origin_server_ts": 1, "pdus": [] });
        let transaction = Ask::put(format!("{send}/quick"), transaction);
        let others = async {
            let (status, answer) = transaction.by(&key, &site).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            let create = "/_matrix/client/v3/createRoom";
            let created = site.call(Method::POST, create, Some(&alice), json!({}));
            assert_eq!(created.await.0, StatusCode::OK);
        };
        let answered = Clock::real().timeout(PATIENCE, others).await;
        answered.expect("others are answered meanwhile");
        fresh.env.clock.advance(BODY_TIMEOUT);
        for request in slow {
            assert_eq!(request.await.unwrap(), StatusCode::REQUEST_TIMEOUT);
        }
    })
    .await;
}
