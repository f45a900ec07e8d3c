//! What users of this server do in rooms.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use myelin_core::{event::Verdict, state::Membership};
use myelin_rooms::{NewEvent, RoomError};
use myelin_storage::{
    client_transactions::ClientTransaction, rooms as room_table, testing::on_each_engine,
};
use ruma::{OwnedUserId, RoomId, UserId, room_id, user_id};
use serde_json::{Map, Value, json};

use crate::{
    house::{House, alice, dora, new_event},
    story::{self, bob, message, topic},
};

fn erin() -> &'static UserId {
    user_id!("@erin:x.example")
}

async fn set(
    house: &House,
    room_id: &RoomId,
    sender: &UserId,
    target: &UserId,
    membership: Membership,
) -> Result<(), RoomError> {
    let set = house
        .rooms
        .set_membership(sender, room_id, target, membership, None);
    set.await.map(drop)
}

/// What the current state says of a user.
async fn membership(house: &House, room_id: &RoomId, user: &UserId) -> Option<Membership> {
    let room = house.room(room_id).await;
    let state = room.current()?.state;
    state
        .get_named(&room.keys(), "m.room.member", user.as_str())?
        .membership()
}

#[tokio::test]
async fn an_event_follows_all_that_was_there_and_is_readable_when_it_was_sent() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let one = house.says(&mut story, &[&tip], topic(bob(), "one")).await;
        let other = house
            .says(&mut story, &[&tip], message(bob(), "other"))
            .await;
        let mut woken = house.rooms.waking().listen(alice());
        let mut not_woken = house.rooms.waking().listen(dora());
        let sent = house.say(&story.room_id, alice(), "hello").await;
        let event = house.event(&story.room_id, &sent).await.unwrap();
        let parents: BTreeSet<_> = event.pdu.prev_events.iter().cloned().collect();
        assert_eq!(parents, BTreeSet::from([one.clone(), other]));
        assert_eq!(event.pdu.depth, story.pdu(&one).depth + 1);
        assert_eq!(house.tip(&story.room_id).await, sent);
        let position = *woken.borrow_and_update();
        assert!(house.rooms.events_stream().readable() >= position);
        let myelin_core::event::Place::Timeline { position: own, .. } = event.place else {
            panic!("an outlier");
        };
        assert_eq!(own, position);
        assert!(!not_woken.has_changed().unwrap());
        // Who joins is woken, and wakes on from then.
        house.join(&story.room_id, dora()).await;
        assert!(not_woken.has_changed().unwrap());
        not_woken.borrow_and_update();
        house
            .says(&mut story, &[&tip], message(bob(), "hello dora"))
            .await;
        assert!(not_woken.has_changed().unwrap());
    })
    .await;
}

#[tokio::test]
async fn what_no_event_may_be_is_refused() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        let shown = house.timeline(&room_id).await;
        let send = |sender: &'static UserId, event_type: &'static str, key, content: Value| {
            let event = new_event(sender, event_type, key, &content);
            house.rooms.send(&room_id, event)
        };
        let refused = send(
            alice(),
            "m.room.message",
            None,
            json!({"body": "x".repeat(70_000)}),
        );
        assert!(matches!(refused.await, Err(RoomError::TooLarge(_))));
        let refused = send(alice(), "m.room.message", None, json!({"body": 1.5}));
        assert!(matches!(refused.await, Err(RoomError::BadJson(_))));
        let refused = send(alice(), "m.room.message", None, json!([]));
        assert!(matches!(refused.await, Err(RoomError::BadJson(_))));
        let refused = send(alice(), "m.room.member", Some(alice().as_str()), json!({}));
        assert!(matches!(refused.await, Err(RoomError::BadJson(_))));
        let refused = send(dora(), "m.room.message", None, json!({}));
        assert!(matches!(refused.await, Err(RoomError::Forbidden(_))));
        let nowhere = room_id!("!nowhere:x.example");
        let refused = house.send(nowhere, alice(), "m.room.message", None, json!({}));
        assert!(matches!(refused.await, Err(RoomError::NotFound(_))));
        assert_eq!(house.timeline(&room_id).await, shown);
    })
    .await;
}

#[tokio::test]
async fn state_that_says_nothing_new_is_not_sent_again() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        let topic = |text: &str| {
            let content = json!({ "topic": text });
            house.send(&room_id, alice(), "m.room.topic", Some(""), content)
        };
        let first = topic("a").await.unwrap();
        assert_eq!(topic("a").await.unwrap(), first);
        let second = topic("b").await.unwrap();
        assert_ne!(second, first);
        let third = topic("a").await.unwrap();
        assert_ne!(third, first);
        let shown = house.timeline(&room_id).await;
        assert!(shown.ends_with(&[first, second, third.clone()]));
        let house = house.restart().await;
        let content = json!({"topic": "a"});
        let again = house.send(&room_id, alice(), "m.room.topic", Some(""), content);
        assert_eq!(again.await.unwrap(), third);
    })
    .await;
}

