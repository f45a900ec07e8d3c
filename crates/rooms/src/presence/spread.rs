//! Who hears of a change of presence, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use myelin_core::{
    event::{Event, Verdict},
    state::Membership,
};
use myelin_storage::{StorageError, rooms as room_table};
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName};

use super::{Presence, people::News};
use crate::{Rooms, containment::contained, room::Room};

/// For how long changes are gathered before others hear of them. The first after a while waits for no
/// others.
const GATHERED: Duration = Duration::from_secs(5);

/// Servers that came into rooms and know nothing of who is there.
pub(super) type Arrived = BTreeMap<OwnedServerName, BTreeSet<OwnedRoomId>>;

impl Presence {
    fn arrive(&self, server: &ServerName, room: &Room) {
        let mut arrived = self.arrived();
        let rooms = arrived.entry(server.to_owned()).or_default();
        rooms.insert(room.key.room_id.clone());
        self.changed.notify_one();
    }
}

impl Rooms {
    /// Users have come into a room, or are in it with another profile: those in it may not know how they
    /// are, nor their servers how those in it are.
    pub(crate) fn came_into<'a>(&self, room: &Room, events: impl Iterator<Item = &'a Event>) {
        let is_new = |event: &Event| event.position().is_some_and(|position| position.0 > 0);
        let joins = events.filter(|event| {
            event.pdu.membership == Some(Membership::Join)
                && event.verdict == Verdict::Accepted
                && is_new(event)
        });
        for join in joins.filter(|_| self.presence().is_enabled) {
            let user = &join.pdu.sender;
            let now = self.env().clock.instant();
            if !self.is_local(user) && is_only_one(room, user.server_name()) {
                self.presence().arrive(user.server_name(), room);
            }
            self.presence()
                .change(|people| people.show_again(user, now));
        }
    }

    /// Lets others hear of who is there, for as long as the server runs.
    pub(crate) fn start_presence(&self) {
        if !self.presence().is_enabled {
            return;
        }
        let rooms = self.clone();
        drop(self.env().tasks.spawn("presence", async move {
            let stopping = rooms.env().tasks.stopping();
            stopping.run_until_cancelled(rooms.spread_presence()).await;
        }));
    }

    async fn spread_presence(&self) {
        loop {
            let changed = self.presence().changed.notified();
            let due = self.presence().people().next_due();
            match due {
                None => changed.await,
                Some(due) => {
                    let pause = due.since(self.env().clock.instant());
                    // Either is a reason to look.
                    let _ = self.env().clock.timeout(pause, changed).await;
                }
            }
            let now = self.env().clock.instant();
            let news = self.presence().people().take_news(now);
            let arrived = std::mem::take(&mut *self.presence().arrived());
            if news.is_empty() && arrived.is_empty() {
                continue;
            }
            if let Err(error) = contained("presence", self.spread(news, arrived)).await {
                // Clients see it when they sync next, and servers when they are told again.
                tracing::warn!(%error, "a change of presence is not passed on");
            }
            self.env().clock.sleep(GATHERED).await;
        }
    }

    /// Wakes the clients and tells the servers that share rooms with those of whom there is news.
    async fn spread(&self, news: News, arrived: Arrived) -> Result<(), StorageError> {
        let position = self.presence().stream.readable();
        if !news.to_show.is_empty() {
            let shown: Vec<_> = news.to_show.into_iter().collect();
            let mut near = self.local_users_near(shown.clone()).await?;
            near.extend(shown);
            let near = near.iter().map(|user| &**user);
            self.presence().waking.wake(near, position);
        }
        let mut by_server = BTreeMap::<OwnedServerName, BTreeSet<OwnedUserId>>::new();
        for (room_id, users) in self.rooms_of(&news.to_tell).await? {
            let Some(room) = self.room(&room_id).await? else {
                continue;
            };
            for server in self.other_servers(&room) {
                by_server
                    .entry(server)
                    .or_default()
                    .extend(users.iter().cloned());
            }
        }
        for (server, rooms) in arrived {
            for room_id in rooms {
                let users = self.local_users_there(&room_id).await?;
                by_server.entry(server.clone()).or_default().extend(users);
            }
        }
        for (server, users) in by_server {
            self.tell_presence(&server, users);
        }
        Ok(())
    }

    /// The rooms in which some of our users are, and which of them are there.
    async fn rooms_of(
        &self,
        users: &BTreeSet<OwnedUserId>,
    ) -> Result<BTreeMap<OwnedRoomId, Vec<OwnedUserId>>, StorageError> {
        let mut rooms = BTreeMap::<_, Vec<_>>::new();
        for user in users {
            let reader = user.clone();
            let memberships = self.database().look_up("rooms of a user", move |tx| {
                Box::pin(async move { room_table::memberships_of_user(tx, &reader).await })
            });
            let joined = memberships.await?.into_iter();
            for of in joined.filter(|of| of.membership == Membership::Join.name()) {
                rooms.entry(of.room_id).or_default().push(user.clone());
            }
        }
        Ok(rooms)
    }

    /// Those of our users in a room who are not offline.
    async fn local_users_there(&self, room_id: &RoomId) -> Result<Vec<OwnedUserId>, StorageError> {
        let Some(room) = self.room(room_id).await? else {
            return Ok(Vec::new());
        };
        let mut users = room.local_users();
        let people = self.presence().people();
        users.retain(|user| {
            people.is_there(user) && self.membership_of(&room, user) == Some(Membership::Join)
        });
        Ok(users)
    }
}

/// Whether a server has one user in a room: it may just have come.
fn is_only_one(room: &Room, server: &ServerName) -> bool {
    room.current()
        .is_some_and(|current| current.state.users_of(server.as_str()) == 1)
}
