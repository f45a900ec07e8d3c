//! Keys from servers and notaries, true and forged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use myelin_core::keys::KeySet;
use myelin_storage::testing::START_MS;
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use tokio::sync::Notify;

use super::KeyNeed;
use crate::{
    Federation, FederationConfig, OldKey, SigningKeys, Urgency,
    testing::{TestServer, World, json, keys, name},
};

const DEADLINE: Duration = Duration::from_secs(30);
const WEEK_MS: u64 = 7 * 24 * 3600 * 1000;
const DAY_MS: u64 = 24 * 3600 * 1000;

fn need(keys: &SigningKeys, at_ms: u64) -> KeyNeed {
    KeyNeed {
        server: keys.server_name().to_owned(),
        key_id: keys.active().key_id().to_owned(),
        at_ms,
    }
}

fn has(found: &KeySet, need: &KeyNeed) -> bool {
    found.get(&need.server, &need.key_id, need.at_ms).is_some()
}

async fn finds(federation: &Federation, need: &KeyNeed) -> bool {
    let found = federation
        .keys_for(std::slice::from_ref(need), DEADLINE)
        .await;
    has(&found, need)
}

/// Signs a document anew after a change.
fn changed(
    keys: &SigningKeys,
    now_ms: u64,
    change: impl FnOnce(&mut CanonicalJsonObject),
) -> CanonicalJsonObject {
    let mut document = keys.document(now_ms);
    document.remove("signatures");
    change(&mut document);
    keys.sign_json(&mut document).unwrap();
    document
}

fn valid_until(document: &mut CanonicalJsonObject, ms: u64) {
    let ms = ruma::Int::try_from(ms).unwrap();
    document.insert("valid_until_ts".to_owned(), CanonicalJsonValue::Integer(ms));
}

fn text(object: &CanonicalJsonObject) -> String {
    serde_json::to_string(object).unwrap()
}

/// A server `a.test` that answers with `document` of its keys.
async fn publisher(
    world: &World,
    document: impl Fn(&SigningKeys) -> String,
) -> (SigningKeys, TestServer) {
    let keys = keys("a.test", 7);
    let document = document(&keys);
    let server = world
        .server(&["a.test"], move |_| json(200, &document))
        .await;
    world.names.service("a.test", server.port);
    (keys, server)
}

#[tokio::test]
async fn a_key_is_fetched_once_and_then_remembered_across_restarts() {
    let world = World::new().await;
    let (keys, server) = world.key_server("a.test").await;
    let federation = world.federation();
    let need = need(&keys, START_MS);
    assert!(finds(&federation, &need).await);
    assert!(finds(&federation, &need).await);
    assert!(finds(&world.federation(), &need).await);
    assert_eq!(server.count(), 1);
    let seen = server.last();
    assert_eq!(
        (seen.target.as_str(), seen.authorization),
        ("/_matrix/key/v2/server", None)
    );
}

#[tokio::test]
async fn our_own_keys_are_known_without_asking() {
    let world = World::new().await;
    let federation = world.federation();
    let old = keys("us.test", 9);
    assert!(finds(&federation, &need(federation.signing_keys(), u64::MAX)).await);
    assert!(!finds(&federation, &need(&old, 5)).await);
    assert_eq!(world.names.take_asked(), Vec::<String>::new());
}

#[tokio::test]
async fn documents_that_are_not_signed_by_their_server_are_not_believed() {
    let stranger = || keys("a.test", 8);
    type Forgery = Box<dyn Fn(&SigningKeys) -> String>;
    let forged: Vec<Forgery> = vec![
        // Not signed.
        Box::new(|keys| {
            let mut document = keys.document(START_MS);
            document.remove("signatures");
            text(&document)
        }),
        // Changed after signing.
        Box::new(|keys| {
            let mut document = keys.document(START_MS);
            valid_until(&mut document, START_MS + 1);
            text(&document)
        }),
        // Signed by a key that isn't in it.
        Box::new(move |keys| {
            let mut document = keys.document(START_MS);
            document.remove("signatures");
            stranger().sign_json(&mut document).unwrap();
            text(&document)
        }),
        // Signed by a key that is only an old one.
        Box::new(|keys| {
            text(&changed(keys, START_MS, |document| {
                let current = document.remove("verify_keys").unwrap();
                document.insert("old_verify_keys".to_owned(), current);
                document.insert("verify_keys".to_owned(), CanonicalJsonObject::new().into());
            }))
        }),
        // About somebody else.
        Box::new(|_| text(&keys("b.test", 7).document(START_MS))),
        Box::new(|_| "[]".to_owned()),
        Box::new(|_| "{}".to_owned()),
        Box::new(|keys| {
            text(&changed(keys, START_MS, |document| {
                document.remove("valid_until_ts");
            }))
        }),
    ];
    for (index, document) in forged.iter().enumerate() {
        let world = World::new().await;
        let (keys, server) = publisher(&world, document).await;
        let federation = world.federation();
        assert!(!finds(&federation, &need(&keys, START_MS)).await, "{index}");
        assert_eq!(server.count(), 1, "{index}");
    }
}

