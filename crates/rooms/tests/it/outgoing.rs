//! Whom events of this server are for, while none of them can be reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice::from_ref,
    time::Duration,
};

use myelin_core::{
    event::Place,
    number::{SnapshotNr, StreamPosition},
    state::Membership,
};
use myelin_rooms::thin_outbox;
use myelin_storage::{
    outbox::{self, OutboxRow},
    testing::on_each_engine,
};
use ruma::{OwnedEventId, RoomId, user_id};

use crate::{
    house::{House, alice, dora, until},
    story::{bob, mallory, membership, message},
};

pub(crate) async fn rows(house: &House) -> Vec<OutboxRow> {
    house
        .read(|tx| Box::pin(outbox::after(tx, StreamPosition(0), 1_000)))
        .await
}

/// Waits until nobody needs anything of the outbox.
async fn drained(house: &House) {
    until(async || rows(house).await.is_empty()).await;
}

/// The receivers of each event in the outbox.
async fn receivers(house: &House, room_id: &RoomId) -> BTreeMap<OwnedEventId, BTreeSet<String>> {
    let room = house.room(room_id).await;
    let mut receivers = BTreeMap::new();
    for row in rows(house).await {
        let held = room.events(&house.rooms, [row.event]).await.unwrap();
        let state = room.state(&house.rooms, row.snapshot).await.unwrap();
        let servers = state.servers().map(|(name, _)| name.to_string());
        let all = servers
            .chain(row.further)
            .filter(|name| name != "x.example");
        let id = held[&row.event].pdu.event_id.clone();
        receivers.insert(id, all.collect());
    }
    receivers
}

fn servers(numbers: &[u8]) -> BTreeSet<String> {
    numbers.iter().map(|n| format!("127.0.0.1:{n}")).collect()
}

/// Waits until every server that is not there has been tried.
async fn cursors(house: &House, of: usize) -> Vec<(String, StreamPosition)> {
    let read = async || house.read(|tx| Box::pin(outbox::cursors(tx))).await;
    until(async || read().await.len() >= of).await;
    read().await
}

#[tokio::test]
async fn what_is_said_where_only_this_servers_users_are_is_not_queued() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, _) = house.shared_room().await;
        // As long as servers are behind, nothing that is queued after their cursors goes.
        let shared = house.say(&story.room_id, alice(), "for all").await;
        cursors(&house, 3).await;
        let own = house.create("11").await;
        house.join(&own, dora()).await;
        let alone = house.say(&own, alice(), "for dora").await;
        let queued = rows(&house).await;
        let is_queued = |nr| queued.iter().any(|row| row.event == nr);
        for (room_id, said, expected) in [(&story.room_id, shared, true), (&own, alone, false)] {
            let event = house.event(room_id, &said).await.unwrap();
            assert_eq!(is_queued(event.nr), expected, "{said}");
        }
    })
    .await;
}

#[tokio::test]
async fn events_of_this_server_go_to_the_servers_in_the_room_before_them() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let room_id = story.room_id.clone();
        // Nobody else was there when the room was made, and others send their own events.
        drained(&house).await;
        let said = house.say(&room_id, alice(), "hello").await;
        let kick =
            house
                .rooms
                .set_membership(alice(), &room_id, mallory(), Membership::Leave, None);
        let kick = kick.await.unwrap();
        let after = house.say(&room_id, alice(), "mallory is gone").await;
        house.join(&room_id, dora()).await;
        let found = receivers(&house, &room_id).await;
        assert_eq!(found[&said], servers(&[1, 2, 3]));
        assert_eq!(found[&kick], servers(&[1, 2, 3]));
        assert_eq!(found[&after], servers(&[1, 2]));
        // Who is only the target is told as well.
        let ban = house
            .rooms
            .set_membership(alice(), &room_id, mallory(), Membership::Ban, None);
        let ban = ban.await.unwrap();
        house.tell(&mut story).await;
        let theirs = story.write(&[&tip], message(bob(), "hi"));
        house.push_all(&story, bob(), from_ref(&theirs)).await;
        let found = receivers(&house, &room_id).await;
        assert_eq!(found[&ban], servers(&[1, 2, 3]));
        assert!(!found.contains_key(&theirs));
    })
    .await;
}

