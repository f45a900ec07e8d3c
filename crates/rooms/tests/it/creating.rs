//! Rooms made here.

use myelin_core::state::Membership;
use myelin_rooms::{CreateRoom, Preset, RoomError};
use myelin_storage::testing::on_each_engine;
use ruma::{OwnedEventId, OwnedRoomId, room_alias_id};
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    house::{House, alice, dora, wish},
    story::bob,
};

async fn content(house: &House, room_id: &OwnedRoomId, event_type: &str, key: &str) -> Value {
    let current = house.current(room_id).await;
    match current.get(&(event_type.to_owned(), key.to_owned())) {
        None => Value::Null,
        Some(id) => content_of(house, room_id, id).await,
    }
}

async fn content_of(house: &House, room_id: &OwnedRoomId, id: &OwnedEventId) -> Value {
    let event = house.event(room_id, id).await.unwrap();
    serde_json::from_str(event.pdu.content.get()).unwrap()
}

#[tokio::test]
async fn every_preset_in_every_version_makes_a_room_that_works() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let presets = [
            (Preset::Public, "public", "forbidden"),
            (Preset::Private, "invite", "can_join"),
            (Preset::TrustedPrivate, "invite", "can_join"),
        ];
        for version in ["1", "2", "3", "6", "9", "10", "11", "12"] {
            for (preset, join_rule, guests) in presets {
                let wish = CreateRoom {
                    preset,
                    name: Some("a name".to_owned()),
                    topic: Some("a topic".to_owned()),
                    invite: vec![dora().to_owned()],
                    ..wish(version)
                };
                let room_id = house.rooms.create(alice(), wish).await.unwrap();
                let of = |event_type| content(&house, &room_id, event_type, "");
                let create = of("m.room.create").await;
                assert_eq!(create["room_version"], version);
                let has_creator = !["11", "12"].contains(&version);
                assert_eq!(create.get("creator").is_some(), has_creator);
                assert_eq!(of("m.room.join_rules").await["join_rule"], join_rule);
                assert_eq!(of("m.room.guest_access").await["guest_access"], guests);
                assert_eq!(of("m.room.name").await, json!({"name": "a name"}));
                assert_eq!(of("m.room.topic").await["topic"], "a topic");
                let visibility = of("m.room.history_visibility").await;
                assert_eq!(visibility["history_visibility"], "shared");
                let invite = content(&house, &room_id, "m.room.member", dora().as_str()).await;
                assert_eq!(invite["membership"], "invite");
                // The first event is the create event, and all are a chain.
                let shown = house.timeline(&room_id).await;
                for pair in shown.windows(2) {
                    let event = house.event(&room_id, &pair[1]).await.unwrap();
                    assert_eq!(event.pdu.prev_events, pair[..1]);
                }
                house.join(&room_id, dora()).await;
                house.say(&room_id, dora(), "hello").await;
                let power = house.send(
                    &room_id,
                    dora(),
                    "m.room.name",
                    Some(""),
                    json!({"name": "x"}),
                );
                let trusted = preset == Preset::TrustedPrivate;
                assert_eq!(power.await.is_ok(), trusted, "{version} {preset:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn in_version_12_the_room_id_is_the_hash_of_the_create_event_and_creators_are_above_all() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let wish = CreateRoom {
            preset: Preset::TrustedPrivate,
            invite: vec![dora().to_owned()],
            ..wish("12")
        };
        let room_id = house.rooms.create(alice(), wish).await.unwrap();
        let first = house.timeline(&room_id).await[0].clone();
        assert_eq!(room_id.as_str()[1..], first.as_str()[1..]);
        let create = content_of(&house, &room_id, &first).await;
        assert_eq!(create["additional_creators"], json!([dora()]));
        let levels = content(&house, &room_id, "m.room.power_levels", "").await;
        assert_eq!(levels["users"], json!({}));
        // Nobody takes a creator's power.
        let listed = json!({"users": {alice().as_str(): 50}});
        let refused = house.send(&room_id, alice(), "m.room.power_levels", Some(""), listed);
        assert!(matches!(refused.await, Err(RoomError::Forbidden(_))));
        for event in house.timeline(&room_id).await {
            let event = house.event(&room_id, &event).await.unwrap();
            assert!(!event.pdu.auth_events.contains(&first));
        }
        house.join(&room_id, dora()).await;
        let tombstone = json!({"body": "over", "replacement_room": "!x"});
        house
            .send(&room_id, dora(), "m.room.tombstone", Some(""), tombstone)
            .await
            .unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_the_client_wishes_is_in_the_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let given = |content: Value| to_raw_value(&content).unwrap();
        let mut wish = CreateRoom {
            alias_name: Some("myroom".to_owned()),
            initial_state: vec![
                (
                    "m.room.join_rules".into(),
                    String::new(),
                    given(json!({"join_rule": "knock"})),
                ),
                ("org.example".into(), "key".into(), given(json!({"a": 1}))),
            ],
            profile: Map::from_iter([("displayname".to_owned(), json!("Alice"))]),
            ..wish("11")
        };
        wish.creation_content
            .insert("type".into(), "m.space".into());
        wish.creation_content
            .insert("creator".into(), "@eve:y".into());
        wish.power_level_override
            .insert("events_default".into(), 7.into());
        let room_id = house.rooms.create(alice(), wish).await.unwrap();
        let create = content(&house, &room_id, "m.room.create", "").await;
        assert_eq!(create, json!({"room_version": "11", "type": "m.space"}));
        let rules = content(&house, &room_id, "m.room.join_rules", "").await;
        assert_eq!(rules["join_rule"], "knock");
        assert_eq!(
            content(&house, &room_id, "org.example", "key").await,
            json!({"a": 1})
        );
        let levels = content(&house, &room_id, "m.room.power_levels", "").await;
        assert_eq!(levels["events_default"], 7);
        let member = content(&house, &room_id, "m.room.member", alice().as_str()).await;
        assert_eq!(member["displayname"], "Alice");
        let alias = room_alias_id!("#myroom:x.example");
        let canonical = content(&house, &room_id, "m.room.canonical_alias", "").await;
        assert_eq!(canonical["alias"], alias.as_str());
        assert_eq!(house.rooms.resolve_alias(alias).await.unwrap().0, room_id);
    })
    .await;
}