#[tokio::test]
async fn a_further_signature_by_an_unknown_key_does_no_harm() {
    let world = World::new().await;
    let (keys, _server) = publisher(&world, |keys| {
        let mut document = keys.document(START_MS);
        self::keys("a.test", 8).sign_json(&mut document).unwrap();
        text(&document)
    })
    .await;
    assert!(finds(&world.federation(), &need(&keys, START_MS)).await);
}

#[tokio::test]
async fn a_wrong_signature_by_a_known_key_spoils_a_right_one() {
    let seeds = ["A".repeat(43), "B".repeat(42) + "A"];
    let lines = format!("ed25519 a {}\ned25519 b {}\n", seeds[0], seeds[1]);
    let both = SigningKeys::parse(name("a.test"), &lines).unwrap();
    for spoilt in [false, true] {
        let world = World::new().await;
        let (_keys, _server) = publisher(&world, |_| {
            let mut document = serde_json::to_value(both.document(START_MS)).unwrap();
            if spoilt {
                let signatures = &mut document["signatures"]["a.test"];
                signatures["ed25519:b"] = signatures["ed25519:a"].clone();
            }
            document.to_string()
        })
        .await;
        let believed = finds(&world.federation(), &need(&both, START_MS)).await;
        assert_eq!(believed, !spoilt);
    }
}

#[tokio::test]
async fn a_key_is_valid_until_its_document_says_but_7_days_at_most() {
    let cases = [
        (START_MS + 5000, START_MS + 5000),
        (START_MS + WEEK_MS, START_MS + WEEK_MS),
        (START_MS + WEEK_MS + 1, START_MS + WEEK_MS),
        (START_MS * 2, START_MS + WEEK_MS),
        // Of a server that is late, for events of that time.
        (START_MS - 5000, START_MS - 5000),
    ];
    for (says, expected) in cases {
        let world = World::new().await;
        let (keys, _server) = publisher(&world, |keys| {
            text(&changed(keys, START_MS, |document| {
                valid_until(document, says);
            }))
        })
        .await;
        let federation = world.federation();
        assert!(finds(&federation, &need(&keys, expected)).await, "{says}");
        assert!(
            !finds(&federation, &need(&keys, expected + 1)).await,
            "{says}"
        );
        assert!(finds(&federation, &need(&keys, 0)).await, "{says}");
    }
}

