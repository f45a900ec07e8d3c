//! Users of other servers who join through this one.

use std::{collections::BTreeSet, sync::LazyLock};

use myelin_core::{
    build::sign_template,
    event::Verdict,
    room_version::RoomVersion,
    state::Membership,
    validate::{MAX_PDU_BYTES, Unverified},
};
use myelin_rooms::{Handed, PduAnswer, ServeError};
use myelin_storage::{
    joins::{self, PartialRoom},
    outbox,
    testing::on_each_engine,
};
use ruma::{OwnedEventId, RoomId, ServerName, UserId, event_id, room_id, server_name};
use serde_json::{Value, json};

use crate::{
    house::{House, alice, dora},
    story::{bob, carol, key_of, mallory, membership, message},
};

const VERSIONS: [&str; 10] = ["1", "2", "3", "6", "7", "8", "9", "10", "11", "12"];
pub(crate) fn versions() -> &'static [String] {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| VERSIONS.map(str::to_owned).to_vec());
    &NAMES
}

pub(crate) async fn text_of(mut answer: PduAnswer) -> String {
    let mut text = String::new();
    while let Some(piece) = answer.next().await.unwrap() {
        text.push_str(&piece);
    }
    text
}

pub(crate) async fn json_of(answer: PduAnswer) -> Value {
    serde_json::from_str(&text_of(answer).await).unwrap()
}

/// A template completed and signed by a server.
pub(crate) fn sealed(
    version: RoomVersion,
    event: &Value,
    server: &ServerName,
) -> (OwnedEventId, Value) {
    let event = serde_json::from_value(event.clone()).unwrap();
    let pdu = sign_template(version, &event, &key_of(server)).unwrap();
    let json = serde_json::from_str(&pdu.json).unwrap();
    (pdu.event_id.clone(), json)
}

pub(crate) async fn version_of(house: &House, room_id: &RoomId) -> RoomVersion {
    house.room(room_id).await.key.version
}

/// The first step of a join, completed.
pub(crate) async fn prepared(
    house: &House,
    room_id: &RoomId,
    user: &UserId,
) -> (OwnedEventId, Value) {
    let rooms = &house.rooms;
    let template = rooms.make_join(user.server_name(), room_id, user, versions());
    let template = template.await.unwrap();
    let version = version_of(house, room_id).await;
    assert_eq!(template["room_version"], version.as_str());
    sealed(version, &template["event"], user.server_name())
}

pub(crate) async fn send_join(
    house: &House,
    room_id: &RoomId,
    origin: &UserId,
    (event_id, event): &(OwnedEventId, Value),
    omit_members: bool,
) -> Result<Value, ServeError> {
    let body = event.to_string();
    let handed = Handed {
        origin: origin.server_name(),
        room_id,
        event_id,
        body: body.as_bytes(),
    };
    match house.rooms.send_join(handed, omit_members).await {
        Ok(answer) => Ok(json_of(answer).await),
        Err(error) => Err(error),
    }
}

/// Both steps of a join.
pub(crate) async fn joins(house: &House, room_id: &RoomId, user: &UserId) -> OwnedEventId {
    let join = prepared(house, room_id, user).await;
    send_join(house, room_id, user, &join, true).await.unwrap();
    join.0
}

pub(crate) fn ids(version: RoomVersion, events: &Value) -> BTreeSet<OwnedEventId> {
    let id = |event: &Value| {
        let parsed = Unverified::parse(version, &event.to_string(), None).unwrap();
        parsed.event_id().to_owned()
    };
    events.as_array().unwrap().iter().map(id).collect()
}

pub(crate) fn members(events: &Value) -> BTreeSet<String> {
    let members = events.as_array().unwrap().iter();
    let members = members.filter(|event| event["type"] == "m.room.member");
    members
        .map(|event| event["state_key"].as_str().unwrap().to_owned())
        .collect()
}

/// All that is stored of a room's graph.
async fn graph(house: &House, room_id: &RoomId) -> (Vec<OwnedEventId>, BTreeSet<OwnedEventId>) {
    (
        house.timeline(room_id).await,
        house.extremities(room_id).await,
    )
}

