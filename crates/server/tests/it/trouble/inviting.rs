//! New rooms whose first guests are users of a server that does not take the invites.

use std::time::Duration;

use myelin_core::room_version::RoomVersion;
use serde_json::{Value, json};

use super::newcomer::Newcomer;
use crate::ca::Ca;
use crate::resident::{Conduct, Resident};

const CREATE: &str = "/_matrix/client/v3/createRoom";

/// A server, and another that treats invites in a manner of its own.
async fn neighbours(conduct: Conduct) -> Newcomer {
    let ca = Ca::generate();
    let resident = Resident::start(&ca, RoomVersion::V11, 3).await;
    resident.misbehave(None, "invite", conduct);
    Newcomer::start(&resident, &ca, "newcomer.test").await
}

/// A request for a room for a user of each of the other server's first two names.
fn wish(newcomer: &Newcomer, more: Value) -> Value {
    let guests = [0, 1].map(|number| format!("@guest:{}", newcomer.resident.names(number)));
    let mut wish = json!({ "preset": "trusted_private_chat", "invite": guests });
    for (key, value) in more.as_object().unwrap() {
        wish[key] = value.clone();
    }
    wish
}

async fn rooms_of(newcomer: &Newcomer) -> usize {
    let joined = newcomer.client.get("/_matrix/client/v3/joined_rooms").await;
    joined["joined_rooms"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_for_nobody_but_those_whose_servers_refuse_is_left_again() {
    let newcomer = neighbours(Conduct::Error(403, "M_INVITE_BLOCKED")).await;
    let wish = wish(&newcomer, json!({}));
    let (status, answer) = newcomer.client.call("POST", CREATE, Some(wish)).await;
    assert_eq!(
        (status, &answer["errcode"]),
        (403, &json!("M_INVITE_BLOCKED"))
    );
    assert_eq!(newcomer.resident.asked("newcomer.test", "invite").len(), 2);
    assert_eq!(rooms_of(&newcomer).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_others_can_come_to_is_there_whoever_refuses() {
    let newcomer = neighbours(Conduct::Error(403, "M_FORBIDDEN")).await;
    newcomer.register("friend").await;
    let others = [
        json!({ "preset": "public_chat" }),
        json!({ "room_alias_name": "known" }),
        json!({ "invite": [format!("@guest:{}", newcomer.resident.name()), "@friend:newcomer.test"] }),
    ];
    for (number, more) in others.into_iter().enumerate() {
        let wish = wish(&newcomer, more);
        newcomer.client.post(CREATE, wish).await;
        assert_eq!(rooms_of(&newcomer).await, number + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_has_not_refused() {
    let newcomer = neighbours(Conduct::Error(500, "M_UNKNOWN")).await;
    newcomer
        .client
        .post(CREATE, wish(&newcomer, json!({})))
        .await;
    assert_eq!(rooms_of(&newcomer).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_servers_hold_up_a_new_room_for_a_short_time_together() {
    let newcomer = neighbours(Conduct::Silence).await;
    let created = newcomer.client.post(CREATE, wish(&newcomer, json!({})));
    let (_, waited) = newcomer.wait(created).await;
    assert!(waited <= Duration::from_secs(20), "{waited:?}");
    assert_eq!(newcomer.resident.asked("newcomer.test", "invite").len(), 2);
    assert_eq!(rooms_of(&newcomer).await, 1);
}
