//! Who is in a room.

use std::collections::BTreeMap;

use myelin_core::{
    completeness::Question,
    number::EventNr,
    state::{Membership, State},
};
use myelin_storage::StorageError;
use myelin_users::Requester;
use ruma::{OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    EventJson, Sync, SyncError,
    access::{Access, access, readable_state, state_as_of},
    client_event::shown,
    token::PageToken,
};

/// How many events are loaded at once.
const LOADED_AT_ONCE: usize = 500;

/// What a client asks of `GET /rooms/{roomId}/members`.
#[derive(Clone, Debug)]
pub struct MembersRequest {
    /// The room.
    pub room_id: OwnedRoomId,
    /// When: a token of `/sync` or `/messages`; now, if absent.
    pub at: Option<String>,
    /// Only those with this membership.
    pub membership: Option<String>,
    /// Not those with this membership.
    pub not_membership: Option<String>,
}

/// A profile as its user's membership event has it. Both keys are always there.
#[derive(Serialize)]
struct MemberProfile<'a> {
    avatar_url: Option<&'a RawValue>,
    display_name: Option<&'a RawValue>,
}

/// What a membership event says of its user.
#[derive(Deserialize)]
struct MemberContent<'a> {
    #[serde(borrow)]
    avatar_url: Option<&'a RawValue>,
    #[serde(borrow)]
    displayname: Option<&'a RawValue>,
}

impl Sync {
    /// The membership events of a room. Waits while they are still being fetched (R145).
    ///
    /// # Errors
    /// [`SyncError::Forbidden`] if the user never was in the room, [`SyncError::InvalidParam`],
    /// [`SyncError::StillPartial`], [`SyncError::Storage`].
    pub async fn members(
        &self,
        viewer: &Requester,
        request: &MembersRequest,
    ) -> Result<Vec<EventJson>, SyncError> {
        let only = request.membership.as_deref().map(membership).transpose()?;
        let not = request
            .not_membership
            .as_deref()
            .map(membership)
            .transpose()?;
        let (room, access) = access(self.rooms(), &viewer.user_id, &request.room_id).await?;
        let state = match request.at.as_deref().map(str::parse).transpose()? {
            None => readable_state(self.rooms(), &room, access, Question::AllMembers).await?,
            Some(PageToken::Stream(at) | PageToken::History { upto: at, .. }) => {
                let at = access.upto(at);
                state_as_of(self.rooms(), &room, Some(at), Question::AllMembers).await?
            }
        };
        let wanted = state.members().filter(|(_, entry)| {
            let is = entry.membership();
            only.is_none_or(|only| is == Some(only)) && not.is_none_or(|not| is != Some(not))
        });
        let events: Vec<EventNr> = wanted.map(|(_, entry)| entry.event()).collect();
        self.state_events(viewer, &room, &events).await
    }

    /// The users in a room with their profiles there, as an object by user ID. Waits while they are still being
    /// fetched (R145).
    ///
    /// # Errors
    /// [`SyncError::Forbidden`] if the user isn't in the room, [`SyncError::StillPartial`],
    /// [`SyncError::Storage`].
    pub async fn joined_members(
        &self,
        viewer: &Requester,
        room_id: &RoomId,
    ) -> Result<EventJson, SyncError> {
        let (room, access) = access(self.rooms(), &viewer.user_id, room_id).await?;
        if access != Access::Joined {
            return Err(SyncError::Forbidden("You are not in this room".to_owned()));
        }
        let state: State =
            readable_state(self.rooms(), &room, access, Question::AllMembers).await?;
        let joined = state
            .members()
            .filter(|(_, entry)| entry.membership() == Some(Membership::Join));
        let events: Vec<EventNr> = joined.map(|(_, entry)| entry.event()).collect();
        let mut members: BTreeMap<String, Box<RawValue>> = BTreeMap::new();
        for part in events.chunks(LOADED_AT_ONCE) {
            for event in room
                .events(self.rooms(), part.iter().copied())
                .await?
                .into_values()
            {
                let pdu = shown(&room, &event)?;
                let content: Option<MemberContent<'_>> =
                    serde_json::from_str(pdu.content.get()).ok();
                let profile = MemberProfile {
                    avatar_url: content.as_ref().and_then(|content| content.avatar_url),
                    display_name: content.as_ref().and_then(|content| content.displayname),
                };
                if let Some(user) = &pdu.state_key {
                    members.insert(user.clone(), to_raw_value(&profile).map_err(unwritable)?);
                }
            }
        }
        to_raw_value(&members).map_err(unwritable)
    }
}

fn unwritable(error: serde_json::Error) -> SyncError {
    SyncError::Storage(StorageError::Corrupt(format!(
        "a profile cannot be written: {error}"
    )))
}

fn membership(name: &str) -> Result<Membership, SyncError> {
    Membership::from_name(name)
        .ok_or_else(|| SyncError::InvalidParam(format!("Not a membership: {name:?}")))
}
