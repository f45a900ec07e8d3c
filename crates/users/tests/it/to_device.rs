use std::collections::BTreeMap;

use myelin_core::number::StreamPosition;
use myelin_storage::{
    edu_outbox,
    testing::{Fresh, on_each_engine},
};
use myelin_users::{Messages, NewDevice, Requester, UserError, Users};
use ruma::{ServerName, server_name, user_id};
use serde_json::{Value, json, value::to_raw_value};

use crate::{logged_in, users};

fn alice(device_id: &str) -> Requester {
    Requester {
        user_id: user_id!("@alice:example.org").to_owned(),
        device_id: device_id.into(),
        admin: false,
        guest: false,
    }
}

/// What a device has of messages after a position.
async fn inbox(users: &Users, device_id: &str, after: i64) -> (Vec<Value>, StreamPosition) {
    let inbox = users.inbox(&alice(device_id), StreamPosition(after)).await;
    let inbox = inbox.unwrap();
    let events = inbox.events.iter();
    let events = events.map(|event| serde_json::from_str(event.get()).unwrap());
    (events.collect(), inbox.upto)
}

/// Messages of a client: user, device and what is said.
fn messages(wanted: &[(&str, &str, u8)]) -> Messages {
    let mut messages = Messages::new();
    for (user, device, number) in wanted {
        let content = to_raw_value(&json!({ "number": number })).unwrap();
        let of_user = messages.entry((*user).to_owned()).or_default();
        of_user.insert((*device).to_owned(), content);
    }
    messages
}

/// What a device gets.
fn event(sender: &str, number: u8) -> Value {
    json!({ "type": "org.example.tell", "sender": sender, "content": { "number": number } })
}

/// An account `alice` with the devices PHONE and LAPTOP.
async fn with_two_devices(fresh: &Fresh) -> Users {
    let users = users(fresh, false).await;
    let login = logged_in(&users, "alice").await;
    let laptop = NewDevice {
        device_id: Some("LAPTOP".to_owned()),
        display_name: None,
        ..NewDevice::default()
    };
    users.start_session(login.user_id, laptop).await.unwrap();
    users
}

#[tokio::test]
async fn a_message_reaches_the_named_device_and_a_star_the_others() {
    on_each_engine(|fresh| async move {
        let users = with_two_devices(&fresh).await;
        let sent = messages(&[
            ("@alice:example.org", "PHONE", 1),
            ("@alice:example.org", "*", 2),
            ("@alice:example.org", "LOST", 3),
            ("@nobody:example.org", "*", 4),
        ]);
        let sender = alice("PHONE");
        for repeated in [sent.clone(), sent] {
            let servers = users.send_to_device(&sender, "org.example.tell", "t", repeated);
            assert!(servers.await.unwrap().is_empty());
        }
        let me = "@alice:example.org";
        assert_eq!(inbox(&users, "PHONE", 0).await.0, [event(me, 1)]);
        let (events, upto) = inbox(&users, "LAPTOP", 0).await;
        assert_eq!(events, [event(me, 2)]);
        assert!(inbox(&users, "LAPTOP", upto.0).await.0.is_empty());
        // One device's acknowledgement is not the other's.
        users.empty_inbox(&alice("LAPTOP"), upto).await.unwrap();
        assert!(inbox(&users, "LAPTOP", 0).await.0.is_empty());
        assert_eq!(inbox(&users, "PHONE", 0).await.0.len(), 1);
        // Nothing is kept for a device that is gone.
        users.log_out(alice("PHONE")).await.unwrap();
        let phone = NewDevice {
            device_id: Some("PHONE".to_owned()),
            display_name: None,
            ..NewDevice::default()
        };
        users.start_session(sender.user_id, phone).await.unwrap();
        assert!(inbox(&users, "PHONE", 0).await.0.is_empty());
    })
    .await;
}