fn repeatable(sender: &UserId, device: &str, id: &str) -> NewEvent {
    NewEvent {
        transaction: Some(ClientTransaction {
            device_id: device.to_owned(),
            path: format!("/send/{id}"),
        }),
        ..new_event(sender, "m.room.message", None, &json!({"body": id}))
    }
}

#[tokio::test]
async fn a_repeated_request_makes_one_event() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        house.join(&room_id, dora()).await;
        let before = house.timeline(&room_id).await.len();
        let same = || {
            house
                .rooms
                .send(&room_id, repeatable(alice(), "PHONE", "t"))
        };
        let ids: BTreeSet<_> = join_all((0..20).map(|_| same()))
            .await
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(ids.len(), 1);
        assert_eq!(house.timeline(&room_id).await.len(), before + 1);
        // Another device, another user, another ID: other events.
        for event in [
            repeatable(alice(), "LAPTOP", "t"),
            repeatable(dora(), "PHONE", "t"),
            repeatable(alice(), "PHONE", "u"),
        ] {
            let id = house.rooms.send(&room_id, event).await.unwrap();
            assert!(!ids.contains(&id));
        }
        let house = house.restart().await;
        let again = house
            .rooms
            .send(&room_id, repeatable(alice(), "PHONE", "t"))
            .await;
        assert!(ids.contains(&again.unwrap()));
    })
    .await;
}

#[tokio::test]
async fn members_come_and_go_as_the_rules_permit() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        house.join(&room_id, dora()).await;
        house.join(&room_id, erin()).await;
        let kicked = set(&house, &room_id, dora(), erin(), Membership::Leave).await;
        assert!(matches!(kicked, Err(RoomError::Forbidden(_))), "{kicked:?}");
        set(&house, &room_id, alice(), erin(), Membership::Leave)
            .await
            .unwrap();
        assert_eq!(
            membership(&house, &room_id, erin()).await,
            Some(Membership::Leave)
        );
        house.join(&room_id, erin()).await;
        set(&house, &room_id, alice(), erin(), Membership::Ban)
            .await
            .unwrap();
        let back = house
            .rooms
            .join(erin(), (&*room_id).into(), Vec::new(), Map::new())
            .await;
        assert!(matches!(back, Err(RoomError::Forbidden(_))), "{back:?}");
        set(&house, &room_id, alice(), erin(), Membership::Leave)
            .await
            .unwrap();
        house.join(&room_id, erin()).await;
        house.rooms.leave(dora(), &room_id, None).await.unwrap();
        house.rooms.leave(dora(), &room_id, None).await.unwrap();
        let never = house
            .rooms
            .leave(user_id!("@frank:x.example"), &room_id, None)
            .await;
        assert!(matches!(never, Err(RoomError::Forbidden(_))), "{never:?}");
        let said = house
            .send(&room_id, dora(), "m.room.message", None, json!({}))
            .await;
        assert!(matches!(said, Err(RoomError::Forbidden(_))), "{said:?}");
        let house = house.restart().await;
        for (user, expected) in [
            (alice(), Membership::Join),
            (dora(), Membership::Leave),
            (erin(), Membership::Join),
        ] {
            assert_eq!(membership(&house, &room_id, user).await, Some(expected));
            let rows = house.read(move |tx| Box::pin(room_table::memberships_of_user(tx, user)));
            assert_eq!(rows.await[0].membership, expected.name());
        }
    })
    .await;
}

#[tokio::test]
async fn a_foreign_moderator_removes_a_local_user() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, _) = house.shared_room().await;
        house.join(&story.room_id, dora()).await;
        house.tell(&mut story).await;
        let tip = house.tip(&story.room_id).await;
        let mut woken = house.rooms.waking().listen(dora());
        let ban = story::membership(bob(), dora(), "ban");
        house.says(&mut story, &[&tip], ban).await;
        // She learns of it, and of nothing after it.
        assert!(woken.has_changed().unwrap());
        woken.borrow_and_update();
        let said = house
            .send(&story.room_id, dora(), "m.room.message", None, json!({}))
            .await;
        assert!(matches!(said, Err(RoomError::Forbidden(_))), "{said:?}");
        house.say(&story.room_id, alice(), "gone").await;
        assert!(!woken.has_changed().unwrap());
        let rows = house.read(|tx| Box::pin(room_table::memberships_of_user(tx, dora())));
        assert_eq!(rows.await[0].membership, "ban");
    })
    .await;
}

