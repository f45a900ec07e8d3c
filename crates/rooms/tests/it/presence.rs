//! Who is there: what follows from what devices and other servers say.

use std::time::Duration;

use myelin_core::{number::StreamPosition, state::Membership};
use myelin_env::Clock;
use myelin_rooms::{PresenceState, RoomError, UserPresence};
use myelin_storage::{outbox, testing::on_each_engine};
use ruma::{OwnedUserId, RoomId, ServerName, UserId, user_id};
use serde_json::{Value, json};

use crate::{
    house::{House, alice, dora, until},
    story::{bob, carol, foreign_servers, membership},
};

const PHONE: &str = "PHONE";

impl House {
    /// How a user is, by its own word.
    async fn is(&self, user: &UserId) -> UserPresence {
        self.rooms.presence_of(user, user).await.unwrap()
    }

    async fn says_of_itself(&self, user: &UserId, state: PresenceState, words: Option<&str>) {
        let words = words.map(str::to_owned);
        let set = self.rooms.set_presence((user, PHONE), state, words);
        set.await.unwrap();
    }

    /// Lets time pass, and what is due happen.
    async fn wind(&self, seconds: u64) {
        for _ in 0..seconds {
            self.fresh.env.clock.advance(Duration::from_secs(1));
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Winds until a user is as wanted; for how many seconds.
    async fn until_is(&self, user: &UserId, wanted: impl Fn(&UserPresence) -> bool) -> u64 {
        let begun = self.fresh.env.clock.now_ms();
        while !wanted(&self.is(user).await) {
            self.wind(1).await;
        }
        (self.fresh.env.clock.now_ms() - begun) / 1_000
    }

    async fn hears(&self, origin: &ServerName, push: Value) {
        let content = json!({ "push": push });
        self.receive(origin, "m.presence", &content).await;
    }

    /// Whether alice sees that a user of another server is online.
    async fn sees(&self, user: &UserId) -> bool {
        let seen = self.rooms.presence_of(user, alice()).await;
        seen.is_ok_and(|seen| seen.presence == PresenceState::Online)
    }

    /// Who changed after a position, as alice sees it.
    async fn changed(&self, after: StreamPosition) -> (Vec<OwnedUserId>, StreamPosition) {
        let changed = self.rooms.presence_after(alice(), after, 100, |_| true);
        let (changed, upto) = changed.await.unwrap();
        (changed.into_iter().map(|(user, _)| user).collect(), upto)
    }
}

fn online(user: &UserId) -> Value {
    json!({ "user_id": user, "presence": "online", "last_active_ago": 5, "currently_active": true })
}

#[tokio::test]
async fn who_does_nothing_is_idle_and_who_goes_away_is_offline() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        assert_eq!(house.is(alice()).await, UserPresence::UNKNOWN);
        let syncing = house.rooms.syncs((alice(), PHONE), PresenceState::Online);
        let fresh = UserPresence {
            presence: PresenceState::Online,
            last_active_ago: Some(0),
            status_msg: None,
            currently_active: Some(true),
        };
        assert_eq!(house.is(alice()).await, fresh);
        let active = |of: &UserPresence| of.currently_active == Some(true);
        let lasted = house.until_is(alice(), |of| !active(of)).await;
        assert!((60..63).contains(&lasted), "{lasted}");
        // Another sync is nothing that a person does.
        drop(house.rooms.syncs((alice(), PHONE), PresenceState::Online));
        let idle = |of: &UserPresence| of.presence == PresenceState::Unavailable;
        let lasted = lasted + house.until_is(alice(), idle).await;
        assert!((300..303).contains(&lasted), "{lasted}");
        let ago = house.is(alice()).await.last_active_ago.unwrap();
        assert_eq!(ago, lasted * 1_000);
        house.rooms.acts((alice(), PHONE));
        assert_eq!(house.is(alice()).await, fresh);
        // As long as it syncs it is there.
        house.wind(100).await;
        assert_eq!(house.is(alice()).await.presence, PresenceState::Online);
        drop(syncing);
        let offline = |of: &UserPresence| of.presence == PresenceState::Offline;
        let lasted = house.until_is(alice(), offline).await;
        assert!((30..33).contains(&lasted), "{lasted}");
    })
    .await;
}

#[tokio::test]
async fn of_several_devices_the_one_that_is_most_there_counts() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let state = async || house.is(alice()).await.presence;
        let invisible = house.rooms.syncs((alice(), "A"), PresenceState::Offline);
        assert!(invisible.is_none());
        assert_eq!(state().await, PresenceState::Offline);
        let _idle = house
            .rooms
            .syncs((alice(), "A"), PresenceState::Unavailable);
        assert_eq!(state().await, PresenceState::Unavailable);
        house
            .says_of_itself(alice(), PresenceState::Online, None)
            .await;
        assert_eq!(state().await, PresenceState::Online);
        house
            .says_of_itself(alice(), PresenceState::Offline, None)
            .await;
        assert_eq!(state().await, PresenceState::Unavailable);
        // Who does something isn't idle. Who wants to be offline stays so.
        house.rooms.acts((alice(), PHONE));
        assert_eq!(state().await, PresenceState::Unavailable);
        house.rooms.acts((alice(), "A"));
        assert_eq!(state().await, PresenceState::Online);
    })
    .await;
}

