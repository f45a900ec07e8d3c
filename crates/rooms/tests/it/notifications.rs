//! Who is told of the events of other servers.

use std::slice::from_ref;

use myelin_core::{event::Verdict, number::StreamPosition, state::Membership};
use myelin_storage::{
    notifications::{self, Unread},
    testing::{Fresh, on_each_engine},
};
use ruma::{RoomId, UserId};
use serde_json::{Map, json};

use crate::{
    house::{House, alice, dora},
    story::{bob, carol, message},
};

impl House {
    /// Of how many events a user was told that it has not read.
    pub(crate) async fn unread(&self, room_id: &RoomId, user: &UserId) -> u64 {
        let (nr, user) = (self.room(room_id).await.key.room, user.to_owned());
        let unread = self.read(move |tx| {
            let (none, all) = (StreamPosition(0), StreamPosition(i64::MAX));
            Box::pin(async move { notifications::unread(tx, nr, &user, none, all).await })
        });
        let unread = unread.await.into_values();
        unread.fold(Unread::NONE, Unread::and).notifications
    }

    async fn dora_joins(&self, room_id: &RoomId) {
        self.rooms
            .join(dora(), room_id.into(), Vec::new(), Map::new())
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn what_others_say_elsewhere_is_told_unless_it_was_not_accepted() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let room = story.room_id.clone();
        assert_eq!(house.unread(&room, alice()).await, 0);
        let said = house
            .says(&mut story, &[&tip], message(carol(), "hello"))
            .await;
        assert_eq!(house.unread(&room, alice()).await, 1);
        house
            .rooms
            .set_membership(alice(), &room, carol(), Membership::Ban, None)
            .await
            .unwrap();
        house.tell(&mut story).await;
        let ban = house.tip(&room).await;
        // Her ban was a word of alice's.
        assert_eq!(house.unread(&room, alice()).await, 0);
        let late = story.write(from_ref(&&said), message(carol(), "as if I knew nothing"));
        let never = story.write(&[&ban], message(carol(), "nevertheless"));
        story.is_rejected(&never);
        for (id, verdict) in [(late, Verdict::SoftFailed), (never, Verdict::Rejected)] {
            house.push_all(&story, carol(), from_ref(&id)).await;
            assert_eq!(house.verdict(&story, &id).await, Some(verdict));
            assert_eq!(house.unread(&room, alice()).await, 0, "{verdict:?}");
        }
    })
    .await;
}

/// How many events dora is told of: one from before she came, which comes after she did, and the next.
async fn told_late(fresh: Fresh, visibility: &str) -> [u64; 2] {
    let house = House::open(fresh).await;
    let (mut story, _) = house.shared_room().await;
    let room = story.room_id.clone();
    let content = json!({ "history_visibility": visibility });
    let history = "m.room.history_visibility";
    house
        .send(&room, alice(), history, Some(""), content)
        .await
        .unwrap();
    house.tell(&mut story).await;
    let before = house.tip(&room).await;
    house.dora_joins(&room).await;
    house.tell(&mut story).await;
    let late = message(bob(), "before dora came");
    house.says(&mut story, &[&before], late).await;
    assert_eq!(house.unread(&room, alice()).await, 1);
    let first = house.unread(&room, dora()).await;
    let tips: Vec<_> = house.extremities(&room).await.into_iter().collect();
    let next = message(bob(), "now that she is here");
    let tips: Vec<_> = tips.iter().collect();
    house.says(&mut story, &tips, next).await;
    [first, house.unread(&room, dora()).await]
}

#[tokio::test]
async fn who_may_not_see_what_comes_late_is_not_told_of_it() {
    on_each_engine(|fresh| async move {
        assert_eq!(told_late(fresh, "joined").await, [0, 1]);
    })
    .await;
}

#[tokio::test]
async fn who_may_see_what_comes_late_is_told_of_it() {
    on_each_engine(|fresh| async move {
        assert_eq!(told_late(fresh, "shared").await, [1, 2]);
    })
    .await;
}

#[tokio::test]
async fn a_count_is_there_after_a_restart() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, tip) = house.shared_room().await;
        let room = story.room_id.clone();
        house
            .says(&mut story, &[&tip], message(bob(), "hello"))
            .await;
        let house = house.restart().await;
        assert_eq!(house.unread(&room, alice()).await, 1);
    })
    .await;
}
