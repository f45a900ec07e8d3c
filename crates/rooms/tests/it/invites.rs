//! Invitations from other servers, and what becomes of them.

use myelin_core::{
    build::EventDraft, event::Verdict, room_version::RoomVersion, state::Membership,
    validate::MAX_PDU_BYTES,
};
use myelin_rooms::{Handed, RoomError, ServeError};
use myelin_storage::{out_of_band::OutOfBand, testing::on_each_engine};
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UInt, UserId, event_id, room_id};
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    house::{House, alice, dora, wish},
    outgoing::rows,
    resident::sealed,
    story::{Story, Words, bob, carol, key_of, membership, message, state},
};

const VERSIONS: [RoomVersion; 3] = [RoomVersion::V10, RoomVersion::V11, RoomVersion::V12];

/// A room of bob's that this server has never heard of, and its newest event.
fn foreign_room(version: RoomVersion) -> (Story, OwnedEventId) {
    let content = json!({ "room_version": version.as_str(), "creator": bob() });
    let in_create = !version.room_id_is_create_hash();
    let create = EventDraft {
        room_id: in_create.then(|| room_id!("!foreign:127.0.0.1:1").to_owned()),
        sender: bob().to_owned(),
        event_type: "m.room.create".into(),
        state_key: Some(String::new()),
        content: to_raw_value(&content).unwrap(),
        prev_events: Vec::new(),
        auth_events: Vec::new(),
        depth: 1,
        origin_server_ts: MilliSecondsSinceUnixEpoch(UInt::from(1_u32)),
        redacts: None,
    };
    let create = create
        .finish(version, &key_of(bob().server_name()))
        .unwrap();
    let room_id = create.room_id.clone();
    let mut story = Story::new(version, room_id, 1_700_000_000_000);
    let start = create.event_id.clone();
    story.read(create.into_pdu());
    let rules = state(
        bob(),
        "m.room.join_rules",
        "",
        json!({ "join_rule": "invite" }),
    );
    let name = state(bob(), "m.room.name", "", json!({ "name": "Bob's" }));
    let ids = story.chain(&start, [membership(bob(), bob(), "join"), rules, name]);
    let tip = ids.last().unwrap().clone();
    (story, tip)
}

/// The events that tell of a foreign room.
fn telling(story: &Story, tip: &OwnedEventId) -> Vec<Value> {
    let after = story.after(tip).iter();
    let telling = after.filter(|((event_type, _), _)| event_type != "m.room.member");
    telling.map(|(_, id)| story.json(id)).collect()
}

struct Asked<'a> {
    origin: &'a UserId,
    room_id: &'a RoomId,
    event_id: &'a OwnedEventId,
    body: Value,
}

async fn ask(house: &House, asked: Asked<'_>) -> Result<Value, ServeError> {
    let body = asked.body.to_string();
    let handed = Handed {
        origin: asked.origin.server_name(),
        room_id: asked.room_id,
        event_id: asked.event_id,
        body: body.as_bytes(),
    };
    house.rooms.receive_invite(handed).await
}

/// Writes an invite into a story and hands it over.
async fn invites(
    house: &House,
    story: &mut Story,
    tip: &OwnedEventId,
    words: Words,
) -> OwnedEventId {
    let told = match story.knows(tip) {
        true => telling(story, tip),
        false => Vec::new(),
    };
    let invite = story.write(&[tip], words);
    let body = json!({
        "room_version": story.version.as_str(),
        "event": story.json(&invite),
        "invite_room_state": told,
    });
    let asked = Asked {
        origin: &story.pdu(&invite).sender.clone(),
        room_id: &story.room_id.clone(),
        event_id: &invite,
        body,
    };
    ask(house, asked).await.unwrap();
    invite
}

async fn known(house: &House, room_id: &RoomId, user: &UserId) -> Option<OutOfBand> {
    let room = house.room(room_id).await;
    house.rooms.out_of_band(&room, user).await.unwrap()
}