#[tokio::test]
async fn only_a_users_own_server_says_how_it_is_and_only_if_a_room_is_shared() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let (mut story, _) = house.shared_room().await;
        let server = bob().server_name();
        let stranger = user_id!("@stranger:127.0.0.1:1");
        house.hears(server, json!([online(carol())])).await;
        assert!(!house.sees(carol()).await);
        let push = json!([
            online(stranger),
            online(alice()),
            { "user_id": bob(), "presence": "busy", "last_active_ago": 5 },
            { "user_id": bob(), "presence": 5, "last_active_ago": 5 },
            { "presence": "online" },
            5,
        ]);
        house.hears(server, push).await;
        house.receive(server, "m.presence", &json!({})).await;
        assert!(!house.sees(bob()).await && !house.sees(stranger).await);
        assert_eq!(house.is(alice()).await, UserPresence::UNKNOWN);
        assert!(house.changed(StreamPosition(0)).await.0.is_empty());
        // What is wrong does not affect its neighbours.
        let long = json!({
            "user_id": bob(), "presence": "online", "last_active_ago": -7, "status_msg": "x".repeat(5_000),
        });
        house.hears(server, json!([online(stranger), long])).await;
        let shown = house.rooms.presence_of(bob(), alice()).await.unwrap();
        assert_eq!(
            serde_json::to_value(shown).unwrap(),
            json!({ "presence": "online", "last_active_ago": 0, "currently_active": false })
        );
        // Dora is in no room with him.
        let hidden = house.rooms.presence_of(bob(), dora()).await;
        assert!(matches!(hidden, Err(RoomError::Forbidden(_))));
        let seen = house.rooms.presence_after(dora(), StreamPosition(0), 100, |_| true);
        assert!(seen.await.unwrap().0.is_empty());
        // And from now on alice isn't.
        house.tell(&mut story).await;
        let tip = house.tip(&story.room_id).await;
        let gone = membership(bob(), bob(), "leave");
        house.says(&mut story, &[&tip], gone).await;
        let hidden = house.rooms.presence_of(bob(), alice()).await;
        assert!(matches!(hidden, Err(RoomError::Forbidden(_))));
    })
    .await;
}

#[tokio::test]
async fn what_another_server_repeats_is_no_news_until_it_says_nothing_any_more() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        house.shared_room().await;
        let server = bob().server_name();
        house.hears(server, json!([online(bob())])).await;
        let (changed, upto) = house.changed(StreamPosition(0)).await;
        assert_eq!(changed, [bob()]);
        house.wind(25 * 60).await;
        house.hears(server, json!([online(bob())])).await;
        assert_eq!(house.changed(upto).await, (Vec::new(), upto));
        house.wind(25 * 60).await;
        assert!(house.sees(bob()).await);
        // A client that knows that he was there hears that he isn't, a new one doesn't hear of him.
        house.wind(6 * 60).await;
        assert!(!house.sees(bob()).await);
        assert_eq!(house.changed(upto).await.0, [bob()]);
        assert!(house.changed(StreamPosition(0)).await.0.is_empty());
        // After a while nobody remembers him.
        house.wind(2 * 3600).await;
        assert!(house.changed(upto).await.0.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_users_say_about_themselves_survives_a_restart() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let online = PresenceState::Online;
        house.says_of_itself(alice(), online, Some("here")).await;
        house.says_of_itself(dora(), online, Some("there")).await;
        house.says_of_itself(dora(), online, Some("")).await;
        let said = async |house: &House| house.is(alice()).await.status_msg;
        assert_eq!(said(&house).await.as_deref(), Some("here"));
        // A sync says nothing about it.
        let syncing = house.rooms.syncs((alice(), PHONE), online);
        assert_eq!(said(&house).await.as_deref(), Some("here"));
        drop(syncing);
        let house = house.restart().await;
        let stored = UserPresence {
            status_msg: Some("here".to_owned()),
            ..UserPresence::UNKNOWN
        };
        assert_eq!(house.is(alice()).await, stored);
        assert_eq!(house.is(dora()).await, UserPresence::UNKNOWN);
        for words in ["x".repeat(5_000), "\0".to_owned()] {
            let said = house
                .rooms
                .set_presence((alice(), PHONE), online, Some(words));
            assert!(matches!(said.await, Err(RoomError::InvalidParam(_))));
        }
        assert_eq!(house.is(alice()).await, stored);
    })
    .await;
}

#[tokio::test]
async fn who_is_there_costs_nothing_at_servers_that_are_not() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        house.shared_room().await;
        house
            .says_of_itself(alice(), PresenceState::Online, None)
            .await;
        // The servers came into the room just before: what happens soon after that waits.
        for server in foreign_servers() {
            while !house.was_asked(server).await {
                house.wind(1).await;
                Clock::real().sleep(Duration::from_millis(10)).await;
            }
        }
        let tasks = &house.fresh.env.tasks;
        until(async || !tasks.running().contains(&"send to a server")).await;
        let behind = house.read(|tx| Box::pin(outbox::cursors(tx))).await;
        assert!(behind.is_empty(), "{behind:?}");
        let rows = house
            .read(|tx| Box::pin(outbox::after(tx, StreamPosition(0), 10)))
            .await;
        assert!(rows.is_empty());
    })
    .await;
}

#[tokio::test]
async fn who_is_only_invited_shares_no_room() {
    on_each_engine(|fresh| async move {
        let house = House::open(fresh).await;
        let room_id: &RoomId = &house.create("11").await;
        house
            .says_of_itself(alice(), PresenceState::Online, None)
            .await;
        let sees = async || house.rooms.presence_of(alice(), dora()).await.is_ok();
        assert!(!sees().await);
        house
            .rooms
            .set_membership(alice(), room_id, dora(), Membership::Invite, None)
            .await
            .unwrap();
        assert!(!sees().await);
        house.join(room_id, dora()).await;
        assert!(sees().await);
        let ban = house
            .rooms
            .set_membership(alice(), room_id, dora(), Membership::Ban, None);
        ban.await.unwrap();
        assert!(!sees().await);
    })
    .await;
}
