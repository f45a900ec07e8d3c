//! Guests come into rooms that let them in, and leave when that ends (R109).

use myelin_core::{
    event::Verdict,
    number::{RoomNr, StreamPosition},
    state::Membership,
};
use myelin_rooms::{JoinContent, RoomError};
use myelin_storage::{guest_departures, testing::on_each_engine};
use ruma::{OwnedUserId, RoomId, UserId, user_id};
use serde_json::{Value, json};

use crate::{
    house::{House, alice, dora, until},
    joining::{bobs_room, offer, read_join, told_state},
    peers::Peers,
    story::{bob, mallory, state},
};

const GUEST_ACCESS: &str = "m.room.guest_access";

fn erin() -> &'static UserId {
    user_id!("@erin:x.example")
}

fn frank() -> &'static UserId {
    user_id!("@frank:x.example")
}

fn as_guest() -> JoinContent {
    JoinContent::from_iter([("kind".to_owned(), "guest".into())])
}

async fn come_as_guest(house: &House, room_id: &RoomId, user: &UserId) -> Result<(), RoomError> {
    let joining = house
        .rooms
        .join(user, room_id.into(), Vec::new(), as_guest());
    joining.await.map(drop)
}

async fn set_access(house: &House, room_id: &RoomId, content: Value) {
    let set = house.send(room_id, alice(), GUEST_ACCESS, Some(""), content);
    set.await.unwrap();
}

async fn open(house: &House, room_id: &RoomId) {
    set_access(house, room_id, json!({ "guest_access": "can_join" })).await;
}

async fn close(house: &House, room_id: &RoomId) {
    set_access(house, room_id, json!({ "guest_access": "forbidden" })).await;
}

/// The user's current membership: what it is, and who says so.
async fn standing(house: &House, room_id: &RoomId, user: &UserId) -> (Membership, OwnedUserId) {
    let key = ("m.room.member".to_owned(), user.to_string());
    let id = house.current(room_id).await[&key].clone();
    let pdu = house.event(room_id, &id).await.unwrap().pdu.clone();
    (pdu.membership.unwrap(), pdu.sender.clone())
}

async fn is(house: &House, room_id: &RoomId, user: &UserId, membership: Membership) -> bool {
    standing(house, room_id, user).await.0 == membership
}

/// Whether no guest has to leave any room any more.
async fn is_done(house: &House) -> bool {
    let all = StreamPosition(i64::MAX);
    let open = house.read(move |tx| Box::pin(guest_departures::open(tx, RoomNr(0), all, 1)));
    open.await.is_empty()
}

#[tokio::test]
async fn guests_come_only_into_rooms_that_let_guests_in() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        for content in [
            None,
            Some(json!({})),
            Some(json!({ "guest_access": 1 })),
            Some(json!({ "guest_access": "forbidden" })),
        ] {
            if let Some(content) = content {
                set_access(&house, &room_id, content).await;
            }
            let refused = come_as_guest(&house, &room_id, dora()).await;
            assert!(matches!(refused, Err(RoomError::NoGuests)), "{refused:?}");
            let join = json!({ "membership": "join", "kind": "guest" });
            let key = Some(dora().as_str());
            let refused = house.send(&room_id, dora(), "m.room.member", key, join);
            let refused = refused.await;
            assert!(matches!(refused, Err(RoomError::NoGuests)), "{refused:?}");
        }
        house.join(&room_id, erin()).await;
        open(&house, &room_id).await;
        come_as_guest(&house, &room_id, dora()).await.unwrap();
        assert!(is(&house, &room_id, dora(), Membership::Join).await);
    })
    .await;
}

#[tokio::test]
async fn when_a_room_is_closed_to_guests_they_leave_and_nobody_else_does() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        open(&house, &room_id).await;
        come_as_guest(&house, &room_id, dora()).await.unwrap();
        house.join(&room_id, erin()).await;
        let invite = json!({ "membership": "invite", "kind": "guest" });
        let key = Some(frank().as_str());
        let invite = house.send(&room_id, alice(), "m.room.member", key, invite);
        invite.await.unwrap();
        let other = house.create("11").await;
        open(&house, &other).await;
        come_as_guest(&house, &other, dora()).await.unwrap();
        close(&house, &room_id).await;
        for guest in [dora(), frank()] {
            until(async || is(&house, &room_id, guest, Membership::Leave).await).await;
            let (_, by) = standing(&house, &room_id, guest).await;
            assert_eq!(by, guest, "as by own choice");
        }
        until(async || is_done(&house).await).await;
        for user in [alice(), erin()] {
            assert!(is(&house, &room_id, user, Membership::Join).await);
        }
        assert!(is(&house, &other, dora(), Membership::Join).await);
    })
    .await;
}