#[tokio::test]
async fn old_keys_verify_what_was_signed_up_to_their_end_and_no_requests() {
    let old = keys("a.test", 8);
    for (says, expected) in [(5000, 5000), (START_MS * 2, START_MS - 1)] {
        let world = World::new().await;
        let published = OldKey {
            key_id: old.active().key_id().to_owned(),
            key: old.active().verifying_key(),
            expired_ms: says,
        };
        let (_keys, _server) = publisher(&world, |keys| {
            text(
                &keys
                    .clone()
                    .with_old(vec![published.clone()])
                    .document(START_MS),
            )
        })
        .await;
        let federation = world.federation();
        assert!(finds(&federation, &need(&old, expected)).await, "{says}");
        assert!(
            !finds(&federation, &need(&old, expected + 1)).await,
            "{says}"
        );
        assert!(!finds(&federation, &need(&old, START_MS)).await, "{says}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_valid_any_more_is_asked_for_again() {
    let world = World::new().await;
    let (keys, server) = world.key_server("a.test").await;
    let federation = world.federation();
    assert!(finds(&federation, &need(&keys, START_MS)).await);
    world.env().clock.advance(Duration::from_millis(DAY_MS));
    assert!(finds(&federation, &need(&keys, START_MS + DAY_MS)).await);
    assert_eq!(server.count(), 1);
    world.env().clock.advance(Duration::from_millis(1));
    assert!(finds(&federation, &need(&keys, START_MS + DAY_MS + 1)).await);
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn an_older_document_does_not_bring_back_what_a_newer_one_ended() {
    let world = World::new().await;
    let retired = Arc::new(AtomicBool::new(true));
    let (now, old) = (keys("a.test", 1), keys("a.test", 2));
    let newer = now.clone().with_old(vec![OldKey {
        key_id: old.active().key_id().to_owned(),
        key: old.active().verifying_key(),
        expired_ms: START_MS - 5000,
    }]);
    let newer = text(&changed(&newer, START_MS, |document| {
        valid_until(document, START_MS + DAY_MS);
    }));
    let older = text(&changed(&old, START_MS, |document| {
        valid_until(document, START_MS + DAY_MS - 1);
    }));
    let which = Arc::clone(&retired);
    let server = world
        .server(&["a.test"], move |_| match which.load(Ordering::SeqCst) {
            true => json(200, &newer),
            false => json(200, &older),
        })
        .await;
    world.names.service("a.test", server.port);
    let federation = world.federation();
    assert!(finds(&federation, &need(&now, START_MS)).await);
    retired.store(false, Ordering::SeqCst);
    world.env().clock.advance(Duration::from_secs(3600));
    assert!(!finds(&federation, &need(&old, START_MS)).await);
    assert_eq!(server.count(), 2);
    assert!(!finds(&world.federation(), &need(&old, START_MS)).await);
    assert!(finds(&world.federation(), &need(&old, START_MS - 5000)).await);
}

#[tokio::test]
async fn needs_at_the_same_time_share_one_request() {
    let world = World::new().await;
    let keys = keys("a.test", 7);
    let document = text(&keys.document(START_MS));
    let gate = Arc::new(Notify::new());
    let waiting = Arc::clone(&gate);
    let server = world
        .server(&["a.test"], move |_| {
            let (gate, document) = (Arc::clone(&waiting), document.clone());
            Box::pin(async move {
                gate.notified().await;
                json(200, &document).await
            })
        })
        .await;
    world.names.service("a.test", server.port);
    let federation = world.federation();
    let need = need(&keys, START_MS);
    let asking = (0..100).map(|_| finds(&federation, &need));
    let release = async {
        while server.count() == 0 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
    };
    let (found, ()) = futures_util::join!(join_all(asking), release);
    assert!(found.into_iter().all(|found| found));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_server_without_the_key_is_not_asked_for_each_event() {
    let world = World::new().await;
    let (_keys, server) = world.key_server("a.test").await;
    let federation = world.federation();
    let bogus = need(&keys("a.test", 99), START_MS);
    for _ in 0..20 {
        assert!(!finds(&federation, &bogus).await);
    }
    assert_eq!(server.count(), 1);
    world.env().clock.advance(Duration::from_secs(31));
    assert!(!finds(&federation, &bogus).await);
    assert!(!finds(&federation, &bogus).await);
    assert_eq!(server.count(), 2);
    // Twice as long now; but a request that waits for a key may ask sooner.
    world.env().clock.advance(Duration::from_secs(31));
    assert!(!finds(&federation, &bogus).await);
    assert_eq!(server.count(), 2);
    let ring = federation.key_ring();
    ring.find(std::slice::from_ref(&bogus), DEADLINE, Urgency::Interactive)
        .await;
    assert_eq!(server.count(), 3);
}

#[tokio::test]
async fn a_dead_server_costs_no_more_than_the_deadline() {
    let world = World::new().await;
    let arrived = Arc::new(Notify::new());
    let arriving = Arc::clone(&arrived);
    let server = world
        .server(&["a.test"], move |_| {
            arriving.notify_one();
            Box::pin(std::future::pending())
        })
        .await;
    world.names.service("a.test", server.port);
    let (alive, _alive_server) = world.key_server("b.test").await;
    let federation = world.federation();
    let needs = [need(&keys("a.test", 7), START_MS), need(&alive, START_MS)];
    let clock = &world.env().clock;
    let passing = async {
        arrived.notified().await;
        while !has(&federation.keys_for(&needs[1..], DEADLINE).await, &needs[1]) {}
        clock.advance(Duration::from_secs(5));
    };
    let asking = federation.keys_for(&needs, Duration::from_secs(5));
    let (found, ()) = futures_util::join!(asking, passing);
    assert!(!has(&found, &needs[0]));
    assert!(has(&found, &needs[1]));
}

/// A notary `notary.test` that answers queries with what `answer` makes of its keys.
async fn notary<F>(world: &World, answer: F) -> (TestServer, FederationConfig)
where
    F: Fn(&SigningKeys, &serde_json::Value) -> Vec<CanonicalJsonObject> + Send + Sync + 'static,
{
    let notary = keys("notary.test", 3);
    let server = world
        .server(&["notary.test"], move |seen| match seen.target.as_str() {
            "/_matrix/key/v2/server" => json(200, &text(&notary.document(START_MS))),
            "/_matrix/key/v2/query" => {
                let query: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
                let documents = answer(&notary, &query["server_keys"]);
                let documents: Vec<String> = documents.iter().map(text).collect();
                json(
                    200,
                    &format!(r#"{{"server_keys":[{}]}}"#, documents.join(",")),
                )
            }
            _ => json(404, "{}"),
        })
        .await;
    world.names.service("notary.test", server.port);
    let config = FederationConfig {
        trusted_key_servers: vec![name("notary.test").to_owned()],
        ..world.config()
    };
    (server, config)
}

fn countersigned(notary: &SigningKeys, keys: &SigningKeys) -> CanonicalJsonObject {
    let mut document = keys.document(START_MS);
    notary.sign_json(&mut document).unwrap();
    document
}

#[tokio::test]
async fn keys_of_many_servers_come_from_a_notary_in_batches() {
    let world = World::new().await;
    let (server, config) = notary(&world, |notary, query| {
        let servers = query.as_object().unwrap();
        assert!(servers.len() <= 100);
        let documents = servers
            .keys()
            .map(|server| countersigned(notary, &keys(server, 1)));
        documents.collect()
    })
    .await;
    let federation = world.federation_with(config, 1);
    let needs: Vec<KeyNeed> = (0..1000)
        .map(|n| need(&keys(&format!("s{n}.test"), 1), START_MS - n))
        .collect();
    let found = federation.keys_for(&needs, DEADLINE).await;
    assert!(needs.iter().all(|need| has(&found, need)));
    // Its own keys once, then ten batches.
    assert_eq!(server.count(), 11);
    let restarted = world.federation().keys_for(&needs, DEADLINE).await;
    assert!(needs.iter().all(|need| has(&restarted, need)));
}

#[tokio::test]
async fn one_server_is_asked_itself_and_a_notary_only_if_it_does_not_answer() {
    let world = World::new().await;
    let (server, config) = notary(&world, |notary, _| {
        vec![countersigned(notary, &keys("dead.test", 1))]
    })
    .await;
    let (alive, alive_server) = world.key_server("alive.test").await;
    let federation = world.federation_with(config, 1);
    assert!(finds(&federation, &need(&alive, START_MS)).await);
    assert_eq!((alive_server.count(), server.count()), (1, 0));
    assert!(finds(&federation, &need(&keys("dead.test", 1), START_MS)).await);
    let query: serde_json::Value = serde_json::from_slice(&server.last().body).unwrap();
    let key_id = keys("dead.test", 1).active().key_id().to_string();
    let expected = serde_json::json!({"server_keys":
        {"dead.test": {key_id: {"minimum_valid_until_ts": START_MS}}}});
    assert_eq!(query, expected);
}

#[tokio::test]
async fn what_a_notary_says_must_be_signed_by_it_and_by_the_server() {
    type Lie = fn(&SigningKeys) -> CanonicalJsonObject;
    let lies: [Lie; 5] = [
        // Not by the notary.
        |_| keys("dead.test", 1).document(START_MS),
        // By somebody who says to be the notary.
        |_| countersigned(&keys("notary.test", 4), &keys("dead.test", 1)),
        // Not by the server.
        |notary| {
            let mut document = keys("dead.test", 1).document(START_MS);
            document.remove("signatures");
            notary.sign_json(&mut document).unwrap();
            document
        },
        // Changed by the notary.
        |notary| {
            let mut document = keys("dead.test", 1).document(START_MS);
            valid_until(&mut document, START_MS + 1);
            notary.sign_json(&mut document).unwrap();
            document
        },
        // About a server that was not asked for.
        |notary| countersigned(notary, &keys("other.test", 1)),
    ];
    for (index, lie) in lies.into_iter().enumerate() {
        let world = World::new().await;
        let (_server, config) = notary(&world, move |notary, _| vec![lie(notary)]).await;
        let federation = world.federation_with(config, 1);
        let wanted = need(&keys("dead.test", 1), START_MS);
        assert!(!finds(&federation, &wanted).await, "{index}");
        // Nor was anything learnt that nobody had asked for.
        let unasked = need(&keys("other.test", 1), START_MS);
        assert!(!finds(&world.federation(), &unasked).await, "{index}");
    }
}

#[tokio::test]
async fn what_a_notary_lacks_is_asked_of_the_servers_themselves() {
    let world = World::new().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let asking = Arc::clone(&asked);
    let (_server, config) = notary(&world, move |notary, query| {
        asking.fetch_add(query.as_object().unwrap().len(), Ordering::SeqCst);
        vec![countersigned(notary, &keys("s0.test", 1))]
    })
    .await;
    let (alive, alive_server) = world.key_server("alive.test").await;
    let federation = world.federation_with(config, 1);
    let mut needs: Vec<KeyNeed> = (0..20)
        .map(|n| need(&keys(&format!("s{n}.test"), 1), START_MS))
        .collect();
    needs.push(need(&alive, START_MS));
    let found = federation.keys_for(&needs, DEADLINE).await;
    let there: Vec<bool> = needs.iter().map(|need| has(&found, need)).collect();
    assert!(there[0] && there[20]);
    assert!(there[1..20].iter().all(|there| !there));
    assert_eq!(
        (asked.load(Ordering::SeqCst), alive_server.count()),
        (21, 1)
    );
}