#[tokio::test]
async fn a_join_gets_the_whole_state_before_it_and_its_chain() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for version in VERSIONS {
            let room_id = house.create(version).await;
            joins(&house, &room_id, bob()).await;
            let before = house.current(&room_id).await;
            let join = prepared(&house, &room_id, carol()).await;
            let answer = send_join(&house, &room_id, carol(), &join, false)
                .await
                .unwrap();
            let version = version_of(&house, &room_id).await;
            let state = ids(version, &answer["state"]);
            assert_eq!(state, before.values().cloned().collect());
            assert_eq!(
                members(&answer["state"]),
                [alice(), bob()].map(ToString::to_string).into()
            );
            let room = house.room(&room_id).await;
            let chain = ids(version, &answer["auth_chain"]);
            for id in chain.iter().chain(&state).chain([&join.0]) {
                let event = room.event_by_id(&house.rooms, id).await.unwrap().unwrap();
                assert!(
                    event.pdu.auth_events.iter().all(|id| chain.contains(id)),
                    "{id}"
                );
            }
            assert_eq!(answer["event"], join.1);
            assert_eq!(answer["members_omitted"], false);
            assert_eq!(answer.get("servers_in_room"), None);
            let stored = house.event(&room_id, &join.0).await.unwrap();
            assert_eq!(stored.verdict, Verdict::Accepted);
            assert!(room.has_server(carol().server_name()));
        }
    })
    .await;
}

#[tokio::test]
async fn a_join_that_asks_for_it_gets_no_members_but_those_it_needs() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for version in VERSIONS {
            let room_id = house.create(version).await;
            joins(&house, &room_id, bob()).await;
            joins(&house, &room_id, mallory()).await;
            let ban =
                house
                    .rooms
                    .set_membership(alice(), &room_id, mallory(), Membership::Ban, None);
            ban.await.unwrap();
            // Without a name it is named after these.
            let join = prepared(&house, &room_id, carol()).await;
            let answer = send_join(&house, &room_id, carol(), &join, true)
                .await
                .unwrap();
            let heroes = [alice(), bob()].map(ToString::to_string);
            assert_eq!(members(&answer["state"]), heroes.into());
            let name = json!({ "name": "A name" });
            house
                .send(&room_id, alice(), "m.room.name", Some(""), name)
                .await
                .unwrap();
            let left =
                house
                    .rooms
                    .set_membership(alice(), &room_id, carol(), Membership::Leave, None);
            left.await.unwrap();
            let join = prepared(&house, &room_id, carol()).await;
            let answer = send_join(&house, &room_id, carol(), &join, true)
                .await
                .unwrap();
            assert_eq!(members(&answer["state"]), [carol().to_string()].into());
            assert_eq!(answer["members_omitted"], true);
            // Those before the join: not carol's, and not that of who was banned.
            assert_eq!(
                answer["servers_in_room"],
                json!(["127.0.0.1:1", "x.example"])
            );
            let version = version_of(&house, &room_id).await;
            let state = ids(version, &answer["state"]);
            let chain = ids(version, &answer["auth_chain"]);
            assert!(state.is_disjoint(&chain));
            let room = house.room(&room_id).await;
            for id in chain.iter().chain(&state).chain([&join.0]) {
                let event = room.event_by_id(&house.rooms, id).await.unwrap().unwrap();
                let known = |id: &OwnedEventId| chain.contains(id) || state.contains(id);
                assert!(event.pdu.auth_events.iter().all(known), "{id}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_repeated_join_gets_the_same_answer() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        let join = prepared(&house, &room_id, bob()).await;
        let first = send_join(&house, &room_id, bob(), &join, true)
            .await
            .unwrap();
        house.say(&room_id, alice(), "welcome").await;
        let before = graph(&house, &room_id).await;
        let second = send_join(&house, &room_id, bob(), &join, true)
            .await
            .unwrap();
        assert_eq!(first, second);
        assert_eq!(graph(&house, &room_id).await, before);
    })
    .await;
}

