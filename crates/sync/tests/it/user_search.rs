//! Users found by their names, and by whom.

use myelin_storage::{params, testing::on_each_engine};
use myelin_sync::UserSearchRequest;
use ruma::{OwnedRoomId, RoomId, UserId, user_id};
use serde_json::{Value, json};

use crate::house::{House, alice, bob, carol, viewer};

fn dora() -> &'static UserId {
    user_id!("@dora:x.example")
}

async fn search(house: &House, user: &UserId, term: &str, limit: Option<u64>) -> Value {
    let request = UserSearchRequest {
        viewer: viewer(user),
        search_term: term.to_owned(),
        limit,
    };
    let found = house.sync.search_users(&request).await.unwrap();
    serde_json::to_value(found).unwrap()
}

/// The localparts of those whom a user finds, in order.
async fn found(house: &House, user: &UserId, term: &str) -> Vec<String> {
    let found = search(house, user, term, None).await;
    assert_eq!(found["limited"], false);
    localparts(&found)
}

fn localparts(found: &Value) -> Vec<String> {
    let results = found["results"].as_array().unwrap().iter();
    let localpart = |user: &Value| {
        let user = <&UserId>::try_from(user["user_id"].as_str().unwrap()).unwrap();
        user.localpart().to_owned()
    };
    results.map(localpart).collect()
}

/// A room of alice's where one has to be invited.
async fn private_room(house: &House) -> OwnedRoomId {
    let room = house.room().await;
    let rules = json!({"join_rule": "invite"});
    house
        .send(&room, alice(), "m.room.join_rules", Some(""), rules)
        .await;
    room
}

async fn invite_and_join(house: &House, room: &RoomId, user: &UserId) {
    let invite = myelin_core::state::Membership::Invite;
    house.set_membership(room, user, invite).await;
    house.join(room, user).await;
}

async fn call(house: &House, room: &RoomId, user: &UserId, name: &str) {
    let content =
        json!({"membership": "join", "displayname": name, "avatar_url": "mxc://x.example/a"});
    house
        .send(room, user, "m.room.member", Some(user.as_str()), content)
        .await;
}

#[tokio::test]
async fn users_are_found_by_the_beginnings_of_their_names_whole_names_first() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = private_room(&house).await;
        for user in [bob(), carol(), dora()] {
            invite_and_join(&house, &room, user).await;
        }
        call(&house, &room, carol(), "Bobby Tables").await;
        call(&house, &room, dora(), "Émile Zola").await;
        let cases: [(&str, &[&str]); 14] = [
            ("bob", &["bob", "carol"]),
            ("BOBBY", &["carol"]),
            ("tab b", &["carol"]),
            ("tables zola", &[]),
            ("ables", &[]),
            ("émi", &["dora"]),
            ("car", &["carol"]),
            ("@car", &["carol"]),
            ("@carol:x.example", &["carol"]),
            ("@carol:y", &[]),
            ("@bobby", &[]),
            // Nobody is called by the name of a server.
            ("example", &[]),
            ("al", &["alice"]),
            (" ' & | !l ", &[]),
        ];
        for (term, expected) in cases {
            assert_eq!(found(&house, alice(), term).await, expected, "{term}");
        }
        let answer = search(&house, alice(), "zola", None).await;
        let expected = json!({
            "user_id": dora(), "display_name": "Émile Zola", "avatar_url": "mxc://x.example/a",
        });
        assert_eq!(answer, json!({"results": [expected], "limited": false}));
        let answer = search(&house, alice(), "b", Some(1)).await;
        assert_eq!(
            (localparts(&answer).len(), &answer["limited"]),
            (1, &json!(true))
        );
        let none = json!({"results": [], "limited": false});
        assert_eq!(search(&house, alice(), "b", Some(0)).await, none);
        assert_eq!(search(&house, alice(), " ", None).await, none);
    })
    .await;
}

#[tokio::test]
async fn only_who_shares_a_room_or_is_in_a_public_one_is_found() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let private = private_room(&house).await;
        invite_and_join(&house, &private, bob()).await;
        let open = house.room().await;
        house.join(&open, carol()).await;
        // Alice and bob share a room; carol is in a public one; dora in none.
        for (asker, term, expected) in [
            (alice(), "bob", &["bob"][..]),
            (bob(), "bob", &["bob"]),
            (carol(), "bob", &[]),
            (dora(), "bob", &[]),
            (dora(), "carol", &["carol"]),
            (dora(), "alice", &["alice"]),
            (dora(), "dora", &[]),
        ] {
            assert_eq!(found(&house, asker, term).await, expected, "{asker} {term}");
        }
        // The public room closes, and then its doors are glass.
        let rules = json!({"join_rule": "invite"});
        house
            .send(&open, alice(), "m.room.join_rules", Some(""), rules)
            .await;
        assert!(found(&house, dora(), "carol").await.is_empty());
        let visibility = json!({"history_visibility": "world_readable"});
        let kind = "m.room.history_visibility";
        house.send(&open, alice(), kind, Some(""), visibility).await;
        assert_eq!(found(&house, dora(), "carol").await, ["carol"]);
        // Who left is not there any more.
        house.leave(&open, carol()).await;
        assert!(found(&house, dora(), "carol").await.is_empty());
        house.leave(&private, bob()).await;
        assert!(found(&house, alice(), "bob").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn nobody_learns_what_somebody_is_called_in_a_room_of_others() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let open = house.room().await;
        house.join(&open, bob()).await;
        call(&house, &open, bob(), "Robert").await;
        let private = private_room(&house).await;
        invite_and_join(&house, &private, bob()).await;
        call(&house, &private, bob(), "Secret Agent").await;
        assert_eq!(found(&house, alice(), "secret").await, ["bob"]);
        assert!(found(&house, dora(), "secret").await.is_empty());
        let answer = search(&house, dora(), "bob", None).await;
        assert_eq!(answer["results"][0]["display_name"], "Robert");
    })
    .await;
}

#[tokio::test]
async fn who_closed_their_account_is_not_found_though_a_room_has_not_heard_of_it() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        house.register(bob()).await;
        let room = house.room().await;
        house.join(&room, bob()).await;
        assert_eq!(found(&house, alice(), "bob").await, ["bob"]);
        let close =
            house
                .fresh
                .database
                .write("close", myelin_storage::Priority::Interactive, |tx| {
                    Box::pin(async move { myelin_storage::accounts::close(tx, bob(), false).await })
                });
        close.await.unwrap();
        assert!(found(&house, alice(), "bob").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn members_of_rooms_from_before_there_was_a_directory_are_found() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room = house.room().await;
        for number in 0..250 {
            let user = UserId::parse(format!("@member{number}:x.example")).unwrap();
            house.join(&room, &user).await;
        }
        assert_eq!(found(&house, alice(), "member249").await, ["member249"]);
        let forget = house.fresh.database.write("forget", myelin_storage::Priority::Interactive, |tx| {
            Box::pin(async move {
                for sql in [
                    "DELETE FROM directory_words WHERE rowid IN (SELECT number FROM directory_users)",
                    "DELETE FROM directory_users",
                    "DELETE FROM directory_rooms",
                    "DELETE FROM settings WHERE name = 'directory_cursor'",
                ] {
                    tx.execute(sql, params![]).await?;
                }
                Ok::<(), myelin_storage::StorageError>(())
            })
        });
        forget.await.unwrap();
        assert_eq!(found(&house, alice(), "member0").await, ["member0"]);
        let page = search(&house, alice(), "m", Some(1_000)).await;
        assert_eq!((localparts(&page).len(), &page["limited"]), (50, &json!(true)));
    })
    .await;
}