async fn known_membership(house: &House, room_id: &RoomId, user: &UserId) -> Option<Membership> {
    known(house, room_id, user).await?.event.pdu.membership
}

#[tokio::test]
async fn an_invite_is_signed_and_kept_with_what_it_tells_of_the_room() {
    on_each_engine(|fresh| async move {
        let mut house = House::open(fresh).await;
        for version in VERSIONS {
            let (mut story, tip) = foreign_room(version);
            let invite = story.write(&[&tip], membership(bob(), alice(), "invite"));
            let body = json!({
                "room_version": version.as_str(),
                "event": story.json(&invite),
                "invite_room_state": telling(&story, &tip),
            });
            let asked = || Asked {
                origin: bob(),
                room_id: &story.room_id,
                event_id: &invite,
                body: body.clone(),
            };
            let answer = ask(&house, asked()).await.unwrap();
            let mut expected = story.json(&invite);
            let signed = answer["event"]["signatures"]["x.example"].clone();
            assert!(signed.is_object());
            expected["signatures"]["x.example"] = signed;
            assert_eq!(answer["event"], expected);
            ask(&house, asked()).await.unwrap();
            house = house.restart().await;
            let kept = known(&house, &story.room_id, alice()).await.unwrap();
            assert_eq!(kept.event.pdu.event_id, invite);
            assert_eq!(kept.via, bob().server_name());
            let mut told: Vec<Value> = kept
                .stripped_state
                .iter()
                .map(|event| serde_json::from_str(event.get()).unwrap())
                .collect();
            told.sort_by_key(|event| event["type"].to_string());
            let name = json!({
                "type": "m.room.name", "state_key": "", "sender": bob(), "content": { "name": "Bob's" },
            });
            assert_eq!(told.len(), 3);
            assert_eq!(told[2], name);
            // It is no event of the room.
            assert!(house.event(&story.room_id, &invite).await.is_none());
            assert!(house.room(&story.room_id).await.current().is_none());
        }
    })
    .await;
}

/// Bodies and event IDs of requests of which none may be taken.
fn wrong_invites(
    story: &mut Story,
    tip: &OwnedEventId,
) -> Vec<(&'static str, OwnedEventId, Value)> {
    let invite = story.write(&[tip], membership(bob(), alice(), "invite"));
    let good = story.json(&invite);
    let (version, server) = (story.version, bob().server_name());
    let with = |name, field: &str, value: Value| {
        let mut event = good.clone();
        *event.pointer_mut(field).unwrap() = value;
        let (id, event) = sealed(version, &event, server);
        (name, id, event)
    };
    let mut forged = good.clone();
    forged["signatures"]["127.0.0.1:1"]["ed25519:a"] = json!("A".repeat(86));
    let mut altered = good.clone();
    altered["content"]["displayname"] = json!("not what was hashed");
    let mut oversized = good.clone();
    oversized["content"]["displayname"] = json!("x".repeat(MAX_PDU_BYTES));
    let other_id = event_id!("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").to_owned();
    vec![
        with("type", "/type", json!("m.room.message")),
        with("membership", "/content/membership", json!("leave")),
        with("room", "/room_id", json!("!other:x.example")),
        with("sender", "/sender", json!(carol())),
        with("target", "/state_key", json!(carol())),
        with("no user", "/state_key", json!("alice")),
        ("signature", invite.clone(), forged),
        ("hash", invite.clone(), altered),
        ("size", invite.clone(), oversized),
        ("ID", other_id, good),
        ("nothing", invite, json!({})),
    ]
}