/// Changes of a valid join, of which none may be taken.
fn wrong_joins(version: RoomVersion, event: &Value) -> Vec<(&'static str, OwnedEventId, Value)> {
    let server = bob().server_name();
    let with = |name, field: &str, value: Value| {
        let mut event = event.clone();
        *event.pointer_mut(field).unwrap() = value;
        let (id, event) = sealed(version, &event, server);
        (name, id, event)
    };
    let (id, good) = sealed(version, event, server);
    let mut forged = good.clone();
    forged["signatures"]["127.0.0.1:1"]["ed25519:a"] = json!("A".repeat(86));
    let mut unsigned = good.clone();
    unsigned["signatures"] = json!({});
    let mut altered = good.clone();
    altered["content"]["displayname"] = json!("not what was hashed");
    let mut oversized = good.clone();
    oversized["content"]["displayname"] = json!("x".repeat(MAX_PDU_BYTES));
    let mut no_room = good.clone();
    no_room.as_object_mut().unwrap().remove("room_id");
    let other_id = event_id!("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").to_owned();
    vec![
        with("type", "/type", json!("m.room.message")),
        with("membership", "/content/membership", json!("leave")),
        with("room", "/room_id", json!("!other:x.example")),
        with("state key", "/state_key", json!(carol())),
        with("sender", "/sender", json!(carol())),
        ("signature", id.clone(), forged),
        ("no signature", id.clone(), unsigned),
        ("hash", id.clone(), altered),
        ("size", id.clone(), oversized),
        ("no room", id.clone(), no_room),
        ("no event", id, json!({})),
        ("ID", other_id, good),
    ]
}

#[tokio::test]
async fn what_is_no_valid_join_is_refused_and_not_stored() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for version in VERSIONS {
            let room_id = house.create(version).await;
            let version = version_of(&house, &room_id).await;
            let template = house
                .rooms
                .make_join(bob().server_name(), &room_id, bob(), versions());
            let template = template.await.unwrap()["event"].take();
            let before = graph(&house, &room_id).await;
            for (name, id, event) in wrong_joins(version, &template) {
                let answer = send_join(&house, &room_id, bob(), &(id.clone(), event), true).await;
                assert!(
                    matches!(answer, Err(ServeError::InvalidParam(_))),
                    "{name}: {answer:?}"
                );
                assert!(house.event(&room_id, &id).await.is_none(), "{name}");
            }
            assert_eq!(graph(&house, &room_id).await, before);
            // Another server can't bring it.
            let join = sealed(version, &template, bob().server_name());
            let answer = send_join(&house, &room_id, carol(), &join, true).await;
            assert!(
                matches!(answer, Err(ServeError::InvalidParam(_))),
                "{answer:?}"
            );
            send_join(&house, &room_id, bob(), &join, true)
                .await
                .unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_join_that_the_room_does_not_permit_is_refused_at_each_step_and_not_stored() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        let join = prepared(&house, &room_id, mallory()).await;
        let ban = house
            .rooms
            .set_membership(alice(), &room_id, mallory(), Membership::Ban, None);
        ban.await.unwrap();
        let before = graph(&house, &room_id).await;
        // Before the ban it was permitted.
        let answer = send_join(&house, &room_id, mallory(), &join, true).await;
        assert!(
            matches!(answer, Err(ServeError::Forbidden(_))),
            "{answer:?}"
        );
        let rooms = &house.rooms;
        let again = rooms
            .make_join(mallory().server_name(), &room_id, mallory(), versions())
            .await;
        assert!(matches!(again, Err(ServeError::Forbidden(_))), "{again:?}");
        assert!(house.event(&room_id, &join.0).await.is_none());
        assert_eq!(graph(&house, &room_id).await, before);
    })
    .await;
}

#[tokio::test]
async fn templates_are_made_for_a_servers_own_users_in_versions_that_it_knows() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        let rooms = &house.rooms;
        let answer = rooms
            .make_join(carol().server_name(), &room_id, bob(), versions())
            .await;
        assert!(
            matches!(answer, Err(ServeError::Forbidden(_))),
            "{answer:?}"
        );
        for known in [vec![], vec!["10".to_owned()]] {
            let join = rooms
                .make_join(bob().server_name(), &room_id, bob(), &known)
                .await;
            let knock = rooms
                .make_knock(bob().server_name(), &room_id, bob(), &known)
                .await;
            for answer in [join, knock] {
                let right =
                    matches!(&answer, Err(ServeError::IncompatibleVersion(of)) if of == "11");
                assert!(right, "{answer:?}");
            }
        }
        let nowhere = room_id!("!nowhere:x.example");
        let answer = rooms
            .make_join(bob().server_name(), nowhere, bob(), versions())
            .await;
        assert!(matches!(answer, Err(ServeError::NotFound(_))), "{answer:?}");
        // Nobody is left here.
        rooms.leave(alice(), &room_id, None).await.unwrap();
        let answer = rooms
            .make_join(bob().server_name(), &room_id, bob(), versions())
            .await;
        assert!(matches!(answer, Err(ServeError::NotFound(_))), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn a_join_is_passed_on_to_the_servers_in_the_room_but_not_to_the_joiners() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        let join = joins(&house, &story.room_id, server_user()).await;
        let rows = house
            .read(|tx| {
                Box::pin(outbox::after(
                    tx,
                    myelin_core::number::StreamPosition(0),
                    100,
                ))
            })
            .await;
        let room = house.room(&story.room_id).await;
        let event = house.event(&story.room_id, &join).await.unwrap();
        let row = rows.iter().find(|row| row.event == event.nr).unwrap();
        assert_eq!(row.further, Vec::<String>::new());
        let state = room.state(&house.rooms, row.snapshot).await.unwrap();
        let servers: Vec<_> = state.servers().map(|(name, _)| name.to_string()).collect();
        assert_eq!(
            servers,
            ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "x.example"]
        );
    })
    .await;
}