#[tokio::test]
async fn events_sent_at_once_share_commits_and_are_one_after_the_other() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        let users: Vec<OwnedUserId> = (0..10)
            .map(|n| UserId::parse(format!("@user{n}:x.example")).unwrap())
            .collect();
        for user in &users {
            house.join(&room_id, user).await;
        }
        let before = house.timeline(&room_id).await.len();
        let revision = revision(&house, &room_id).await;
        let sends = (0..300).map(|n| {
            let user = &users[n % users.len()];
            let event = new_event(
                user,
                "m.room.message",
                None,
                &json!({"body": n.to_string()}),
            );
            let (rooms, room_id) = (house.rooms.clone(), room_id.clone());
            let tasks = house.fresh.env.tasks.clone();
            let send = async move {
                let sent = rooms.send(&room_id, event).await;
                (sent, tasks.count("send events"))
            };
            house.fresh.env.tasks.spawn("send", send)
        });
        let sent = join_all(sends.collect::<Vec<_>>()).await.into_iter();
        let (sent, running): (Vec<_>, Vec<_>) = sent.map(Result::unwrap).unzip();
        let sent: BTreeSet<_> = sent.into_iter().map(Result::unwrap).collect();
        assert_eq!(sent.len(), 300);
        // Those who are taken along leave nobody behind who waits for the turn in vain.
        let most = running.into_iter().max();
        assert!(most <= Some(3), "{most:?} tasks sent what waited");
        let shown = house.timeline(&room_id).await;
        assert_eq!(
            shown[before..].iter().cloned().collect::<BTreeSet<_>>(),
            sent
        );
        for pair in shown.windows(2) {
            let event = house.event(&room_id, &pair[1]).await.unwrap();
            assert_eq!(event.pdu.prev_events, pair[..1]);
        }
        let commits = self::revision(&house, &room_id).await - revision;
        assert!(commits <= 30, "{commits} commits for 300 events");
    })
    .await;
}

async fn revision(house: &House, room_id: &RoomId) -> i64 {
    let room_id = room_id.to_owned();
    let row = house
        .read(move |tx| Box::pin(async move { room_table::by_id(tx, &room_id).await }))
        .await;
    row.unwrap().revision
}

#[tokio::test]
async fn after_a_restart_numbers_positions_and_state_go_on() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let name = json!({"name": "before"});
        house
            .send(&story.room_id, alice(), "m.room.name", Some(""), name)
            .await
            .unwrap();
        let current = house.current(&story.room_id).await;
        let shown = house.timeline(&story.room_id).await;
        let readable = house.rooms.events_stream().readable();
        let house = house.restart().await;
        assert_eq!(house.current(&story.room_id).await, current);
        assert_eq!(house.timeline(&story.room_id).await, shown);
        assert!(house.rooms.events_stream().readable() <= readable);
        let last = house
            .event(&story.room_id, shown.last().unwrap())
            .await
            .unwrap();
        let ours = house.say(&story.room_id, alice(), "after").await;
        let theirs = house
            .says(&mut story, &[&tip], message(bob(), "after, too"))
            .await;
        let second = house.create("11").await;
        assert_eq!(
            house.verdict(&story, &theirs).await,
            Some(Verdict::Accepted)
        );
        for id in [&ours, &theirs] {
            let event = house.event(&story.room_id, id).await.unwrap();
            assert!(event.nr > last.nr);
        }
        let all = house.timeline(&story.room_id).await;
        assert_eq!(all[..shown.len()], shown);
        assert_eq!(all[shown.len()..], [ours, theirs]);
        assert!(house.room(&second).await.key.room > house.room(&story.room_id).await.key.room);
    })
    .await;
}

#[tokio::test]
async fn who_a_resolution_puts_out_of_the_room_is_seen_to_be_gone() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        house.join(&story.room_id, dora()).await;
        house.tell(&mut story).await;
        let mut woken = house.rooms.waking().listen(dora());
        // Written before she came, and late.
        let closed = story::state(
            bob(),
            "m.room.join_rules",
            "",
            json!({"join_rule": "invite"}),
        );
        let closed = house.says(&mut story, &[&tip], closed).await;
        assert_eq!(
            house.verdict(&story, &closed).await,
            Some(Verdict::Accepted)
        );
        assert_eq!(membership(&house, &story.room_id, dora()).await, None);
        let of_dora = async |house: &House| {
            let rooms = house.read(|tx| Box::pin(room_table::memberships_of_user(tx, dora())));
            let rooms = rooms.await;
            assert_eq!(rooms.len(), 1);
            rooms[0].clone()
        };
        let gone = of_dora(&house).await;
        assert_eq!(gone.membership, "leave");
        assert_eq!(*woken.borrow_and_update(), gone.position);
        let room = house.room(&story.room_id).await;
        assert!(!room.local_users().contains(&dora().to_owned()));
        let refused = house.send(&story.room_id, dora(), "m.room.message", None, json!({}));
        assert!(matches!(refused.await, Err(RoomError::Forbidden(_))));
    })
    .await;
}
