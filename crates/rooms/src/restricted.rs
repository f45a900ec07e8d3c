//! Rooms that let in the members of other rooms (client-server API, "Restricted rooms"; server-server
//! API, "Restricted rooms"), as the servers in them see it.

use std::sync::Arc;

use myelin_core::{
    completeness::Question,
    join_rules::allowed_rooms,
    key_table::MEMBER,
    state::{Membership, State},
};
use myelin_storage::StorageError;
use ruma::{OwnedUserId, UserId};

use crate::{Rooms, room::Room};

/// What the join rule's conditions say of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// There are none, or they do not matter: the ordinary rules decide.
    None,
    /// One of them is met: somebody with the power to invite has to say so.
    Met,
    /// It depends on rooms that this server is not in, or does not know all members of (W21).
    Unknown,
    /// None of them is met.
    NotMet,
}

impl Rooms {
    /// What the conditions of a room say of a user, by a state of the room.
    pub(crate) async fn condition(
        &self,
        room: &Arc<Room>,
        state: &State,
        user: &UserId,
    ) -> Result<Condition, StorageError> {
        let (membership, rules) = {
            let keys = room.keys();
            let member = state.get_named(&keys, MEMBER, user.as_str());
            let rules = state.get_named(&keys, "m.room.join_rules", "");
            (member.and_then(|entry| entry.membership()), rules)
        };
        if matches!(membership, Some(Membership::Join | Membership::Invite)) {
            return Ok(Condition::None);
        }
        let held = room.events(self, rules.map(|entry| entry.event())).await?;
        let Some(rules) = held.into_values().next() else {
            return Ok(Condition::None);
        };
        let Some(allowed) = allowed_rooms(room.key.version, &rules.pdu.content) else {
            return Ok(Condition::None);
        };
        let mut condition = Condition::NotMet;
        for room_id in allowed {
            match self.is_member(&room_id, user).await? {
                Some(true) => return Ok(Condition::Met),
                Some(false) => {}
                None => condition = Condition::Unknown,
            }
        }
        Ok(condition)
    }

    /// Whether a user is in a room; `None` if this server can't tell.
    async fn is_member(
        &self,
        room_id: &ruma::RoomId,
        user: &UserId,
    ) -> Result<Option<bool>, StorageError> {
        let Some(room) = self.room(room_id).await? else {
            return Ok(None);
        };
        let Some(current) = room
            .current()
            .filter(|_| room.has_server(self.server_name()))
        else {
            return Ok(None);
        };
        let entry = current.state.get_named(&room.keys(), MEMBER, user.as_str());
        let is_joined = entry.is_some_and(|entry| entry.membership() == Some(Membership::Join));
        let question = if self.is_local(user) {
            Question::LocalMember
        } else {
            Question::RemoteMember
        };
        Ok(current.reference.answering(question).map(|_| is_joined))
    }

    /// One of our users who, by a state of the room, may let others in.
    pub(crate) async fn authoriser(
        &self,
        room: &Arc<Room>,
        state: &State,
    ) -> Result<Option<OwnedUserId>, StorageError> {
        let Some(levels) = self.power_levels(room, state).await? else {
            return Ok(None);
        };
        let keys = room.keys();
        let is_joined = |user: &OwnedUserId| {
            let entry = state.get_named(&keys, MEMBER, user.as_str());
            entry.is_some_and(|entry| entry.membership() == Some(Membership::Join))
        };
        let mut users = room.local_users().into_iter();
        Ok(users.find(|user| is_joined(user) && levels.may_invite(user)))
    }
}