#[tokio::test]
async fn who_was_invited_is_told_that_the_invite_is_taken_back() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let room_id = story.room_id.clone();
        let erin = user_id!("@erin:127.0.0.1:4");
        house
            .says(&mut story, &[&tip], membership(bob(), erin, "invite"))
            .await;
        let said = house.say(&room_id, alice(), "she is not here yet").await;
        let rooms = &house.rooms;
        let taken_back = rooms.set_membership(alice(), &room_id, erin, Membership::Leave, None);
        let taken_back = taken_back.await.unwrap();
        // Of the end of a ban she hears nothing: it would undo the next invite if it came after it.
        let ban = rooms.set_membership(alice(), &room_id, erin, Membership::Ban, None);
        let ban = ban.await.unwrap();
        let unban = rooms.set_membership(alice(), &room_id, erin, Membership::Leave, None);
        let unban = unban.await.unwrap();
        let found = receivers(&house, &room_id).await;
        for event in [taken_back, ban] {
            assert_eq!(found[&event], servers(&[1, 2, 3, 4]));
        }
        for event in [said, unban] {
            assert_eq!(found[&event], servers(&[1, 2, 3]));
        }
    })
    .await;
}

#[tokio::test]
async fn a_room_without_other_servers_leaves_nothing_in_the_outbox() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        for n in 0..20 {
            house.say(&room_id, alice(), &n.to_string()).await;
        }
        drained(&house).await;
        assert!(cursors(&house, 0).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_servers_miss_while_they_are_away_is_kept_over_a_restart() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, _) = house.shared_room().await;
        let room_id = story.room_id.clone();
        let first = house.say(&room_id, alice(), "are you there?").await;
        let before = cursors(&house, 3).await;
        let names: BTreeSet<String> = before.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, servers(&[1, 2, 3]));
        // Nobody waits for them.
        let second = house.say(&room_id, alice(), "anybody?").await;
        house.tell(&mut story).await;
        let gone = membership(mallory(), mallory(), "leave");
        house.says(&mut story, &[&second], gone).await;
        let third = house.say(&room_id, alice(), "well").await;
        let house = house.restart().await;
        assert_eq!(cursors(&house, 3).await, before);
        let found = receivers(&house, &room_id).await;
        assert_eq!(found.len(), 3);
        assert_eq!(found[&first], servers(&[1, 2, 3]));
        assert_eq!(found[&second], servers(&[1, 2, 3]));
        assert_eq!(found[&third], servers(&[1, 2]));
        let oldest = rows(&house).await[0].position;
        assert!(before.iter().all(|(_, cursor)| *cursor < oldest));
    })
    .await;
}

#[tokio::test]
async fn of_what_servers_missed_for_long_the_last_of_each_room_is_kept() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (_, _) = house.shared_room().await;
        let (story, _) = house.shared_room().await;
        let room_id = story.room_id.clone();
        let ids = async || -> BTreeSet<OwnedEventId> {
            receivers(&house, &room_id).await.into_keys().collect()
        };
        let thinned = async || {
            let (env, database) = (house.rooms.env().clone(), house.rooms.database().clone());
            thin_outbox(env, database).await.unwrap();
            ids().await
        };
        let all = BTreeSet::from([
            house.say(&room_id, alice(), "one").await,
            house.say(&room_id, alice(), "two").await,
        ]);
        cursors(&house, 3).await;
        assert_eq!(thinned().await, all, "they may be back at once");
        // Whom it removes may hear of nothing later.
        let kick =
            house
                .rooms
                .set_membership(alice(), &room_id, mallory(), Membership::Leave, None);
        let kick = kick.await.unwrap();
        let last = house.say(&room_id, alice(), "three").await;
        house
            .rooms
            .env()
            .clock
            .advance(Duration::from_secs(2 * 3600));
        let kept = BTreeSet::from([kick.clone(), last]);
        until(async || thinned().await == kept).await;
        let newer = house.say(&room_id, alice(), "four").await;
        let kept = BTreeSet::from([kick, newer]);
        until(async || thinned().await == kept).await;
    })
    .await;
}

#[tokio::test]
async fn a_row_of_the_outbox_that_cannot_be_read_holds_up_no_others() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        drained(&house).await;
        let theirs = house.says(&mut story, &[&tip], message(bob(), "hi")).await;
        let event = house.event(&story.room_id, &theirs).await.unwrap();
        let Place::Timeline { position, .. } = event.place else {
            panic!("it is in the timeline");
        };
        let row = OutboxRow {
            position,
            event: event.nr,
            room: house.room(&story.room_id).await.key.room,
            snapshot: SnapshotNr(1_000_000),
            further: Vec::new(),
            made_ms: 0,
        };
        house
            .write(move |tx| Box::pin(async move { outbox::put(tx, &row).await }))
            .await;
        let said = house.say(&story.room_id, alice(), "hello").await;
        let behind = cursors(&house, 3).await;
        let own = rows(&house).await;
        let own = own.last().unwrap();
        assert_eq!(
            house.event(&story.room_id, &said).await.unwrap().nr,
            own.event
        );
        assert!(behind.iter().all(|(_, cursor)| *cursor < own.position));
    })
    .await;
}