#[tokio::test]
async fn a_room_is_there_even_if_the_server_of_an_invited_user_is_not() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let wish = CreateRoom {
            invite: vec![bob().to_owned(), dora().to_owned()],
            ..wish("12")
        };
        let room_id = house.rooms.create(alice(), wish).await.unwrap();
        assert!(house.was_asked(bob().server_name()).await);
        let invite = content(&house, &room_id, "m.room.member", dora().as_str()).await;
        assert_eq!(invite["membership"], "invite");
        // An invite that its server did not sign is none.
        let current = house.current(&room_id).await;
        assert!(!current.contains_key(&("m.room.member".into(), bob().to_string())));
        let invite = house
            .rooms
            .set_membership(alice(), &room_id, bob(), Membership::Invite, None);
        let failed = invite.await;
        assert!(matches!(failed, Err(RoomError::Remote(_))), "{failed:?}");
        assert_eq!(house.current(&room_id).await, current);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_made_leaves_nothing_behind() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let named = |wish: CreateRoom| CreateRoom {
            alias_name: Some("nice".to_owned()),
            ..wish
        };
        let unknown = house.rooms.create(alice(), wish("0.7")).await;
        assert!(matches!(unknown, Err(RoomError::UnsupportedVersion(_))));
        for name in ["", "a b", "a:b", "#a"] {
            let wish = CreateRoom {
                alias_name: Some(name.to_owned()),
                ..wish("11")
            };
            let refused = house.rooms.create(alice(), wish).await;
            assert!(matches!(refused, Err(RoomError::InvalidParam(_))), "{name}");
        }
        // The alias is not taken by a room that there isn't.
        let mut powerless = named(wish("11"));
        powerless
            .power_level_override
            .insert("users".into(), json!({alice().as_str(): 0}));
        let refused = house.rooms.create(alice(), powerless).await;
        assert!(
            matches!(refused, Err(RoomError::Forbidden(_))),
            "{refused:?}"
        );
        let alias = room_alias_id!("#nice:x.example");
        let found = house.rooms.resolve_alias(alias).await;
        assert!(matches!(found, Err(RoomError::NotFound(_))), "{found:?}");
        let room_id = house
            .rooms
            .create(alice(), named(wish("11")))
            .await
            .unwrap();
        let again = house.rooms.create(alice(), named(wish("11"))).await;
        assert!(matches!(again, Err(RoomError::AliasInUse(_))), "{again:?}");
        assert_eq!(house.rooms.resolve_alias(alias).await.unwrap().0, room_id);
        let house = house.restart().await;
        assert_eq!(house.rooms.resolve_alias(alias).await.unwrap().0, room_id);
        let memberships = house
            .read(|tx| Box::pin(myelin_storage::rooms::memberships_of_user(tx, alice())))
            .await;
        assert_eq!(memberships.len(), 1);
        assert_eq!(memberships[0].membership, Membership::Join.name());
    })
    .await;
}
