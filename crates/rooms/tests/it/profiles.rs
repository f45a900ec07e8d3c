//! New display names and avatars in the rooms of their users.

use myelin_core::state::Membership;
use myelin_storage::{accounts, profiles, testing::on_each_engine};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::house::{House, alice, dora, until};

/// Changes the name of one of this server's users, as `users` does, and tells nobody.
pub(crate) async fn rename(house: &House, user: &'static UserId, name: &'static str) {
    house
        .write(move |tx| {
            Box::pin(async move {
                accounts::put(tx, user, None, false, 0).await?;
                profiles::set_display_name(tx, user, Some(name)).await?;
                profiles::note_change(tx, user).await
            })
        })
        .await;
}

async fn content(house: &House, room_id: &RoomId, user: &UserId) -> Value {
    let key = ("m.room.member".to_owned(), user.to_string());
    let id = house.current(room_id).await[&key].clone();
    let event = house.event(room_id, &id).await.unwrap();
    serde_json::from_str(event.pdu.content.get()).unwrap()
}

/// Waits until nobody's rooms have to be told.
async fn all_told(house: &House) {
    until(async || {
        let noted = house.read(|tx| Box::pin(async { profiles::changed(tx, "", 10).await }));
        noted.await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_new_name_reaches_the_rooms_that_the_user_is_in_and_brings_nobody_back() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let mut rooms = Vec::new();
        for _ in 0..5 {
            let room_id = house.create("11").await;
            house.join(&room_id, dora()).await;
            rooms.push(room_id);
        }
        let left = rooms.pop().unwrap();
        house.rooms.leave(dora(), &left, None).await.unwrap();
        let banned = rooms.pop().unwrap();
        let ban = Membership::Ban;
        let ban = house
            .rooms
            .set_membership(alice(), &banned, dora(), ban, None);
        ban.await.unwrap();
        rename(&house, dora(), "Dora").await;
        house.rooms.profile_changed();
        all_told(&house).await;
        for room_id in &rooms {
            let content = content(&house, room_id, dora()).await;
            assert_eq!(
                content,
                json!({ "membership": "join", "displayname": "Dora" })
            );
        }
        assert_eq!(content(&house, &left, dora()).await["membership"], "leave");
        assert_eq!(content(&house, &banned, dora()).await["membership"], "ban");
    })
    .await;
}

#[tokio::test]
async fn who_leaves_while_the_rooms_are_told_stays_out() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let mut rooms = Vec::new();
        for _ in 0..20 {
            let room_id = house.create("11").await;
            house.join(&room_id, dora()).await;
            rooms.push(room_id);
        }
        rename(&house, dora(), "Dora").await;
        house.rooms.profile_changed();
        // The last first: those that are told last have been left by then.
        for room_id in rooms.iter().rev() {
            house.rooms.leave(dora(), room_id, None).await.unwrap();
        }
        all_told(&house).await;
        for room_id in &rooms {
            assert_eq!(
                content(&house, room_id, dora()).await["membership"],
                "leave"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_name_that_was_changed_before_a_crash_reaches_the_rooms_after_it_and_each_once() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let told = house.create("11").await;
        let not_told = house.create("11").await;
        let mut content = Map::new();
        content.insert("displayname".into(), json!("Dora"));
        let join = house
            .rooms
            .join(dora(), (&*told).into(), Vec::new(), content);
        join.await.unwrap();
        house.join(&not_told, dora()).await;
        let before = house.tip(&told).await;
        rename(&house, dora(), "Dora").await;
        let house = house.restart().await;
        all_told(&house).await;
        let renamed = self::content(&house, &not_told, dora()).await;
        assert_eq!(renamed["displayname"], "Dora");
        assert_eq!(house.tip(&told).await, before);
    })
    .await;
}

#[tokio::test]
async fn the_last_of_several_names_is_the_one_that_stays() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id = house.create("11").await;
        house.join(&room_id, dora()).await;
        for name in ["D", "Do", "Dor", "Dora"] {
            rename(&house, dora(), name).await;
            house.rooms.profile_changed();
        }
        all_told(&house).await;
        let renamed = content(&house, &room_id, dora()).await;
        assert_eq!(renamed["displayname"], "Dora");
    })
    .await;
}
