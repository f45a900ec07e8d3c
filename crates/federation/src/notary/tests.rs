//! Queries of others, answered with what servers say and what is known of them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use myelin_core::keys::verify_json;
use myelin_storage::{Priority, server_keys, testing::START_MS};
use ruma::{CanonicalJsonObject, CanonicalJsonValue};
use tokio::sync::Notify;

use super::{KeyCriterion, KeyQuery, MOST_SERVERS};
use crate::{
    Federation, FederationConfig, KeyNeed, OldKey, SigningKeys,
    testing::{CLOSE, TestServer, World, json, keys, name, whole},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const DAY_MS: u64 = 24 * 3600 * 1000;

/// What a server of a test says its keys are; `None`: it is away.
type Saying = Arc<Mutex<Option<CanonicalJsonObject>>>;

/// A server that says of its keys what the test has it say, and nothing else.
async fn origin(world: &World, server_name: &str) -> (Saying, TestServer) {
    let saying = Saying::default();
    let said = Arc::clone(&saying);
    let server = world
        .server(&[server_name], move |seen| {
            assert_eq!(seen.target, "/_matrix/key/v2/server");
            match &*said.lock().unwrap() {
                Some(document) => json(200, &serde_json::to_string(document).unwrap()),
                None => json(CLOSE, ""),
            }
        })
        .await;
    world.names.service(server_name, server.port);
    (saying, server)
}

fn say(saying: &Saying, document: Option<CanonicalJsonObject>) {
    *saying.lock().unwrap() = document;
}

fn query(server: &str, key: Option<&SigningKeys>, minimum: Option<u64>) -> KeyQuery {
    KeyQuery {
        server: name(server).to_owned(),
        wanted: vec![KeyCriterion {
            key_id: key.map(|keys| keys.active().key_id().to_owned()),
            minimum_valid_until_ms: minimum,
        }],
    }
}

async fn ask(federation: &Federation, query: KeyQuery) -> Vec<CanonicalJsonObject> {
    federation.notary().answer(vec![query]).await.unwrap()
}

fn valid_until(document: &CanonicalJsonObject) -> i64 {
    document["valid_until_ts"].as_integer().unwrap().into()
}

/// Checks that a document is what a server said, and signed by it and by us.
fn assert_vouched(
    federation: &Federation,
    document: &CanonicalJsonObject,
    said: &CanonicalJsonObject,
) {
    let without = |object: &CanonicalJsonObject| {
        let mut object = object.clone();
        object.remove("signatures");
        object
    };
    assert_eq!(without(document), without(said));
    let own = federation.signing_keys().active();
    let verified = verify_json(
        document,
        own.server_name(),
        own.key_id(),
        &own.verifying_key(),
    );
    assert_eq!(verified, Ok(()));
    let signatures = document["signatures"].as_object().unwrap();
    let server = said["server_name"].as_str().unwrap();
    assert_eq!(
        signatures[server],
        said["signatures"].as_object().unwrap()[server]
    );
    assert_eq!(signatures.len(), 2, "nobody else's");
}

#[tokio::test]
async fn a_document_is_passed_on_as_its_server_signed_it_and_with_our_signature() {
    let world = World::new().await;
    let (saying, server) = origin(&world, "a.test").await;
    let keys = keys("a.test", 7);
    let mut said = keys.document(START_MS);
    // What this server does not understand is under the signature as well.
    said.remove("signatures");
    said.insert("m.new".to_owned(), CanonicalJsonObject::new().into());
    keys.sign_json(&mut said).unwrap();
    let mut sent = said.clone();
    self::keys("other.test", 1).sign_json(&mut sent).unwrap();
    say(&saying, Some(sent));
    let federation = world.federation();
    for wanted in [None, Some(&keys)] {
        let answer = ask(&federation, query("a.test", wanted, None)).await;
        assert_eq!(answer.len(), 1);
        assert_vouched(&federation, &answer[0], &said);
    }
    // Also after a restart.
    let federation = world.federation();
    let answer = ask(&federation, query("a.test", Some(&keys), Some(START_MS))).await;
    assert_vouched(&federation, &answer[0], &said);
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn what_was_found_for_ourselves_is_passed_on() {
    let world = World::new().await;
    let (keys, server) = world.key_server("a.test").await;
    let federation = world.federation();
    let need = KeyNeed {
        server: name("a.test").to_owned(),
        key_id: keys.active().key_id().to_owned(),
        at_ms: START_MS,
    };
    federation.keys_for(&[need], DAY).await;
    let answer = ask(&federation, query("a.test", Some(&keys), None)).await;
    assert_vouched(&federation, &answer[0], &keys.document(START_MS));
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn the_server_is_asked_again_if_the_answer_would_not_be_valid_for_as_long_as_is_wanted() {
    // When it is asked again (after what time, and how long it should be valid), and the answer's validity.
    let cases = [
        (Duration::ZERO, Some(START_MS + DAY_MS), 1, DAY_MS),
        (Duration::ZERO, Some(0), 1, DAY_MS),
        (DAY, Some(START_MS + DAY_MS), 1, DAY_MS),
        (DAY, Some(START_MS + DAY_MS + 1), 2, 2 * DAY_MS),
        // More than it ever says.
        (DAY, Some(START_MS + 9 * DAY_MS), 2, 2 * DAY_MS),
        // By itself from the middle of the time on.
        (DAY / 2, None, 1, DAY_MS),
        (
            DAY / 2 + Duration::from_millis(1),
            None,
            2,
            DAY_MS + DAY_MS / 2 + 1,
        ),
    ];
    for (after, minimum, requests, expected) in cases {
        for by_id in [false, true] {
            let world = World::new().await;
            let (keys, server) = world.key_server("a.test").await;
            let federation = world.federation();
            let wanted = by_id.then_some(&keys);
            ask(&federation, query("a.test", wanted, None)).await;
            world.env().clock.advance(after);
            let answer = ask(&federation, query("a.test", wanted, minimum)).await;
            assert_eq!(server.count(), requests, "{after:?} {minimum:?}");
            let expected = i64::try_from(START_MS + expected).unwrap();
            assert_eq!(valid_until(&answer[0]), expected, "{after:?} {minimum:?}");
        }
    }
}

#[tokio::test]
async fn no_document_counts_as_valid_for_more_than_a_week() {
    let world = World::new().await;
    let (saying, server) = origin(&world, "a.test").await;
    let keys = keys("a.test", 7);
    say(&saying, Some(keys.document(START_MS + 300 * DAY_MS)));
    let federation = world.federation();
    let week = START_MS + 7 * DAY_MS;
    for (minimum, requests) in [(week, 1), (week + 1, 2)] {
        ask(&federation, query("a.test", None, None)).await;
        world.env().clock.advance(Duration::from_secs(60));
        ask(&federation, query("a.test", None, Some(minimum))).await;
        assert_eq!(server.count(), requests);
    }
}

#[tokio::test]
async fn while_a_server_is_away_others_get_its_last_word() {
    let world = World::new().await;
    let (saying, server) = origin(&world, "a.test").await;
    let keys = keys("a.test", 7);
    say(&saying, Some(keys.document(START_MS)));
    let federation = world.federation();
    ask(&federation, query("a.test", None, None)).await;
    say(&saying, None);
    world.env().clock.advance(10 * DAY);
    let answer = ask(&federation, query("a.test", Some(&keys), None)).await;
    assert_vouched(&federation, &answer[0], &keys.document(START_MS));
    assert!(server.count() >= 2);
    // It is not asked for each query.
    let asked = server.count();
    for _ in 0..20 {
        assert_eq!(ask(&federation, query("a.test", None, None)).await.len(), 1);
    }
    assert_eq!(server.count(), asked);
    // It is back.
    let again = keys.document(START_MS + 10 * DAY_MS);
    say(&saying, Some(again.clone()));
    world.env().clock.advance(DAY / 24);
    let answer = ask(&federation, query("a.test", None, None)).await;
    assert_vouched(&federation, &answer[0], &again);
}

#[tokio::test]
async fn what_is_not_known_is_left_out() {
    let world = World::new().await;
    let (_saying, _server) = origin(&world, "away.test").await;
    let (there, _there_server) = world.key_server("there.test").await;
    let federation = world.federation();
    let queries = vec![
        query("away.test", None, None),
        query("nowhere.test", Some(&there), Some(1)),
        query("there.test", Some(&keys("there.test", 99)), None),
    ];
    assert_eq!(federation.notary().answer(queries).await.unwrap().len(), 0);
    let queries = vec![
        query("away.test", None, None),
        query("there.test", Some(&there), None),
    ];
    let answer = federation.notary().answer(queries).await.unwrap();
    assert_eq!(answer.len(), 1);
    assert_vouched(&federation, &answer[0], &there.document(START_MS));
}

#[tokio::test]
async fn an_unsigned_document_does_not_take_the_place_of_what_was_known() {
    let world = World::new().await;
    let (saying, server) = origin(&world, "a.test").await;
    let keys = keys("a.test", 7);
    let said = keys.document(START_MS);
    say(&saying, Some(said.clone()));
    let federation = world.federation();
    ask(&federation, query("a.test", None, None)).await;
    let mut forged = keys.document(START_MS + DAY_MS);
    forged.insert("signatures".to_owned(), said["signatures"].clone());
    say(&saying, Some(forged));
    world.env().clock.advance(DAY);
    let answer = ask(&federation, query("a.test", None, None)).await;
    assert_vouched(&federation, &answer[0], &said);
    assert_eq!(server.count(), 2);
}

#[tokio::test]
async fn a_key_that_its_server_says_nothing_of_any_more_is_found_in_its_last_document() {
    let world = World::new().await;
    let (saying, _server) = origin(&world, "a.test").await;
    let (gone, retired, now) = (keys("a.test", 1), keys("a.test", 2), keys("a.test", 3));
    let federation = world.federation();
    let said: Vec<CanonicalJsonObject> = [&gone, &retired, &now]
        .into_iter()
        .zip(0..)
        .map(|(keys, day)| {
            let old = (day == 2).then(|| OldKey {
                key_id: retired.active().key_id().to_owned(),
                key: retired.active().verifying_key(),
                expired_ms: START_MS,
            });
            let keys = keys.clone().with_old(old.into_iter().collect());
            keys.document(START_MS + day * DAY_MS)
        })
        .collect();
    for document in &said {
        say(&saying, Some(document.clone()));
        ask(&federation, query("a.test", None, None)).await;
        world.env().clock.advance(DAY);
    }
    for (keys, expected) in [(&gone, &said[0]), (&retired, &said[2]), (&now, &said[2])] {
        let answer = ask(&federation, query("a.test", Some(keys), Some(0))).await;
        assert_eq!(answer.len(), 1);
        assert_vouched(&federation, &answer[0], expected);
    }
    let newest = ask(&federation, query("a.test", None, Some(0))).await;
    assert_eq!(newest.len(), 1);
    assert_vouched(&federation, &newest[0], &said[2]);
    // Two keys in two documents, and two in one.
    for (other, documents) in [(&gone, 2), (&retired, 1)] {
        let mut both = query("a.test", Some(&now), Some(0));
        both.wanted
            .extend(query("a.test", Some(other), Some(0)).wanted);
        assert_eq!(ask(&federation, both).await.len(), documents);
    }
}

#[tokio::test]
async fn queries_and_our_own_needs_at_the_same_time_share_one_request() {
    let world = World::new().await;
    let keys = keys("a.test", 7);
    let document = serde_json::to_string(&keys.document(START_MS)).unwrap();
    let gate = Arc::new(Notify::new());
    let waiting = Arc::clone(&gate);
    let server = world
        .server(&["a.test"], move |_| {
            let (gate, document) = (Arc::clone(&waiting), document.clone());
            Box::pin(async move {
                gate.notified().await;
                whole(200, &document)
            })
        })
        .await;
    world.names.service("a.test", server.port);
    let federation = world.federation();
    let querying = (0..10).map(|_| ask(&federation, query("a.test", None, None)));
    let need = KeyNeed {
        server: name("a.test").to_owned(),
        key_id: keys.active().key_id().to_owned(),
        at_ms: START_MS,
    };
    let finding = federation.keys_for(std::slice::from_ref(&need), DAY);
    let release = async {
        let ring = federation.key_ring();
        while ring.asking(name("a.test")) < 11 {
            tokio::task::yield_now().await;
        }
        gate.notify_one();
    };
    let (answers, found, ()) = futures_util::join!(join_all(querying), finding, release);
    assert!(answers.iter().all(|answer| answer.len() == 1));
    assert!(found.get(&need.server, &need.key_id, need.at_ms).is_some());
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn queries_of_strangers_keep_us_from_asking_nobody() {
    let world = World::new().await;
    let (saying, server) = origin(&world, "a.test").await;
    let federation = world.federation();
    let keys = keys("a.test", 7);
    assert_eq!(ask(&federation, query("a.test", None, None)).await.len(), 0);
    say(&saying, Some(keys.document(START_MS)));
    let asked = server.count();
    assert_eq!(ask(&federation, query("a.test", None, None)).await.len(), 0);
    assert_eq!(server.count(), asked, "not for them again");
    let need = KeyNeed {
        server: name("a.test").to_owned(),
        key_id: keys.active().key_id().to_owned(),
        at_ms: START_MS,
    };
    let found = federation.keys_for(std::slice::from_ref(&need), DAY).await;
    assert!(found.get(&need.server, &need.key_id, need.at_ms).is_some());
}

#[tokio::test]
async fn a_notary_asks_no_other_notary() {
    let world = World::new().await;
    let (_saying, notary) = origin(&world, "notary.test").await;
    let config = FederationConfig {
        trusted_key_servers: vec![name("notary.test").to_owned()],
        ..world.config()
    };
    let federation = world.federation_with(config, 1);
    let queries = (0..20).map(|n| query(&format!("s{n}.test"), None, None));
    let answer = federation.notary().answer(queries.collect()).await;
    assert_eq!(answer.unwrap().len(), 0);
    assert_eq!(notary.count(), 0);
}

#[tokio::test]
async fn our_own_keys_are_told_like_any_others() {
    let world = World::new().await;
    let federation = world.federation();
    let own = federation.signing_keys().document(START_MS);
    assert_eq!(
        ask(&federation, query("us.test", None, Some(u64::MAX))).await,
        [own]
    );
    assert_eq!(world.names.take_asked(), Vec::<String>::new());
}

#[tokio::test]
async fn of_a_query_about_too_many_servers_the_first_are_answered() {
    let world = World::new().await;
    let federation = world.federation();
    let queries = |count: usize| (0..count).map(|n| query(&format!("s{n:03}.test"), None, None));
    let mut asked = Vec::new();
    for count in [MOST_SERVERS, MOST_SERVERS + 5] {
        world.env().clock.advance(DAY);
        let answer = federation.notary().answer(queries(count).collect()).await;
        assert_eq!(answer.unwrap().len(), 0);
        let mut names = world.names.take_asked();
        names.retain(|name| name.starts_with("_matrix-fed._tcp."));
        names.sort();
        names.dedup();
        asked.push(names.len());
    }
    assert_eq!(asked, [MOST_SERVERS, MOST_SERVERS]);
}

#[tokio::test]
async fn what_is_too_large_is_not_kept_for_others() {
    let world = World::new().await;
    let (saying, server) = origin(&world, "a.test").await;
    let keys = keys("a.test", 7);
    let mut document = keys.document(START_MS);
    document.remove("signatures");
    document.insert("ballast".to_owned(), "x".repeat(20_000).into());
    keys.sign_json(&mut document).unwrap();
    say(&saying, Some(document));
    let federation = world.federation();
    assert_eq!(
        ask(&federation, query("a.test", Some(&keys), None))
            .await
            .len(),
        0
    );
    assert_eq!(server.count(), 1);
}

#[tokio::test]
async fn a_stored_document_that_was_corrupted_is_passed_over() {
    let world = World::new().await;
    let (saying, _server) = origin(&world, "a.test").await;
    let (retired, now) = (keys("a.test", 1), keys("a.test", 2));
    let federation = world.federation();
    let said = [retired.document(START_MS), now.document(START_MS + DAY_MS)];
    for document in &said {
        say(&saying, Some(document.clone()));
        ask(&federation, query("a.test", None, None)).await;
        world.env().clock.advance(DAY);
    }
    say(&saying, None);
    let mut both = query("a.test", Some(&retired), Some(0));
    both.wanted
        .extend(query("a.test", Some(&now), Some(0)).wanted);
    assert_eq!(ask(&federation, both.clone()).await.len(), 2);
    let database = &world.fresh.database;
    let stored = database.look_up("documents", |tx| {
        Box::pin(async move { server_keys::documents_of_servers(tx, &["a.test".to_owned()]).await })
    });
    let mut older = stored.await.unwrap().pop().unwrap();
    for signatures in ["none".into(), CanonicalJsonValue::Null] {
        let mut document = said[0].clone();
        document.insert("signatures".to_owned(), signatures);
        older.document = serde_json::to_string(&document).unwrap();
        let rows = [older.clone()];
        let corrupted = database.write("corrupt a document", Priority::Bulk, move |tx| {
            Box::pin(async move { server_keys::put_documents(tx, &rows).await })
        });
        corrupted.await.unwrap();
        let answer = ask(&federation, both.clone()).await;
        assert_eq!(answer.len(), 1);
        assert_vouched(&federation, &answer[0], &said[1]);
    }
}