#[tokio::test]
async fn what_is_no_valid_invite_is_not_signed_and_not_kept() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for version in VERSIONS {
            let (mut story, tip) = foreign_room(version);
            let told = telling(&story, &tip);
            for (name, event_id, event) in wrong_invites(&mut story, &tip) {
                let asked = Asked {
                    origin: bob(),
                    room_id: &story.room_id,
                    event_id: &event_id,
                    body: json!({
                        "room_version": version.as_str(), "event": event, "invite_room_state": told,
                    }),
                };
                let answer = ask(&house, asked).await;
                assert!(
                    matches!(answer, Err(ServeError::InvalidParam(_))),
                    "{name}: {answer:?}"
                );
            }
            assert!(house.rooms.room(&story.room_id).await.unwrap().is_none());
        }
    })
    .await;
}

#[tokio::test]
async fn from_version_12_on_an_invite_has_to_prove_its_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let elsewhere = {
            let (other, tip) = foreign_room(RoomVersion::V11);
            telling(&other, &tip)
        };
        for version in VERSIONS {
            let (mut story, tip) = foreign_room(version);
            let mut told = telling(&story, &tip);
            told.retain(|event| event["type"] != "m.room.create");
            let invite = story.write(&[&tip], membership(bob(), alice(), "invite"));
            let stripped =
                json!({ "type": "m.room.create", "state_key": "", "sender": bob(), "content": {} });
            for told in [
                json!(told),
                json!([]),
                json!(null),
                json!([stripped]),
                json!(elsewhere),
            ] {
                let asked = Asked {
                    origin: bob(),
                    room_id: &story.room_id,
                    event_id: &invite,
                    body: json!({
                        "room_version": version.as_str(),
                        "event": story.json(&invite),
                        "invite_room_state": told,
                    }),
                };
                let answer = ask(&house, asked).await;
                let is_lenient = version != RoomVersion::V12;
                assert_eq!(answer.is_ok(), is_lenient, "{version} {told}");
                assert!(is_lenient || matches!(answer, Err(ServeError::InvalidParam(_))));
            }
            let unknown = Asked {
                origin: bob(),
                room_id: &story.room_id,
                event_id: &invite,
                body: json!({ "room_version": "none", "event": story.json(&invite) }),
            };
            let answer = ask(&house, unknown).await;
            let right = matches!(&answer, Err(ServeError::IncompatibleVersion(of)) if of == "none");
            assert!(right, "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_invite_can_be_declined_while_its_server_is_away() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = foreign_room(RoomVersion::V11);
        invites(
            &house,
            &mut story,
            &tip,
            membership(bob(), alice(), "invite"),
        )
        .await;
        let room_id = &story.room_id;
        let still = house.rooms.forget(alice(), room_id).await;
        assert!(matches!(still, Err(RoomError::StillInRoom(_))), "{still:?}");
        house
            .rooms
            .leave(alice(), room_id, Some("no".into()))
            .await
            .unwrap();
        assert!(house.was_asked(bob().server_name()).await);
        let left = known(&house, room_id, alice()).await.unwrap().event;
        assert_eq!(left.pdu.membership, Some(Membership::Leave));
        assert!(left.pdu.content.get().contains("\"no\""));
        assert!(rows(&house).await.is_empty(), "it is sent to nobody else");
        // Declining twice is no error, and nobody else was invited.
        house.rooms.leave(alice(), room_id, None).await.unwrap();
        let again = known(&house, room_id, alice()).await.unwrap().event;
        assert_eq!(again.pdu.event_id, left.pdu.event_id);
        let stranger = house.rooms.leave(dora(), room_id, None).await;
        assert!(
            matches!(stranger, Err(RoomError::Forbidden(_))),
            "{stranger:?}"
        );
        house.rooms.forget(alice(), room_id).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_invite_is_taken_back_by_whoever_made_it_and_by_nobody_else() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        for value in ["leave", "ban"] {
            let (mut story, tip) = foreign_room(RoomVersion::V10);
            let levels = json!({ "users": { bob().as_str(): 100, carol().as_str(): 100 } });
            let levels = state(bob(), "m.room.power_levels", "", levels);
            let joined = [
                levels,
                membership(bob(), carol(), "invite"),
                membership(carol(), carol(), "join"),
            ];
            let tip = story.chain(&tip, joined).pop().unwrap();
            let invite = invites(
                &house,
                &mut story,
                &tip,
                membership(bob(), dora(), "invite"),
            )
            .await;
            let by_carol = story.write(&[&invite], membership(carol(), dora(), value));
            let unrelated = story.write(&[&tip], membership(bob(), dora(), value));
            let by_bob = story.write(&[&invite], membership(bob(), dora(), value));
            let mut forged = story.json(&by_bob);
            forged["signatures"]["127.0.0.1:1"]["ed25519:a"] = json!("A".repeat(86));
            let pdus = vec![story.json(&by_carol), story.json(&unrelated), forged];
            house.transact(carol(), pdus).await.unwrap();
            let kept = known_membership(&house, &story.room_id, dora()).await;
            assert_eq!(kept, Some(Membership::Invite));
            house
                .transact(bob(), vec![story.json(&by_bob)])
                .await
                .unwrap();
            let kept = known(&house, &story.room_id, dora()).await.unwrap().event;
            assert_eq!(kept.pdu.event_id, by_bob);
        }
    })
    .await;
}

