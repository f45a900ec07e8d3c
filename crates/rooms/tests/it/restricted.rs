//! Rooms whose members may be those of others: who of another server joins them through this one.

use std::collections::BTreeSet;

use myelin_core::state::Membership;
use myelin_rooms::ServeError;
use myelin_storage::testing::on_each_engine;
use ruma::{RoomId, UserId, room_id};
use serde_json::json;

use crate::{
    house::{House, alice, dora, wish},
    resident::{ids, joins, members, prepared, sealed, send_join, version_of, versions},
    story::{bob, carol},
};

/// A room for the members of others.
pub(crate) async fn restricted(
    house: &House,
    version: &str,
    rule: &str,
    allow: &[&RoomId],
) -> ruma::OwnedRoomId {
    let allow: Vec<_> = allow
        .iter()
        .map(|room_id| json!({ "type": "m.room_membership", "room_id": room_id }))
        .collect();
    let rules = json!({ "join_rule": rule, "allow": allow });
    let mut wish = wish(version);
    let rules = serde_json::value::to_raw_value(&rules).unwrap();
    wish.initial_state
        .push(("m.room.join_rules".into(), String::new(), rules));
    house.rooms.create(alice(), wish).await.unwrap()
}

#[tokio::test]
async fn a_restricted_room_lets_in_members_of_another_and_says_why_not_others() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for (version, rule) in [
            ("8", "restricted"),
            ("10", "restricted"),
            ("11", "knock_restricted"),
            ("12", "restricted"),
        ] {
            let hall = house.create(version).await;
            joins(&house, &hall, bob()).await;
            let unknown = room_id!("!unknown:elsewhere.example");
            let room_id = restricted(&house, version, rule, &[&hall]).await;
            let half_known = restricted(&house, version, rule, &[&hall, unknown]).await;
            let make = async |room_id: &RoomId, user: &UserId| {
                house
                    .rooms
                    .make_join(user.server_name(), room_id, user, versions())
                    .await
            };
            let no = make(&room_id, carol()).await;
            assert!(matches!(no, Err(ServeError::Forbidden(_))), "{no:?}");
            let no = make(&half_known, carol()).await;
            assert!(matches!(no, Err(ServeError::UnableToAuthorise)), "{no:?}");
            let template = make(&half_known, bob()).await.unwrap();
            let authoriser = &template["event"]["content"]["join_authorised_via_users_server"];
            assert_eq!(authoriser, alice().as_str());
            let join = prepared(&house, &room_id, bob()).await;
            let answer = send_join(&house, &room_id, bob(), &join, true)
                .await
                .unwrap();
            // It bears our signature now, and is the same event.
            assert!(answer["event"]["signatures"]["x.example"].is_object());
            assert_eq!(
                answer["event"]["signatures"]["127.0.0.1:1"],
                join.1["signatures"]["127.0.0.1:1"]
            );
            assert_eq!(
                ids(
                    version_of(&house, &room_id).await,
                    &json!([answer["event"]])
                ),
                [join.0].into()
            );
        }
    })
    .await;
}

#[tokio::test]
async fn who_may_not_invite_cannot_grant_a_join() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let hall = house.create("11").await;
        joins(&house, &hall, bob()).await;
        joins(&house, &hall, carol()).await;
        let room_id = restricted(&house, "11", "restricted", &[&hall]).await;
        let ready = prepared(&house, &room_id, carol()).await;
        let levels =
            json!({ "users": { alice().as_str(): 50 }, "invite": 60, "state_default": 50 });
        house
            .send(&room_id, alice(), "m.room.power_levels", Some(""), levels)
            .await
            .unwrap();
        let answer = house
            .rooms
            .make_join(bob().server_name(), &room_id, bob(), versions())
            .await;
        assert!(
            matches!(answer, Err(ServeError::UnableToGrant)),
            "{answer:?}"
        );
        // Prepared before alice lost her power, and sent after.
        let late = send_join(&house, &room_id, carol(), &ready, true).await;
        assert!(matches!(late, Err(ServeError::Forbidden(_))), "{late:?}");
        assert!(house.event(&room_id, &ready.0).await.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_restricted_join_that_nobody_here_authorised_is_not_taken() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let hall = house.create("11").await;
        joins(&house, &hall, bob()).await;
        let room_id = restricted(&house, "11", "restricted", &[&hall]).await;
        let version = version_of(&house, &room_id).await;
        let (_, event) = prepared(&house, &room_id, bob()).await;
        let mut elsewhere = event.clone();
        elsewhere["content"]["join_authorised_via_users_server"] = json!(carol());
        let elsewhere = sealed(version, &elsewhere, bob().server_name());
        let answer = send_join(&house, &room_id, bob(), &elsewhere, true).await;
        assert!(
            matches!(answer, Err(ServeError::InvalidParam(_))),
            "{answer:?}"
        );
        let mut nobody = event;
        nobody["content"]
            .as_object_mut()
            .unwrap()
            .remove("join_authorised_via_users_server");
        let nobody = sealed(version, &nobody, bob().server_name());
        let answer = send_join(&house, &room_id, bob(), &nobody, true).await;
        assert!(
            matches!(answer, Err(ServeError::Forbidden(_))),
            "{answer:?}"
        );
        for id in [&elsewhere.0, &nobody.0] {
            assert!(house.event(&room_id, id).await.is_none());
        }
        // Who left the other room since may not join this one with the old template.
        let ready = prepared(&house, &room_id, bob()).await;
        let out = house
            .rooms
            .set_membership(alice(), &hall, bob(), Membership::Leave, None);
        out.await.unwrap();
        let answer = send_join(&house, &room_id, bob(), &ready, true).await;
        assert!(
            matches!(answer, Err(ServeError::Forbidden(_))),
            "{answer:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn whoever_authorised_a_join_is_in_the_chain_of_its_answer() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for version in ["8", "10", "12"] {
            let hall = house.create(version).await;
            joins(&house, &hall, bob()).await;
            house.join(&hall, dora()).await;
            let room_id = restricted(&house, version, "restricted", &[&hall]).await;
            house.join(&room_id, dora()).await;
            let name = json!({ "name": "For members" });
            let set = house.send(&room_id, alice(), "m.room.name", Some(""), name);
            set.await.unwrap();
            let mut levels = json!({ "users": { dora().as_str(): 100 } });
            if version != "12" {
                levels["users"][alice().as_str()] = json!(100);
            }
            let set = house.send(&room_id, alice(), "m.room.power_levels", Some(""), levels);
            set.await.unwrap();
            house.rooms.leave(alice(), &room_id, None).await.unwrap();
            let join = prepared(&house, &room_id, bob()).await;
            let authoriser = &join.1["content"]["join_authorised_via_users_server"];
            assert_eq!(authoriser, dora().as_str());
            let answer = send_join(&house, &room_id, bob(), &join, true)
                .await
                .unwrap();
            // Nobody is in the state, and nothing in it was sent by dora.
            assert_eq!(members(&answer["state"]), BTreeSet::new());
            assert!(members(&answer["auth_chain"]).contains(dora().as_str()));
        }
    })
    .await;
}
