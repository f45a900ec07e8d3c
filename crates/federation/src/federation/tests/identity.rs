//! What identity servers are asked, and what is made of their answers.

use http::Method;
use serde_json::{Map, Value, json};

use crate::{
    Federation, FederationConfig, FederationError, IdentityServer, InviteDetails, ThirdPartyId,
    testing::{Seen, TestServer, World},
};

const DETAILS: &str = r#"{"algorithms":["none","sha256"],"lookup_pepper":"matrixrocks"}"#;
/// The specification's example.
const ALICE_HASH: &str = "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc";

fn alice() -> ThirdPartyId {
    ThirdPartyId {
        medium: "email".to_owned(),
        address: "alice@example.com".to_owned(),
    }
}

/// An identity server `id.test` that answers by path, and the way to it.
async fn identity(
    answer: impl Fn(&Seen) -> (u16, String) + Send + Sync + 'static,
) -> (World, TestServer, IdentityServer) {
    let world = World::new().await;
    let server = world.server(&["id.test"], move |seen| {
        let (status, body) = answer(seen);
        crate::testing::json(status, &body)
    });
    let server = server.await;
    world.names.host("id.test", &["127.0.0.1"]);
    let federation = world.federation();
    let name = format!("id.test:{}", server.port);
    let identity = federation.identity_server(&name, "secret").unwrap();
    (world, server, identity)
}

