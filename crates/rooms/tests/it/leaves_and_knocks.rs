//! Users of other servers who leave and knock through this one.

use std::collections::BTreeSet;

use myelin_core::state::Membership;
use myelin_rooms::{Handed, ServeError};
use myelin_storage::testing::on_each_engine;
use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde_json::{Value, json};

use crate::{
    house::{House, alice},
    resident::{ids, joins, json_of, sealed, send_join, version_of, versions},
    restricted::restricted,
    story::{bob, carol, mallory},
};

/// Those in which one can knock.
const KNOCKING: [&str; 5] = ["7", "9", "10", "11", "12"];

async fn send(
    house: &House,
    room_id: &RoomId,
    user: &UserId,
    (event_id, event): (&EventId, &Value),
    membership: Membership,
) -> Result<Value, ServeError> {
    let body = event.to_string();
    let handed = Handed {
        origin: user.server_name(),
        room_id,
        event_id,
        body: body.as_bytes(),
    };
    match membership {
        Membership::Leave => house.rooms.send_leave(handed).await.map(|()| json!({})),
        _ => Ok(json_of(house.rooms.send_knock(handed).await?).await),
    }
}

/// Both steps of a leave.
async fn leaves(
    house: &House,
    room_id: &RoomId,
    user: &UserId,
) -> Result<OwnedEventId, ServeError> {
    let template = house
        .rooms
        .make_leave(user.server_name(), room_id, user)
        .await?;
    let version = version_of(house, room_id).await;
    let (id, event) = sealed(version, &template["event"], user.server_name());
    send(house, room_id, user, (&id, &event), Membership::Leave).await?;
    Ok(id)
}

#[tokio::test]
async fn members_the_invited_and_those_who_knock_can_leave_and_others_cannot() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for version in KNOCKING {
            let room_id = restricted(&house, version, "knock", &[]).await;
            let mut story = house.story(&room_id).await;
            let knock =
                house
                    .rooms
                    .make_knock(carol().server_name(), &room_id, carol(), versions());
            let knock = knock.await.unwrap();
            let (id, knock) = sealed(story.version, &knock["event"], carol().server_name());
            send(&house, &room_id, carol(), (&id, &knock), Membership::Knock)
                .await
                .unwrap();
            // A stranger has nothing to leave.
            let stranger = leaves(&house, &room_id, mallory()).await;
            assert!(
                matches!(stranger, Err(ServeError::Forbidden(_))),
                "{stranger:?}"
            );
            let left = leaves(&house, &room_id, carol()).await.unwrap();
            assert_eq!(house.tip(&room_id).await, left);
            house.tell(&mut story).await;
            let entries = house.current(&room_id).await;
            assert_eq!(
                entries[&("m.room.member".into(), carol().to_string())],
                left
            );
            let again = leaves(&house, &room_id, carol()).await;
            assert!(matches!(again, Err(ServeError::Forbidden(_))), "{again:?}");
        }
        let open = house.create("11").await;
        joins(&house, &open, bob()).await;
        let left = leaves(&house, &open, bob()).await.unwrap();
        assert!(!house.room(&open).await.has_server(bob().server_name()));
        assert_eq!(house.tip(&open).await, left);
    })
    .await;
}

#[tokio::test]
async fn a_knock_is_answered_with_what_the_user_may_know_of_the_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for version in KNOCKING {
            let rule = match version {
                "7" | "9" => "knock",
                _ => "knock_restricted",
            };
            let room_id = restricted(&house, version, rule, &[]).await;
            let name = json!({ "name": "A name" });
            house
                .send(&room_id, alice(), "m.room.name", Some(""), name)
                .await
                .unwrap();
            let template = house
                .rooms
                .make_knock(bob().server_name(), &room_id, bob(), versions());
            let template = template.await.unwrap();
            let version = version_of(&house, &room_id).await;
            let (id, knock) = sealed(version, &template["event"], bob().server_name());
            // A knock is no leave, and no join.
            let as_leave = send(&house, &room_id, bob(), (&id, &knock), Membership::Leave).await;
            assert!(
                matches!(as_leave, Err(ServeError::InvalidParam(_))),
                "{as_leave:?}"
            );
            let as_join =
                send_join(&house, &room_id, bob(), &(id.clone(), knock.clone()), true).await;
            assert!(
                matches!(as_join, Err(ServeError::InvalidParam(_))),
                "{as_join:?}"
            );
            assert!(house.event(&room_id, &id).await.is_none());
            let answer = send(&house, &room_id, bob(), (&id, &knock), Membership::Knock)
                .await
                .unwrap();
            let told = answer["knock_room_state"].as_array().unwrap();
            let types: BTreeSet<_> = told
                .iter()
                .map(|event| event["type"].as_str().unwrap())
                .collect();
            assert_eq!(
                types,
                ["m.room.create", "m.room.join_rules", "m.room.name"].into()
            );
            // They are whole events of the room.
            let current = house.current(&room_id).await;
            let told = ids(version, &answer["knock_room_state"]);
            assert!(
                told.iter()
                    .all(|id| current.values().any(|current| current == id))
            );
        }
        // Where one may not knock, one does not even get a template.
        let room_id = house.create("11").await;
        let no = house
            .rooms
            .make_knock(bob().server_name(), &room_id, bob(), versions())
            .await;
        assert!(matches!(no, Err(ServeError::Forbidden(_))), "{no:?}");
    })
    .await;
}
