//! Who shares a room with whom, by the rooms' current states.

use std::{collections::BTreeSet, sync::Arc};

use myelin_core::state::Membership;
use myelin_storage::{
    StorageError, joins,
    shared_rooms::{self, MaybeShared},
};
use ruma::{OwnedUserId, ServerName, UserId};

use crate::{Rooms, room::Room};

impl Rooms {
    /// Which of some users share a room with one of our users.
    pub(crate) async fn sharing_with(
        &self,
        viewer: &UserId,
        users: Vec<OwnedUserId>,
    ) -> Result<BTreeSet<OwnedUserId>, StorageError> {
        if users.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (reader, asked) = (viewer.to_owned(), users.clone());
        let shared = self.database().look_up("shared rooms", move |tx| {
            Box::pin(async move { shared_rooms::with_user(tx, &reader, &asked).await })
        });
        let mut sharing = self.joined_in(shared.await?).await?;
        for room in self.partial_rooms().await? {
            if self.membership_of(&room, viewer) == Some(Membership::Join) {
                sharing.extend(self.maybe_in(&room, &users));
            }
        }
        Ok(sharing)
    }

    /// Which of some users of other servers share a room with any of our users.
    pub(crate) async fn sharing_with_us(
        &self,
        users: Vec<OwnedUserId>,
    ) -> Result<BTreeSet<OwnedUserId>, StorageError> {
        if users.is_empty() {
            return Ok(BTreeSet::new());
        }
        let asked = users.clone();
        let shared = self.database().look_up("rooms of a server", move |tx| {
            Box::pin(async move { shared_rooms::with_anybody(tx, &asked).await })
        });
        let mut sharing = self.joined_in(shared.await?).await?;
        for room in self.partial_rooms().await? {
            sharing.extend(self.maybe_in(&room, &users));
        }
        Ok(sharing)
    }

    /// Our users in whose rooms some users are, or may be.
    pub(crate) async fn local_users_near(
        &self,
        users: Vec<OwnedUserId>,
    ) -> Result<BTreeSet<OwnedUserId>, StorageError> {
        let asked = users.clone();
        let near = self.database().look_up("users near", move |tx| {
            Box::pin(async move { shared_rooms::local_users_near(tx, &asked).await })
        });
        let mut near: BTreeSet<OwnedUserId> = near.await?.into_iter().collect();
        for room in self.partial_rooms().await? {
            if !self.maybe_in(&room, &users).is_empty() {
                near.extend(room.local_users());
            }
        }
        Ok(near)
    }

    /// The users who are joined in one of the rooms that stand beside them. Rooms that are in memory are
    /// asked first.
    async fn joined_in(
        &self,
        maybe: Vec<MaybeShared>,
    ) -> Result<BTreeSet<OwnedUserId>, StorageError> {
        let mut joined = BTreeSet::new();
        let mut others = Vec::new();
        for (user, room_id) in maybe {
            match self.room_in_use(&room_id) {
                Some(room) if room.may_be_joined(&user) => drop(joined.insert(user)),
                Some(_) => {}
                None => others.push((user, room_id)),
            }
        }
        for (user, room_id) in others {
            if !joined.contains(&user)
                && let Some(room) = self.room(&room_id).await?
                && room.may_be_joined(&user)
            {
                joined.insert(user);
            }
        }
        Ok(joined)
    }

    async fn partial_rooms(&self) -> Result<Vec<Arc<Room>>, StorageError> {
        let records = self.database().look_up("partial rooms", |tx| {
            Box::pin(async move { joins::partial_rooms(tx).await })
        });
        let mut rooms = Vec::new();
        for record in records.await? {
            rooms.extend(self.room_by_nr(record.room).await?);
        }
        Ok(rooms)
    }

    /// Which of some users, who may not be known to a partial room yet, may be in it: their servers are.
    fn maybe_in(&self, room: &Room, users: &[OwnedUserId]) -> Vec<OwnedUserId> {
        let servers = self.other_servers(room);
        let is_there = |server: &ServerName| servers.contains(server);
        let users = users.iter().filter(|user| is_there(user.server_name()));
        users
            .filter(|user| room.may_be_joined(user))
            .cloned()
            .collect()
    }
}