#[tokio::test]
async fn an_address_is_looked_up_by_its_hash_with_the_users_token() {
    let found = format!(r#"{{"mappings":{{"{ALICE_HASH}":"@alice:a.test"}}}}"#);
    let (_world, server, identity) = identity(move |seen| match seen.target.as_str() {
        "/_matrix/identity/v2/hash_details" => (200, DETAILS.to_owned()),
        _ => (200, found.clone()),
    })
    .await;
    let shouted = ThirdPartyId {
        address: "ALICE@example.com".to_owned(),
        ..alice()
    };
    for sought in [alice(), shouted] {
        let found = identity.look_up(&sought).await.unwrap().unwrap();
        assert_eq!(found, "@alice:a.test");
    }
    let asked = server.last();
    assert_eq!(
        (&asked.method, asked.target.as_str()),
        (&Method::POST, "/_matrix/identity/v2/lookup")
    );
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(
        body,
        json!({ "addresses": [ALICE_HASH], "algorithm": "sha256", "pepper": "matrixrocks" })
    );
    let authorizations = server.seen().into_iter().map(|seen| seen.authorization);
    assert!(
        authorizations
            .flatten()
            .all(|value| value == "Bearer secret")
    );
    assert_eq!(server.count(), 4);
    let phone = ThirdPartyId {
        medium: "msisdn".to_owned(),
        address: "18005552067".to_owned(),
    };
    assert_eq!(identity.look_up(&phone).await.unwrap(), None);
    let body: Value = serde_json::from_slice(&server.last().body).unwrap();
    let hash = "nlo35_T5fzSGZzJApqu8lgIudJvmOQtDaHtr-I4rU7I";
    assert_eq!(body["addresses"], json!([hash]));
}

#[tokio::test]
async fn a_pepper_that_changed_meanwhile_is_asked_for_once_more() {
    let (_world, server, identity) = identity(|seen| match seen.target.as_str() {
        "/_matrix/identity/v2/hash_details" => (200, DETAILS.to_owned()),
        _ if seen.number == 1 => (400, r#"{"errcode":"M_INVALID_PEPPER"}"#.to_owned()),
        _ => (200, r#"{"mappings":{}}"#.to_owned()),
    })
    .await;
    assert_eq!(identity.look_up(&alice()).await.unwrap(), None);
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn addresses_are_not_shown_to_who_wants_them_plain_and_answers_must_fit() {
    let plain = r#"{"algorithms":["none"],"lookup_pepper":"p"}"#;
    let (_world, server, identity) = identity(move |_| (200, plain.to_owned())).await;
    let refused = identity.look_up(&alice()).await;
    assert!(
        matches!(refused, Err(FederationError::InvalidAnswer(_))),
        "{refused:?}"
    );
    assert_eq!(server.count(), 1);
}

fn details() -> InviteDetails {
    let mut further = Map::new();
    further.insert("room_name".to_owned(), json!("Tea"));
    InviteDetails {
        invitee: alice(),
        room_id: "!r:us.test".to_owned(),
        sender: "@a:us.test".to_owned(),
        further,
    }
}

#[tokio::test]
async fn an_invite_is_stored_with_what_may_be_told() {
    let stored = json!({
        "token": "a.b=c_d-1", "display_name": "a...@e...",
        "public_keys": [{ "public_key": "k", "key_validity_url": "https://id.test/valid" }],
    });
    let answer = stored.to_string();
    let (_world, server, identity) = identity(move |_| (200, answer.clone())).await;
    let invite = identity.store_invite(&details()).await.unwrap();
    assert_eq!(invite.token, "a.b=c_d-1");
    assert_eq!(invite.display_name, "a...@e...");
    assert_eq!(json!(invite.public_keys), stored["public_keys"]);
    let asked = server.last();
    assert_eq!(asked.target, "/_matrix/identity/v2/store-invite");
    assert_eq!(asked.authorization.as_deref(), Some("Bearer secret"));
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(
        body,
        json!({
            "medium": "email", "address": "alice@example.com", "room_id": "!r:us.test",
            "sender": "@a:us.test", "room_name": "Tea",
        })
    );
}

#[tokio::test]
async fn an_invite_without_a_usable_token_or_key_is_none() {
    let keys = json!([{ "public_key": "k" }]);
    for (token, keys) in [
        ("", &keys),
        ("with/slash", &keys),
        (&*"t".repeat(256), &keys),
        ("t", &json!([])),
    ] {
        let stored = json!({ "token": token, "display_name": "a", "public_keys": keys });
        let answer = stored.to_string();
        let (_world, _server, identity) = identity(move |_| (200, answer.clone())).await;
        let refused = identity.store_invite(&details()).await;
        assert!(
            matches!(refused, Err(FederationError::InvalidAnswer(_))),
            "{token} {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_key_is_valid_as_long_as_its_address_says_so() {
    let (world, server, _) = identity(|seen| match seen.target.as_str() {
        "/valid?x=1&public_key=a%2Bb" => (200, r#"{"valid":true}"#.to_owned()),
        "/valid?public_key=c" => (200, r#"{"valid":false}"#.to_owned()),
        _ => (404, "{}".to_owned()),
    })
    .await;
    let federation = world.federation();
    let url = |path| format!("https://id.test:{}{path}", server.port);
    let valid = |path, key| {
        let (federation, url) = (federation.clone(), url(path));
        async move { federation.is_invite_key_valid(&url, key).await }
    };
    assert!(valid("/valid?x=1", "a+b").await.unwrap());
    assert!(!valid("/valid", "c").await.unwrap());
    assert!(
        valid("/elsewhere", "c")
            .await
            .unwrap_err()
            .remote()
            .is_some()
    );
    for refused in [
        "http://id.test/valid",
        "id.test",
        "https://",
        "ftp://id.test/",
    ] {
        let refused = federation.is_invite_key_valid(refused, "c").await;
        assert!(
            matches!(refused, Err(FederationError::Refused(_))),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn the_bounds_of_other_servers_are_those_of_identity_servers() {
    let (world, server, _) = identity(|_| (200, "x".repeat(300_000))).await;
    let name = format!("id.test:{}", server.port);
    let look_up = |federation: Federation| {
        let name = name.clone();
        async move {
            let identity = federation.identity_server(&name, "secret").unwrap();
            identity.look_up(&alice()).await
        }
    };
    let too_large = look_up(world.federation()).await;
    assert!(
        matches!(too_large, Err(FederationError::InvalidAnswer(_))),
        "{too_large:?}"
    );
    let config = FederationConfig {
        addresses: crate::AddressPolicy::default(),
        ..world.config()
    };
    let private = look_up(world.federation_with(config, 1)).await;
    assert!(
        matches!(private, Err(FederationError::Refused(_))),
        "{private:?}"
    );
    assert_eq!(server.count(), 1);
    for name in ["https://id.test", "id.test/path", "id.test:x", ""] {
        let refused = world.federation().identity_server(name, "secret");
        assert!(
            matches!(refused, Err(FederationError::Refused(_))),
            "{name}"
        );
    }
    let unprintable = world.federation().identity_server(&name, "a\nb").unwrap();
    let refused = unprintable.look_up(&alice()).await;
    assert!(
        matches!(refused, Err(FederationError::Refused(_))),
        "{refused:?}"
    );
}
