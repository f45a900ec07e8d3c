//! New display names and avatars, told to every room that their user is in (client-server API, "Events on
//! change of profile information").
//!
//! Who changes a profile notes in the same transaction that the user's rooms have to be told. The note
//! goes when all of them know; after a crash they are looked at again, and those that know already
//! are left alone.

use myelin_core::{key_table::MEMBER, state::Membership};
use myelin_storage::{
    Priority, StorageError,
    profiles::{self, Profile, ProfileChange},
    rooms as room_table,
};
use ruma::{RoomId, UserId};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    RoomError, Rooms,
    guests::{KIND, mark_as_guest},
    new_event::{NewEvent, SendError},
    notes::READ_TOGETHER,
    turn::Turn,
};

impl Rooms {
    /// A change of a profile was noted: tells the user's rooms, in the background.
    pub fn profile_changed(&self) {
        self.0.profile_news.notify_one();
    }

    /// Tells rooms of profiles from now on, beginning with what was left undone.
    pub(crate) fn start_telling_profiles(&self) {
        self.work_through_notes(
            "tell rooms of profiles",
            |rooms| &rooms.0.profile_news,
            |rooms| Box::pin(rooms.tell_changed()),
        );
    }

    /// Goes through all notes once. Those over which the database fails stay.
    async fn tell_changed(&self) -> Result<(), StorageError> {
        let mut after = String::new();
        let mut outcome = Ok(());
        loop {
            let place = after.clone();
            let page = self.database().look_up("changed profiles", move |tx| {
                Box::pin(async move { profiles::changed(tx, &place, READ_TOGETHER).await })
            });
            let page = page.await?;
            let Some(last) = page.last() else {
                return outcome;
            };
            after = last.user.to_string();
            for change in page {
                outcome = outcome.and(self.tell_rooms_of(change).await);
            }
        }
    }

    /// Tells the rooms of one user.
    async fn tell_rooms_of(&self, change: ProfileChange) -> Result<(), StorageError> {
        let user = change.user.clone();
        let read = self.database().read("rooms of a user", move |tx| {
            Box::pin(async move {
                let profile = profiles::by_user(tx, &user).await?;
                Ok::<_, StorageError>((profile, room_table::memberships_of_user(tx, &user).await?))
            })
        });
        let (profile, memberships) = read.await?;
        let user = &change.user;
        // A closed account has none.
        let content = profile.map(shown).unwrap_or_default();
        for membership in memberships {
            if membership.membership != Membership::Join.name() || content.is_empty() {
                continue;
            }
            let room = &membership.room_id;
            match self.renew_join(user, room, &content).await {
                Ok(()) => {}
                Err(RoomError::Storage(error)) if !error.is_lasting() => return Err(error),
                // The room's rules may forbid it; that is no reason to ask again.
                Err(error) => tracing::warn!(%room, %user, %error, "not told of a profile"),
            }
        }
        self.database()
            .write("rooms know a profile", Priority::Bulk, move |tx| {
                Box::pin(async move { profiles::forget_change(tx, &change).await })
            })
            .await
    }

    /// What a user who comes into a room shows of itself there.
    pub(crate) async fn profile_in_rooms(
        &self,
        user: &UserId,
    ) -> Result<Map<String, Value>, StorageError> {
        let user = user.to_owned();
        let profile = self.database().read("profile", move |tx| {
            Box::pin(async move { profiles::by_user(tx, &user).await })
        });
        Ok(profile.await?.map(shown).unwrap_or_default())
    }

    /// Puts what a user shows of itself into its membership of a room, unless it stands there, or the
    /// user is not in the room any more: that must not make it come back.
    async fn renew_join(
        &self,
        user: &UserId,
        room_id: &RoomId,
        content: &Map<String, Value>,
    ) -> Result<(), RoomError> {
        let room = self.known_room(room_id).await?;
        let mut turn = Turn::take(self, &room).await?;
        let state = turn.graph.current.as_ref().map(|current| &current.state);
        let entry = state.and_then(|state| state.get_named(&room.keys(), MEMBER, user.as_str()));
        let Some(entry) = entry.filter(|entry| entry.membership() == Some(Membership::Join)) else {
            return Ok(());
        };
        let join = turn.held(vec![entry.event()]).await?;
        if join.iter().any(|join| shows(&join.pdu.content, content)) {
            return Ok(());
        }
        let event = NewEvent::membership(user, user, content.clone());
        match turn.send(event).await {
            Ok(_) => Ok(turn.commit().await?),
            Err(SendError::Room(error)) => Err(error),
            Err(SendError::Unsigned(unsigned)) => {
                drop(turn);
                let sent = self.send_recommended(&room, *unsigned, None).await;
                sent.map(drop)
            }
        }
    }
}

/// The content of a join.
fn shown(profile: Profile) -> Map<String, Value> {
    let mut content = Map::new();
    content.insert("membership".into(), Membership::Join.name().into());
    for (field, value) in [
        ("displayname", profile.display_name),
        ("avatar_url", profile.avatar_url),
    ] {
        content.extend(value.map(|value| (field.to_owned(), value.into())));
    }
    if profile.guest {
        mark_as_guest(&mut content);
    }
    content
}

/// Whether a membership shows the same of its user as `wanted` does.
fn shows(content: &RawValue, wanted: &Map<String, Value>) -> bool {
    let content: Map<String, Value> = serde_json::from_str(content.get()).unwrap_or_default();
    ["displayname", "avatar_url", KIND]
        .iter()
        .all(|field| content.get(*field) == wanted.get(*field))
}
