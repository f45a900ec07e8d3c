//! Whom requests are believed to come from.

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use ruma::ServerName;

use super::AuthError;
use crate::{
    Federation, SigningKeys,
    testing::{World, keys, name},
    x_matrix::Signed,
};

const TARGET: &str = "/_matrix/federation/v1/send/1?a=%20b";
const BODY: &[u8] = br#"{"b":1, "a":[2.50]}"#;

fn sign(keys: &SigningKeys, destination: &ServerName, target: &str, body: &[u8]) -> String {
    let signed = Signed {
        method: "PUT",
        target,
        body,
    };
    signed.sign(keys.active(), destination).unwrap()
}

async fn authenticate(federation: &Federation, headers: &[&str]) -> Result<String, AuthError> {
    let mut map = HeaderMap::new();
    for value in headers {
        map.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    let uri: Uri = TARGET.parse().unwrap();
    let origin = federation
        .authenticate(&Method::PUT, &uri, &map, BODY)
        .await;
    origin.map(|origin| origin.to_string())
}

#[tokio::test]
async fn a_request_is_believed_if_all_that_is_signed_is_true() {
    let world = World::new().await;
    let (keys, server) = world.key_server("a.test").await;
    let federation = world.federation();
    let us = name("us.test");
    let good = sign(&keys, us, TARGET, BODY);
    let wrong = Err(AuthError::BadSignature(name("a.test").to_owned()));
    let cases = [
        (vec![good.clone()], Ok("a.test".to_owned())),
        (vec![], Err(AuthError::Missing)),
        (vec!["Bearer x".to_owned()], Err(AuthError::Missing)),
        (vec!["X-Matrix x".to_owned()], Err(AuthError::Malformed)),
        (
            vec!["Bearer x".to_owned(), good.clone()],
            Ok("a.test".to_owned()),
        ),
        (
            vec![sign(&keys, name("other.test"), TARGET, BODY)],
            Err(AuthError::WrongDestination(name("other.test").to_owned())),
        ),
        (vec![sign(&keys, us, "/other", BODY)], wrong.clone()),
        (vec![sign(&keys, us, TARGET, b"{}")], wrong.clone()),
        (vec![sign(&keys, us, TARGET, b"")], wrong.clone()),
        // White space and the order of keys don't matter.
        (
            vec![sign(&keys, us, TARGET, br#"{"a":[2.50],"b":1}"#)],
            Ok("a.test".to_owned()),
        ),
        (
            vec![good.replace("origin=\"a.test\"", "origin=\"a.test:1\"")],
            Err(AuthError::UnknownKey {
                origin: name("a.test:1").to_owned(),
                key_id: keys.active().key_id().to_string(),
            }),
        ),
        // One of several suffices: a server may have keys that we don't know yet.
        (
            vec![sign(&keys, us, "/other", BODY), good.clone()],
            Ok("a.test".to_owned()),
        ),
    ];
    for (headers, expected) in cases {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(
            authenticate(&federation, &headers).await,
            expected,
            "{headers:?}"
        );
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_header_without_destination_is_accepted() {
    let world = World::new().await;
    let (keys, _server) = world.key_server("a.test").await;
    let signed = Signed {
        method: "PUT",
        target: TARGET,
        body: BODY,
    };
    let bytes = signed.bytes(keys.server_name(), None).unwrap();
    let (pair, signature) = (keys.active(), keys.active().sign_bytes(&bytes));
    let key_id = pair.key_id();
    let header = format!("X-Matrix origin=a.test,key=\"{key_id}\",sig=\"{signature}\"");
    let believed = authenticate(&world.federation(), &[&header]).await;
    assert_eq!(believed, Ok("a.test".to_owned()));
    // The destination is part of what is signed: it can be neither added nor taken away.
    let added = format!("{header},destination=us.test");
    let wrong = Err(AuthError::BadSignature(name("a.test").to_owned()));
    assert_eq!(authenticate(&world.federation(), &[&added]).await, wrong);
}

#[tokio::test]
async fn a_key_that_is_not_published_is_unknown() {
    let world = World::new().await;
    let (_keys, server) = world.key_server("a.test").await;
    let federation = world.federation();
    let forged = keys("a.test", 5);
    let header = sign(&forged, name("us.test"), TARGET, BODY);
    for _ in 0..10 {
        let refused = authenticate(&federation, &[&header]).await;
        assert!(matches!(refused, Err(AuthError::UnknownKey { .. })));
    }
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_body_that_is_not_json_is_not_believed() {
    let world = World::new().await;
    let (keys, server) = world.key_server("a.test").await;
    let federation = world.federation();
    let mut headers = HeaderMap::new();
    let value = sign(&keys, name("us.test"), TARGET, b"{}");
    headers.insert(
        header::AUTHORIZATION,
        HeaderValue::from_str(&value).unwrap(),
    );
    let uri: Uri = TARGET.parse().unwrap();
    let refused = federation
        .authenticate(&Method::PUT, &uri, &headers, b"{")
        .await;
    assert_eq!(refused, Err(AuthError::NotJson));
    assert_eq!(server.count(), 0);
}