/// Somebody on a server that is in the room already.
pub(crate) fn server_user() -> &'static UserId {
    ruma::user_id!("@erin:127.0.0.1:1")
}

#[tokio::test]
async fn after_a_join_one_event_names_all_extremities() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let join = prepared(&house, &story.room_id, server_user()).await;
        let meanwhile = house
            .says(&mut story, &[&tip], message(bob(), "meanwhile"))
            .await;
        send_join(&house, &story.room_id, server_user(), &join, true)
            .await
            .unwrap();
        let tying = house.tip(&story.room_id).await;
        let event = house.event(&story.room_id, &tying).await.unwrap();
        let parents: BTreeSet<_> = event.pdu.prev_events.iter().cloned().collect();
        assert_eq!(parents, [meanwhile, join.0].into());
        assert_eq!(event.pdu.sender, alice());
        // Where there is nothing to tie, there is no such event.
        house.join(&story.room_id, dora()).await;
        let next = joins(&house, &story.room_id, ruma::user_id!("@frank:127.0.0.1:2")).await;
        assert_eq!(house.tip(&story.room_id).await, next);
    })
    .await;
}

#[tokio::test]
async fn while_a_room_is_partial_others_are_asked_instead() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, tip) = house.shared_room().await;
        let joining = prepared(&house, &story.room_id, server_user()).await;
        let room = house.room(&story.room_id).await;
        let join_event = house.event(&story.room_id, &tip).await.unwrap().nr;
        let partial = PartialRoom {
            room: room.key.room,
            join_event,
            served_by: bob().server_name().to_owned(),
            servers: Vec::new(),
            attempts: 0,
            next_try_ms: u64::MAX >> 1,
            last_error: None,
        };
        house
            .write(move |tx| {
                Box::pin(async move {
                    joins::put_partial(tx, &partial).await?;
                    joins::resync_failed(tx, partial.room, 1, partial.next_try_ms, "test").await
                })
            })
            .await;
        let house = house.restart().await;
        let (rooms, room_id, user) = (&house.rooms, &story.room_id, server_user());
        let origin = user.server_name();
        let answers = [
            rooms.make_join(origin, room_id, user, versions()).await,
            rooms.make_knock(origin, room_id, user, versions()).await,
            rooms.make_leave(origin, room_id, user).await,
            send_join(&house, room_id, user, &joining, true).await,
        ];
        let body = joining.1.to_string();
        let handed = Handed {
            origin,
            room_id,
            event_id: &joining.0,
            body: body.as_bytes(),
        };
        let others = [
            rooms.send_leave(handed).await,
            rooms.send_knock(handed).await.map(drop),
        ];
        for answer in answers {
            assert!(matches!(answer, Err(ServeError::NotFound(_))), "{answer:?}");
        }
        for answer in others {
            assert!(matches!(answer, Err(ServeError::NotFound(_))), "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_join_upon_events_that_are_not_here_can_be_tried_again() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let unseen = story.write(&[&tip], message(bob(), "not sent"));
        let join = story.write(&[&unseen], membership(server_user(), server_user(), "join"));
        let event = (join.clone(), story.json(&join));
        let answer = send_join(&house, &story.room_id, server_user(), &event, true).await;
        assert!(matches!(answer, Err(ServeError::Behind(_))), "{answer:?}");
        assert!(house.event(&story.room_id, &join).await.is_none());
        house.push_all(&story, bob(), &[unseen]).await;
        send_join(&house, &story.room_id, server_user(), &event, true)
            .await
            .unwrap();
        let stranger = server_name!("stranger.example");
        assert!(!house.room(&story.room_id).await.has_server(stranger));
    })
    .await;
}