#[tokio::test]
async fn who_comes_when_the_room_is_open_again_stays() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        open(&house, &room_id).await;
        come_as_guest(&house, &room_id, dora()).await.unwrap();
        close(&house, &room_id).await;
        open(&house, &room_id).await;
        come_as_guest(&house, &room_id, frank()).await.unwrap();
        until(async || is_done(&house).await).await;
        assert!(is(&house, &room_id, dora(), Membership::Leave).await);
        assert!(is(&house, &room_id, frank(), Membership::Join).await);
    })
    .await;
}

#[tokio::test]
async fn guests_leave_when_another_server_closes_the_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, _) = house.shared_room().await;
        let room_id = story.room_id.clone();
        open(&house, &room_id).await;
        come_as_guest(&house, &room_id, dora()).await.unwrap();
        house.tell(&mut story).await;
        let closed = json!({ "guest_access": "forbidden" });
        let tip = house.tip(&room_id).await;
        let words = state(mallory(), GUEST_ACCESS, "", closed.clone());
        let refused = house.says(&mut story, &[&tip], words).await;
        assert_eq!(
            house.verdict(&story, &refused).await,
            Some(Verdict::Rejected)
        );
        assert!(is_done(&house).await, "who may not close it closes nothing");
        let words = state(bob(), GUEST_ACCESS, "other", closed.clone());
        let beside = house.says(&mut story, &[&tip], words).await;
        assert_eq!(
            house.verdict(&story, &beside).await,
            Some(Verdict::Accepted)
        );
        assert!(is_done(&house).await, "this is about something else");
        assert!(is(&house, &room_id, dora(), Membership::Join).await);
        let closing = state(bob(), GUEST_ACCESS, "", closed);
        house.says(&mut story, &[&beside], closing).await;
        until(async || is(&house, &room_id, dora(), Membership::Leave).await).await;
        until(async || is_done(&house).await).await;
        assert!(is(&house, &room_id, bob(), Membership::Join).await);
    })
    .await;
}

#[tokio::test]
async fn guests_leave_a_partial_room_without_waiting_for_its_members() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let bobs = bob().server_name();
        let (mut story, tip) = bobs_room("partial");
        let room_id = story.room_id.clone();
        let opened = json!({ "guest_access": "can_join" });
        let tip = story.write(&[&tip], state(bob(), GUEST_ACCESS, "", opened));
        let mut told = told_state(&story, &tip);
        told["members_omitted"] = true.into();
        told["servers_in_room"] = json!([bobs]);
        offer(&peers, &story, &tip);
        peers.answer(bobs, "send_join", told);
        peers.silence(bobs, "state_ids");
        let via = vec![bobs.to_owned()];
        let target = (&*room_id).into();
        let joining = house.rooms.join(alice(), target, via, as_guest());
        Box::pin(joining).await.unwrap();
        let join = read_join(&peers, &mut story, 0).await;
        assert!(is(&house, &room_id, alice(), Membership::Join).await);
        let closing = json!({ "guest_access": "forbidden" });
        let closing = story.write(&[&join], state(bob(), GUEST_ACCESS, "", closing));
        house.push(&story, bob(), &[&closing]).await;
        until(async || is(&house, &room_id, alice(), Membership::Leave).await).await;
        assert!(house.room(&room_id).await.is_partial());
    })
    .await;
}

#[tokio::test]
async fn a_guest_whom_another_server_let_in_leaves_if_the_room_wants_none() {
    on_each_engine(|fresh| async move {
        let peers = Peers::default();
        let house = House::open_among(fresh, &peers).await;
        let bobs = bob().server_name();
        let (story, tip) = bobs_room("closed");
        let room_id = story.room_id.clone();
        offer(&peers, &story, &tip);
        peers.answer(bobs, "send_join", told_state(&story, &tip));
        let via = vec![bobs.to_owned()];
        let target = (&*room_id).into();
        let joining = house.rooms.join(alice(), target, via, as_guest());
        let refused = Box::pin(joining).await;
        assert!(matches!(refused, Err(RoomError::NoGuests)), "{refused:?}");
        until(async || is(&house, &room_id, alice(), Membership::Leave).await).await;
        let sent = peers.asked();
        let sent = sent.iter().rfind(|asked| asked.endpoint == "send_join");
        assert_eq!(sent.unwrap().body["content"]["kind"], "guest");
    })
    .await;
}

#[tokio::test]
async fn guests_who_have_not_left_when_the_server_stops_leave_when_it_starts() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        open(&house, &room_id).await;
        // More than are put out together.
        let guests: Vec<OwnedUserId> = (0..120)
            .map(|number| UserId::parse(format!("@guest{number}:x.example")).unwrap())
            .collect();
        for guest in &guests {
            come_as_guest(&house, &room_id, guest).await.unwrap();
        }
        close(&house, &room_id).await;
        let house = house.restart().await;
        until(async || is_done(&house).await).await;
        for guest in &guests {
            assert!(
                is(&house, &room_id, guest, Membership::Leave).await,
                "{guest}"
            );
        }
        assert!(is(&house, &room_id, alice(), Membership::Join).await);
    })
    .await;
}