#[tokio::test]
async fn an_invite_to_a_room_that_this_server_is_in_counts_at_once() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let mut wish = wish("11");
        let levels = json!({ alice().as_str(): 100, bob().as_str(): 100 });
        wish.power_level_override.insert("users".into(), levels);
        let room_id = house.rooms.create(alice(), wish).await.unwrap();
        let mut story = house.story(&room_id).await;
        let start = house.tip(&room_id).await;
        let tip = house
            .says(&mut story, &[&start], membership(bob(), bob(), "join"))
            .await;
        let closed = state(
            bob(),
            "m.room.join_rules",
            "",
            json!({ "join_rule": "invite" }),
        );
        let tip = house.says(&mut story, &[&tip], closed).await;
        let refused = house
            .rooms
            .join(dora(), (&*room_id).into(), Vec::new(), Map::new())
            .await;
        assert!(
            matches!(refused, Err(RoomError::Forbidden(_))),
            "{refused:?}"
        );
        let invite = invites(
            &house,
            &mut story,
            &tip,
            membership(bob(), dora(), "invite"),
        )
        .await;
        assert_eq!(
            house.verdict(&story, &invite).await,
            Some(Verdict::Accepted)
        );
        assert!(known(&house, &room_id, dora()).await.is_none());
        house.join(&room_id, dora()).await;
        // It comes again, with the other events of the room.
        house.push_all(&story, bob(), &[invite]).await;
        let entries = house.current(&room_id).await;
        assert_eq!(
            entries[&("m.room.member".into(), dora().to_string())],
            house.tip(&room_id).await
        );
        // One that the room does not permit is not signed.
        let forbidden = story.write(&[&tip], membership(carol(), alice(), "invite"));
        let asked = Asked {
            origin: carol(),
            room_id: &room_id,
            event_id: &forbidden,
            body: json!({ "room_version": "11", "event": story.json(&forbidden) }),
        };
        let answer = ask(&house, asked).await;
        assert!(
            matches!(answer, Err(ServeError::Forbidden(_))),
            "{answer:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn who_is_invited_to_a_room_before_it_hears_of_that_asks_the_inviter() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let closed = state(
            bob(),
            "m.room.join_rules",
            "",
            json!({ "join_rule": "invite" }),
        );
        let tip = house.says(&mut story, &[&tip], closed).await;
        // The invite builds upon an event that this server has not got.
        let unseen = story.write(&[&tip], message(bob(), "not sent"));
        invites(
            &house,
            &mut story,
            &unseen,
            membership(bob(), dora(), "invite"),
        )
        .await;
        let room_id = &story.room_id;
        assert_eq!(
            known_membership(&house, room_id, dora()).await,
            Some(Membership::Invite)
        );
        let join = house
            .rooms
            .join(dora(), (&**room_id).into(), Vec::new(), Map::new())
            .await;
        // It cannot be reached, but it was asked: the room here alone would have said no.
        assert!(matches!(join, Err(RoomError::NoServer(_))), "{join:?}");
        assert!(house.was_asked(bob().server_name()).await);
        house.push_all(&story, bob(), &[unseen]).await;
        let invite = known(&house, room_id, dora())
            .await
            .unwrap()
            .event
            .pdu
            .event_id
            .clone();
        house.push_all(&story, bob(), &[invite]).await;
        assert!(known(&house, room_id, dora()).await.is_none());
        house.join(room_id, dora()).await;
    })
    .await;
}

