//! Servers that a room's access control list keeps out.

use myelin_core::event::Verdict;
use myelin_rooms::ServeError;
use myelin_storage::testing::on_each_engine;
use ruma::RoomId;
use serde_json::{Value, json};

use crate::{
    house::{House, alice},
    story::{bob, message},
};

async fn set_acl(house: &House, room_id: &RoomId, acl: Value) {
    let sent = house.send(room_id, alice(), "m.room.server_acl", Some(""), acl);
    sent.await.unwrap();
}

#[tokio::test]
async fn pdus_of_a_server_that_is_kept_out_are_refused_each_with_an_error() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let (mut open, other) = house.shared_room().await;
        // Bob's server has an address for a name.
        set_acl(&house, &story.room_id, json!({"allow": ["*.example"]})).await;
        house.tell(&mut story).await;
        let denied = ["one", "two"].map(|body| story.write(&[&tip], message(bob(), body)));
        let allowed = open.write(&[&other], message(bob(), "elsewhere"));
        let pdus = vec![
            story.json(&denied[0]),
            open.json(&allowed),
            story.json(&denied[1]),
        ];
        let answer = house.transact(bob(), pdus).await.unwrap();
        for id in &denied {
            let error = &answer["pdus"][id.as_str()]["error"];
            assert!(error.as_str().unwrap().contains("ACL"), "{answer}");
        }
        assert_eq!(answer["pdus"][allowed.as_str()], json!({}));
        house.settled(&open.room_id).await;
        assert_eq!(house.staged(&story.room_id).await, 0);
        assert_eq!(
            house.verdict(&open, &allowed).await,
            Some(Verdict::Accepted)
        );
        for id in &denied {
            assert_eq!(house.verdict(&story, id).await, None);
        }
        // The list counts as it is now.
        set_acl(&house, &story.room_id, json!({"allow": ["*"]})).await;
        house.push_all(&story, bob(), &denied).await;
        for id in &denied {
            assert_eq!(house.verdict(&story, id).await, Some(Verdict::Accepted));
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_kept_out_is_told_nothing_of_the_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (story, tip) = house.shared_room().await;
        let (rooms, room_id) = (&house.rooms, &story.room_id);
        let server = bob().server_name();
        let wanted = json!({"earliest_events": [], "latest_events": [tip]}).to_string();
        let ask_all = async || {
            [
                rooms.serve_event(server, &tip).await.map(drop),
                rooms.serve_state(server, room_id, &tip).await.map(drop),
                rooms.serve_state_ids(server, room_id, &tip).await.map(drop),
                rooms
                    .serve_event_auth(server, room_id, &tip)
                    .await
                    .map(drop),
                rooms
                    .serve_missing_events(server, room_id, wanted.as_bytes())
                    .await
                    .map(drop),
                rooms
                    .serve_backfill(server, room_id, vec![tip.clone()], 10)
                    .await
                    .map(drop),
            ]
        };
        let prepare_all = async || {
            let versions = [story.version.as_str().to_owned()];
            [
                rooms.make_join(server, room_id, bob(), &versions).await,
                rooms.make_leave(server, room_id, bob()).await,
            ]
        };
        for answer in ask_all().await {
            answer.unwrap();
        }
        for answer in prepare_all().await {
            answer.unwrap();
        }
        set_acl(
            &house,
            room_id,
            json!({"allow": ["*"], "allow_ip_literals": false}),
        )
        .await;
        for answer in ask_all().await {
            assert!(
                matches!(answer, Err(ServeError::Forbidden(_))),
                "{answer:?}"
            );
        }
        for answer in prepare_all().await {
            assert!(
                matches!(answer, Err(ServeError::Forbidden(_))),
                "{answer:?}"
            );
        }
    })
    .await;
}
