//! Changes of membership in rooms that this server is in: kicks, bans, unbans, invites, new profiles.

use std::sync::Arc;

use myelin_core::{completeness::Question, state::Membership};
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::{Map, Value};

use crate::{RoomError, Rooms, new_event::NewEvent, room::Room};

/// The content of a join beside `membership`: the user's profile and what the client wishes.
pub type JoinContent = Map<String, Value>;

impl Rooms {
    /// Sets the membership of `target`: kick, ban, unban, invite, leave.
    ///
    /// # Errors
    /// As [`Rooms::send`]; [`RoomError::Forbidden`] too for unbanning who isn't banned.
    pub async fn set_membership(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        membership: Membership,
        reason: Option<String>,
    ) -> Result<OwnedEventId, RoomError> {
        let mut content = Map::new();
        content.insert("membership".into(), membership.name().into());
        if let Some(reason) = reason {
            content.insert("reason".into(), reason.into());
        }
        let event = NewEvent::membership(sender, target, content);
        self.send(room_id, event).await
    }

    /// What one of our users is to a room, by the current state.
    pub(crate) fn membership_of(&self, room: &Arc<Room>, user: &UserId) -> Option<Membership> {
        let current = room.current()?;
        current.reference.answering(Question::LocalMember)?;
        current
            .state
            .get_named(&room.keys(), "m.room.member", user.as_str())?
            .membership()
    }

    /// Tells a user's rooms of its new display name and avatar. Runs in the background; a room
    /// where it fails keeps the old ones.
    pub fn update_profile_in_rooms(&self, user: &UserId, profile: Map<String, Value>) {
        let rooms = self.clone();
        let user = user.to_owned();
        drop(
            self.env()
                .tasks
                .spawn("update profile in rooms", async move {
                    if let Err(error) = rooms.send_profile(&user, &profile).await {
                        tracing::warn!(%user, %error, "a profile change did not reach all rooms");
                    }
                }),
        );
    }

    async fn send_profile(
        &self,
        user: &UserId,
        profile: &Map<String, Value>,
    ) -> Result<(), RoomError> {
        let reader = user.to_owned();
        let memberships = self
            .database()
            .read("rooms of a user", move |tx| {
                Box::pin(
                    async move { myelin_storage::rooms::memberships_of_user(tx, &reader).await },
                )
            })
            .await?;
        for membership in memberships
            .iter()
            .filter(|membership| membership.membership == "join")
        {
            let mut content = profile.clone();
            content.insert("membership".into(), "join".into());
            let event = NewEvent::membership(user, user, content);
            if let Err(error) = self.send(&membership.room_id, event).await {
                tracing::warn!(room = %membership.room_id, %user, %error, "profile not updated");
            }
        }
        Ok(())
    }
}

/// The content of a join.
pub(crate) fn with_membership(content: &JoinContent) -> Map<String, Value> {
    let mut content = content.clone();
    content.insert("membership".into(), "join".into());
    content
}