#[tokio::test]
async fn users_of_this_server_join_restricted_rooms_by_the_same_conditions() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let hall = house.create("11").await;
        house.join(&hall, dora()).await;
        let elsewhere = room_id!("!elsewhere:127.0.0.1:1");
        let mut names = ["Dora", "Dora the Second"].into_iter();
        let carl = ruma::user_id!("@carl:x.example");
        for allow in [vec![&*hall], vec![elsewhere, &hall]] {
            let allow: Vec<_> = allow
                .into_iter()
                .map(|room_id| json!({ "type": "m.room_membership", "room_id": room_id }))
                .collect();
            let rules = json!({ "join_rule": "restricted", "allow": allow });
            let mut wish = wish("11");
            let rules = to_raw_value(&rules).unwrap();
            wish.initial_state
                .push(("m.room.join_rules".into(), String::new(), rules));
            let room_id = house.rooms.create(alice(), wish).await.unwrap();
            house.join(&room_id, dora()).await;
            let join = house.tip(&room_id).await;
            let join = house.event(&room_id, &join).await.unwrap();
            let content: Value = serde_json::from_str(join.pdu.content.get()).unwrap();
            assert_eq!(
                content["join_authorised_via_users_server"],
                alice().as_str()
            );
            let refused = house
                .rooms
                .join(carl, (&*room_id).into(), Vec::new(), Map::new())
                .await;
            assert!(
                matches!(refused, Err(RoomError::Forbidden(_))),
                "{refused:?}"
            );
            // A new name is no new join.
            crate::profiles::rename(&house, dora(), names.next().unwrap()).await;
            house.rooms.profile_changed();
            let renamed = async || house.tip(&room_id).await != join.pdu.event_id;
            crate::house::until(renamed).await;
            let renamed = house.tip(&room_id).await;
            let renamed = house.event(&room_id, &renamed).await.unwrap();
            assert!(!renamed.pdu.content.get().contains("join_authorised"));
        }
    })
    .await;
}

#[tokio::test]
async fn who_comes_back_or_declines_after_all_have_left_asks_those_who_were_there() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        let room_id = &story.room_id;
        let invite = house
            .rooms
            .set_membership(alice(), room_id, dora(), Membership::Invite, None);
        invite.await.unwrap();
        house.rooms.leave(alice(), room_id, None).await.unwrap();
        house.rooms.leave(alice(), room_id, None).await.unwrap();
        let before = house.timeline(room_id).await;
        house.rooms.leave(dora(), room_id, None).await.unwrap();
        // The room has gone on without us, so nothing is added to what is held of it.
        assert_eq!(house.timeline(room_id).await, before);
        let known = known(&house, room_id, dora()).await.unwrap();
        assert_eq!(known.event.pdu.membership, Some(Membership::Leave));
        assert_eq!(known.via, bob().server_name());
        let back = house
            .rooms
            .join(alice(), (&**room_id).into(), Vec::new(), Map::new());
        let back = back.await;
        assert!(matches!(back, Err(RoomError::NoServer(_))), "{back:?}");
        assert!(house.was_asked(carol().server_name()).await);
    })
    .await;
}
