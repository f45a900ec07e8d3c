//! Putting all users of this server out of a room that is deleted, and moving them and the room's aliases to
//! another one.

use std::sync::Arc;

use myelin_core::state::Membership;
use myelin_storage::{Priority, StorageError, aliases, client_transactions::ClientTransaction};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::{
    RoomError, Rooms,
    create::{CreateRoom, Preset},
    new_event::{NewEvent, raw},
    room::Room,
};

/// So many users are put out before it is noted who is out.
const AT_ONCE: usize = 100;

/// What an administrator wants of a room.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteRoom {
    /// The administrator.
    pub requester: OwnedUserId,
    /// Nobody shall come in any more, either.
    pub block: bool,
    /// The room shall be gone from the database, and not only our users from the room.
    pub purge: bool,
    /// Even if some of our users can't be put out.
    pub force_purge: bool,
    /// Where they are to go.
    pub replacement: Option<Replacement>,
}

/// A room that our users are moved to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replacement {
    /// One of our users, who makes it.
    pub user: OwnedUserId,
    /// Its name.
    pub name: String,
    /// What is said in it first.
    pub message: String,
}

/// What became of a room's users of this server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutDown {
    /// Who was in the room, or had been invited, or knocked, and does not any more.
    pub kicked_users: Vec<OwnedUserId>,
    /// Whom the room did not let go, or the new one not in.
    pub failed_to_kick_users: Vec<OwnedUserId>,
    /// Aliases that lead to the new room now.
    pub local_aliases: Vec<String>,
    /// The new room.
    pub new_room_id: Option<OwnedRoomId>,
}

impl Rooms {
    /// Makes the room that our users are moved to, unless that was done.
    pub(crate) async fn open_replacement(
        &self,
        wish: &DeleteRoom,
        shutdown: &mut ShutDown,
    ) -> Result<(), RoomError> {
        let Some(replacement) = &wish.replacement else {
            return Ok(());
        };
        if shutdown.new_room_id.is_some() {
            return Ok(());
        }
        let levels = json!({ "users_default": -10 });
        let new = CreateRoom {
            version: None,
            preset: Preset::Public,
            creation_content: Map::new(),
            alias_name: None,
            published: false,
            name: Some(replacement.name.clone()),
            topic: None,
            invite: Vec::new(),
            is_direct: false,
            initial_state: Vec::new(),
            power_level_override: levels.as_object().cloned().unwrap_or_default(),
            profile: self.profile_in_rooms(&replacement.user).await?,
        };
        shutdown.new_room_id = Some(self.create(&replacement.user, new).await?);
        Ok(())
    }

    /// Lets some of this server's users leave a room, and join the new one if they were in it. True if these
    /// were the last.
    ///
    /// # Errors
    /// [`RoomError::Storage`].
    pub(crate) async fn put_some_out(
        &self,
        room: &Arc<Room>,
        shutdown: &mut ShutDown,
    ) -> Result<bool, RoomError> {
        let mut users = room.local_users();
        users.retain(|user| !shutdown.failed_to_kick_users.contains(user));
        let are_last = users.len() <= AT_ONCE;
        for user in users.into_iter().take(AT_ONCE) {
            match self
                .put_out(room, &user, shutdown.new_room_id.as_deref())
                .await
            {
                Ok(()) => shutdown.kicked_users.push(user),
                Err(RoomError::Storage(error)) if !error.is_lasting() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(room = %room.key.room_id, %user, %error, "a user is not moved");
                    shutdown.failed_to_kick_users.push(user);
                }
            }
        }
        Ok(are_last)
    }

    async fn put_out(
        &self,
        room: &Arc<Room>,
        user: &OwnedUserId,
        new_room: Option<&RoomId>,
    ) -> Result<(), RoomError> {
        let was_in = self.membership_of(room, user) == Some(Membership::Join);
        let room_id = &room.key.room_id;
        self.leave(user, room_id, None).await?;
        self.forget(user, room_id).await?;
        if let Some(new_room) = new_room.filter(|_| was_in) {
            let content = self.profile_in_rooms(user).await?;
            self.join(user, new_room.into(), Vec::new(), content)
                .await?;
        }
        Ok(())
    }

    /// Says in the new room what it is for, once, and lets the old one's aliases lead there.
    pub(crate) async fn furnish_replacement(
        &self,
        (deletion, room_id): (&str, &RoomId),
        wish: &DeleteRoom,
        shutdown: &mut ShutDown,
    ) -> Result<(), RoomError> {
        let (Some(replacement), Some(new_room)) = (&wish.replacement, &shutdown.new_room_id) else {
            return Ok(());
        };
        let content = json!({ "msgtype": "m.text", "body": replacement.message });
        let message = NewEvent {
            sender: replacement.user.clone(),
            event_type: "m.room.message".to_owned(),
            state_key: None,
            content: raw(&content),
            redacts: None,
            transaction: Some(ClientTransaction {
                device_id: String::new(),
                path: format!("delete_room/{deletion}"),
            }),
        };
        self.send(new_room, message).await?;
        let (old, new) = (room_id.to_owned(), new_room.clone());
        let moved = self
            .database()
            .write("move aliases", Priority::Interactive, move |tx| {
                Box::pin(async move {
                    let moved = aliases::of_room(tx, &old).await?;
                    aliases::move_all(tx, &old, &new).await?;
                    Ok::<_, StorageError>(moved)
                })
            });
        shutdown.local_aliases.extend(moved.await?);
        Ok(())
    }
}
