//! Which rooms may have something to tell in an answer of `/sync`.

use std::collections::{BTreeSet, HashSet};

use myelin_core::number::StreamPosition;
use myelin_storage::{
    StorageError, Tx, account_data, receipts,
    timelines::{self, UserRoom},
};
use ruma::{OwnedRoomId, OwnedUserId};

use crate::{Sync, SyncError, SyncRequest, ephemeral::Beside, room_section::Span};

/// A room that may have something to tell.
pub(crate) struct Candidate {
    pub(crate) room_id: OwnedRoomId,
    /// If it was looked up. Otherwise the user has been in the room since before the span.
    pub(crate) membership: Option<UserRoom>,
}

impl Candidate {
    fn unchanged(room_id: OwnedRoomId) -> Self {
        Self {
            room_id,
            membership: None,
        }
    }
}

impl From<UserRoom> for Candidate {
    fn from(membership: UserRoom) -> Self {
        Self {
            room_id: membership.key.room_id.clone(),
            membership: Some(membership),
        }
    }
}

/// The parts of the streams of which an answer tells, to find the rooms that have something in them.
struct AskedRooms {
    user: OwnedUserId,
    events: (Option<StreamPosition>, StreamPosition),
    typing: Vec<OwnedRoomId>,
    receipts: (StreamPosition, StreamPosition),
    account_data: (StreamPosition, StreamPosition),
}

impl AskedRooms {
    /// Whether nothing is new but events, as nearly always.
    fn is_only_events(&self) -> bool {
        let nothing = |(after, upto): (StreamPosition, StreamPosition)| after >= upto;
        self.typing.is_empty() && nothing(self.receipts) && nothing(self.account_data)
    }

    /// As nearly always before a wait.
    fn is_nothing(&self) -> bool {
        self.is_only_events() && self.events.0.is_some_and(|since| since >= self.events.1)
    }

    fn is_one_query(&self) -> bool {
        self.events.0.is_none() || self.is_only_events()
    }

    /// What the user is to rooms, and further rooms in which it is.
    async fn read(self, tx: &mut Tx) -> Result<(Vec<UserRoom>, Vec<OwnedRoomId>), StorageError> {
        let user = &self.user;
        let Some(since) = self.events.0 else {
            return Ok((timelines::user_rooms(tx, user).await?, Vec::new()));
        };
        let known = timelines::rooms_with_news(tx, user, since, self.events.1).await?;
        let mut beside = Vec::new();
        if !self.is_only_events() {
            beside.extend(timelines::joined_among(tx, user, &self.typing).await?);
            beside.extend(receipts::rooms_with_news(tx, user, self.receipts).await?);
            beside.extend(account_data::rooms_with_news(tx, user, self.account_data).await?);
        }
        Ok((known, beside))
    }
}

impl Sync {
    /// The rooms that may have something for this answer.
    pub(crate) async fn candidates(
        &self,
        request: &SyncRequest,
        span: Span,
    ) -> Result<Vec<Candidate>, SyncError> {
        let user = request.viewer.user_id.clone();
        // All rooms in which the user is something, or those where that changed and those with news.
        let since = span.since.filter(|_| !request.full_state);
        let Beside {
            typing,
            receipts,
            account_data,
        } = span.beside;
        let typing = match since {
            Some(_) => self.rooms().rooms_with_typing_after(typing.0),
            None => Vec::new(),
        };
        let asked = AskedRooms {
            user,
            events: (since, span.upto),
            typing,
            receipts,
            account_data,
        };
        if asked.is_nothing() {
            return Ok(Vec::new());
        }
        let (name, database) = ("rooms for a sync", self.rooms().database());
        let (known, beside) = match asked.is_one_query() {
            true => {
                let found = database.look_up(name, move |tx| Box::pin(asked.read(tx)));
                found.await?
            }
            false => {
                let found = database.read(name, move |tx| Box::pin(asked.read(tx)));
                found.await?
            }
        };
        let ids: HashSet<&OwnedRoomId> = known.iter().map(|of| &of.key.room_id).collect();
        let beside: BTreeSet<OwnedRoomId> = beside.into_iter().collect();
        let beside = beside.into_iter().filter(|room_id| !ids.contains(room_id));
        let mut candidates: Vec<Candidate> = beside.map(Candidate::unchanged).collect();
        candidates.extend(
            known
                .into_iter()
                .filter(|of| !of.forgotten)
                .map(Candidate::from),
        );
        Ok(candidates)
    }
}
