//! Keeps the index of names that users are found by (client-server API, "User Directory"), from the states of rooms.
//!
//! A room is looked at when its state has changed, and of it what has changed since it was looked at last. So the
//! members that came with a join are taken in like those who join later, and those of an older version's rooms.

use std::sync::Arc;

use myelin_core::{
    number::{EventNr, RoomNr, StreamPosition},
    state::Membership,
    visibility::HistoryVisibility,
};
use myelin_storage::{
    Priority, StorageError, events,
    user_directory::{self, Listed},
};
use serde::Deserialize;

use crate::{Rooms, room::Room};

/// How many changes of states are read together.
const READ_TOGETHER: usize = 200;

/// How many members are taken in with one transaction.
const TAKEN_IN_TOGETHER: usize = 200;

/// What the work is called.
pub(crate) const NAME: &str = "list users";

#[derive(Default, Deserialize)]
struct Member {
    displayname: Option<String>,
}

#[derive(Deserialize)]
struct Rules {
    join_rule: String,
}

impl Rooms {
    /// Waits until all members of rooms by now can be found, or for two seconds.
    pub async fn wait_for_user_directory(&self) {
        self.0.user_directory.catch_up(self).await;
    }

    /// Keeps the index from now on.
    pub(crate) fn start_user_directory(&self) {
        self.follow_stream(
            |rooms| &rooms.0.user_directory,
            |rooms, upto| Box::pin(rooms.list_users(upto)),
        );
    }

    /// Looks at all rooms whose state changed up to a position.
    async fn list_users(&self, upto: StreamPosition) -> Result<(), StorageError> {
        loop {
            let changed = self.database().read("changed rooms", move |tx| {
                Box::pin(
                    async move { user_directory::changed_rooms(tx, upto, READ_TOGETHER).await },
                )
            });
            let Some(changed) = changed.await? else {
                return Ok(());
            };
            for room in changed.rooms {
                match self.list_members(room).await {
                    Err(error) if error.is_lasting() => {
                        tracing::error!(%room, %error, "its members are not listed");
                    }
                    listed => listed?,
                }
            }
            self.database()
                .write(NAME, Priority::Bulk, move |tx| {
                    Box::pin(async move { user_directory::set_cursor(tx, changed.upto).await })
                })
                .await?;
        }
    }

    /// Takes in those who came into a room, or changed their names, since it was looked at.
    async fn list_members(&self, nr: RoomNr) -> Result<(), StorageError> {
        let Some(room) = self.room_by_nr(nr).await? else {
            return Ok(());
        };
        let Some(current) = room.current() else {
            return Ok(());
        };
        let by = current.reference.snapshot();
        let before = self.database().look_up("room looked at", move |tx| {
            Box::pin(async move { user_directory::looked_at(tx, nr).await })
        });
        let before = match before.await? {
            Some(before) if before == by => return Ok(()),
            Some(before) => room.state(self, before).await?,
            None => room.empty_state(),
        };
        let changes = before.diff(&current.state).into_iter();
        let entries = changes.filter_map(|change| change.new);
        let members: Vec<EventNr> = entries
            .filter(|entry| entry.membership() == Some(Membership::Join))
            .map(|entry| entry.event())
            .collect();
        for part in members.chunks(TAKEN_IN_TOGETHER) {
            self.take_in(&room, part.to_vec()).await?;
        }
        let is_public = self.is_public(&room).await?;
        self.database()
            .write(NAME, Priority::Bulk, move |tx| {
                Box::pin(async move { user_directory::put_room(tx, nr, by, is_public).await })
            })
            .await
    }

    /// Takes in the users of some memberships.
    async fn take_in(&self, room: &Room, members: Vec<EventNr>) -> Result<(), StorageError> {
        let key = room.key.clone();
        // Not through the room's own events: those in use would be pushed out.
        let members = self.database().look_up("members", move |tx| {
            Box::pin(async move { events::by_number(tx, &key, &members).await })
        });
        let listed = members.await?.into_iter().filter_map(|member| {
            let user = member.pdu.state_key.as_deref()?;
            let user = ruma::OwnedUserId::try_from(user).ok()?;
            let content: Member =
                serde_json::from_str(member.pdu.content.get()).unwrap_or_default();
            Some(Listed {
                is_local: self.is_local(&user),
                display_name: content.displayname.unwrap_or_default(),
                user,
            })
        });
        let listed: Vec<Listed> = listed.collect();
        self.database()
            .write(NAME, Priority::Bulk, move |tx| {
                Box::pin(async move { user_directory::put_users(tx, &listed).await })
            })
            .await
    }

    /// Whether anybody may join the room, or look into it.
    async fn is_public(&self, room: &Arc<Room>) -> Result<bool, StorageError> {
        let Some(current) = room.current() else {
            return Ok(false);
        };
        let named = |kind: &str| {
            let entry = current.state.get_named(&room.keys(), kind, "");
            entry.map(|entry| entry.event())
        };
        let (rules, visibility) = (
            named("m.room.join_rules"),
            named("m.room.history_visibility"),
        );
        let found = room
            .events(self, rules.into_iter().chain(visibility))
            .await?;
        let rules = rules.and_then(|rules| found.get(&rules));
        let rules = rules.and_then(|rules| serde_json::from_str(rules.pdu.content.get()).ok());
        let is_open = rules.is_some_and(|rules: Rules| rules.join_rule == "public");
        let visibility = visibility.and_then(|visibility| found.get(&visibility));
        let visibility = visibility.map(|event| HistoryVisibility::read(Some(&event.pdu)));
        Ok(is_open || visibility == Some(HistoryVisibility::WorldReadable))
    }
}