#[tokio::test]
async fn positions_go_on_after_a_restart_even_if_every_message_was_received() {
    on_each_engine(|fresh| async move {
        let before = with_two_devices(&fresh).await;
        let laptop = alice("LAPTOP");
        let to_phone = || messages(&[("@alice:example.org", "PHONE", 1)]);
        for txn_id in ["a", "b"] {
            let sent = before.send_to_device(&laptop, "org.example.tell", txn_id, to_phone());
            sent.await.unwrap();
        }
        let (_, upto) = inbox(&before, "PHONE", 0).await;
        before.empty_inbox(&alice("PHONE"), upto).await.unwrap();
        drop(before);
        let after = users(&fresh, false).await;
        let sent = after.send_to_device(&laptop, "org.example.tell", "c", to_phone());
        sent.await.unwrap();
        assert_eq!(inbox(&after, "PHONE", upto.0).await.0.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn what_is_for_other_servers_waits_once_for_each() {
    on_each_engine(|fresh| async move {
        let users = with_two_devices(&fresh).await;
        let sent = messages(&[
            ("@bob:b.example", "PHONE", 1),
            ("@bob:b.example", "*", 2),
            ("@carol:b.example", "*", 3),
            ("@dora:d.example", "*", 4),
        ]);
        let sender = alice("PHONE");
        for _ in 0..2 {
            let sent = users.send_to_device(&sender, "org.example.tell", "t", sent.clone());
            let servers = sent.await.unwrap();
            assert_eq!(
                servers,
                [server_name!("b.example"), server_name!("d.example")]
            );
        }
        let waiting = fresh.database.read("waiting", |tx| {
            Box::pin(edu_outbox::waiting(tx, server_name!("b.example"), 10))
        });
        let waiting = waiting.await.unwrap();
        assert_eq!(waiting.len(), 1);
        let mut edu: Value = serde_json::from_slice(&waiting[0].edu).unwrap();
        let message_id = edu["content"]["message_id"].take();
        assert!(
            message_id.as_str().is_some_and(|id| id.len() == 16),
            "{message_id}"
        );
        let content = json!({
            "sender": "@alice:example.org",
            "type": "org.example.tell",
            "message_id": null,
            "messages": {
                "@bob:b.example": { "PHONE": { "number": 1 }, "*": { "number": 2 } },
                "@carol:b.example": { "*": { "number": 3 } },
            },
        });
        assert_eq!(
            edu,
            json!({ "edu_type": "m.direct_to_device", "content": content })
        );
    })
    .await;
}

#[tokio::test]
async fn a_message_of_another_server_is_taken_once_and_only_for_its_own_users() {
    on_each_engine(|fresh| async move {
        let users = with_two_devices(&fresh).await;
        let receive = async |origin: &ServerName, sender: &str, message_id: &str, number: u8| {
            let content = json!({
                "sender": sender, "type": "org.example.tell", "message_id": message_id,
                "messages": {
                    "@alice:example.org": { "PHONE": { "number": number } },
                    "@else:where.example": { "*": {} },
                    "nonsense": { "*": {} },
                },
            });
            let content = to_raw_value(&content).unwrap();
            users.receive_to_device(origin, &content).await.unwrap();
        };
        let (b, c) = (server_name!("b.example"), server_name!("c.example"));
        receive(b, "@bob:b.example", "same", 1).await;
        receive(b, "@bob:b.example", "same", 2).await;
        // IDs are each server's own.
        receive(c, "@carol:c.example", "same", 3).await;
        receive(c, "@bob:b.example", "forged", 4).await;
        receive(c, "@carol:c.example", &"long".repeat(64), 5).await;
        users
            .receive_to_device(b, &to_raw_value(&json!({})).unwrap())
            .await
            .unwrap();
        let expected = [event("@bob:b.example", 1), event("@carol:c.example", 3)];
        assert_eq!(inbox(&users, "PHONE", 0).await.0, expected);
    })
    .await;
}

#[tokio::test]
async fn messages_are_for_users() {
    on_each_engine(|fresh| async move {
        let users = with_two_devices(&fresh).await;
        let sent = messages(&[("bob", "*", 1)]);
        let sender = alice("PHONE");
        let refused = users.send_to_device(&sender, "t", "t", sent).await;
        assert!(
            matches!(refused, Err(UserError::InvalidParam(_))),
            "{refused:?}"
        );
        let long = "t".repeat(256);
        let refused = users.send_to_device(&sender, &long, "t", BTreeMap::new());
        assert!(matches!(refused.await, Err(UserError::InvalidParam(_))));
    })
    .await;
}
