use std::collections::BTreeMap;

use myelin_storage::testing::{Fresh, on_each_engine};
use myelin_users::{KeyUpload, Requester, UserError, Users, uploaded_keys};
use serde_json::{Value, json};

use crate::{logged_in, users};

fn upload(json: Value) -> KeyUpload {
    // As it comes from the network: raw values can only be borrowed from text.
    serde_json::from_str(&json.to_string()).unwrap()
}

async fn requester(users: &Users) -> Requester {
    let login = logged_in(users, "alice").await;
    users
        .authenticate(&login.access_token)
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn uploaded_keys_are_counted_and_shown() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let alice = requester(&users).await;
        let nothing = users.upload_keys(alice.clone(), upload(json!({}))).await.unwrap();
        assert_eq!(nothing, BTreeMap::from([("signed_curve25519".to_owned(), 0)]));
        let before = users.device_list(&alice.user_id).await.unwrap().version;
        let device_keys = json!({
            "user_id": "@alice:example.org", "device_id": "PHONE", "algorithms": [],
            "keys": { "ed25519:PHONE": "key" }, "signatures": {},
        });
        let all = json!({
            "device_keys": device_keys,
            "one_time_keys": { "signed_curve25519:A": { "key": "a" }, "signed_curve25519:B": { "key": "b" } },
            "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } },
        });
        for _ in 0..2 {
            let counts = users.upload_keys(alice.clone(), upload(all.clone())).await.unwrap();
            assert_eq!(counts["signed_curve25519"], 2, "the same again changes nothing");
        }
        let list = users.device_list(&alice.user_id).await.unwrap();
        assert!(list.version > before);
        let shown = uploaded_keys(&list.devices[0]).expect("keys were uploaded");
        assert_eq!(serde_json::from_str::<Value>(shown.get()).unwrap(), device_keys);
        let wanted = BTreeMap::from([(alice.user_id.clone(), vec!["PHONE".to_owned()])]);
        let queried = users.query_keys(wanted).await.unwrap();
        let keys = &queried.devices[&alice.user_id]["PHONE"];
        assert_eq!(keys["unsigned"]["device_display_name"], "Phone");
        assert_eq!(keys["keys"], device_keys["keys"]);
    })
    .await;
}

#[tokio::test]
async fn keys_that_contradict_are_refused_whole() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let alice = requester(&users).await;
        let first = upload(json!({ "one_time_keys": { "signed_curve25519:A": { "key": "a" } } }));
        users.upload_keys(alice.clone(), first).await.unwrap();
        let wrong = [
            json!({ "one_time_keys": { "signed_curve25519:A": "other", "signed_curve25519:0": "new" } }),
            json!({ "one_time_keys": { "without_id": "key" } }),
            json!({ "device_keys": { "user_id": "@bob:example.org", "device_id": "PHONE" } }),
            json!({ "device_keys": { "user_id": "@alice:example.org", "device_id": "OTHER" } }),
            json!({ "device_keys": 5 }),
        ];
        for wrong in wrong {
            let refused = users.upload_keys(alice.clone(), upload(wrong.clone())).await;
            assert!(matches!(refused, Err(UserError::InvalidParam(_))), "{wrong}");
        }
        let counts = users.upload_keys(alice.clone(), upload(json!({}))).await.unwrap();
        assert_eq!(counts["signed_curve25519"], 1, "nothing of it was stored");
    })
    .await;
}

#[tokio::test]
async fn keys_of_other_servers_users_are_a_failure_and_of_unknown_users_absent() {
    on_each_engine(async |fresh: Fresh| {
        let users = users(&fresh, false).await;
        let wanted = ["@bob:example.com", "@nobody:example.org"];
        let wanted = wanted.map(|user| (user.try_into().unwrap(), vec![]));
        let queried = users.query_keys(BTreeMap::from(wanted)).await.unwrap();
        assert!(queried.devices.is_empty());
        assert_eq!(queried.failures.keys().collect::<Vec<_>>(), ["example.com"]);
    })
    .await;
}
