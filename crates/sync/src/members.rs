//! Who is in a room.

use std::collections::BTreeMap;

use myelin_core::{
    completeness::Question,
    number::EventNr,
    state::{Membership, State},
};
use myelin_storage::{
    StorageError,
    timelines::{self, EventText},
};
use myelin_users::Requester;
use ruma::{OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    EventJson, Sync, SyncError,
    access::{Access, access, readable_state, state_as_of},
    bulk::PART,
    token::PageToken,
};

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

/// What is read of a membership event where there are many.
#[derive(Deserialize)]
struct MemberEvent<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    state_key: String,
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
        let mut events: Vec<EventNr> = joined.map(|(_, entry)| entry.event()).collect();
        // Neighbours in storage are read together.
        events.sort_unstable();
        let mut members: BTreeMap<String, Box<RawValue>> = BTreeMap::new();
        for part in events.chunks(PART) {
            let part = part.to_vec();
            let found = self
                .rooms()
                .database()
                .look_up("joined members", move |tx| {
                    Box::pin(async move { timelines::event_jsons(tx, &part).await })
                });
            for event in found.await? {
                let (user, profile) = read_member(&event).map_err(unreadable)?;
                members.insert(user, profile);
            }
        }
        to_raw_value(&members).map_err(unreadable)
    }
}

fn unreadable(error: serde_json::Error) -> SyncError {
    SyncError::Storage(StorageError::Corrupt(format!(
        "a membership event: {error}"
    )))
}

/// The user of a membership event, and what of the profile in it is shown. Redaction leaves nothing of that.
fn read_member(event: &EventText) -> Result<(String, Box<RawValue>), serde_json::Error> {
    let member: MemberEvent<'_> = serde_json::from_str(&event.json)?;
    let content = serde_json::from_str::<MemberContent<'_>>(member.content.get()).ok();
    let content = content.filter(|_| !event.is_redacted);
    let profile = MemberProfile {
        avatar_url: content.as_ref().and_then(|content| content.avatar_url),
        display_name: content.as_ref().and_then(|content| content.displayname),
    };
    Ok((member.state_key, to_raw_value(&profile)?))
}

fn membership(name: &str) -> Result<Membership, SyncError> {
    Membership::from_name(name)
        .ok_or_else(|| SyncError::InvalidParam(format!("Not a membership: {name:?}")))
}
