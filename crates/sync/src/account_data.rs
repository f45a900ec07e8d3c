//! What clients keep for their users, in `/sync` (client-server API, "Client Config").

use myelin_core::{
    number::StreamPosition,
    push_rules::{PUSH_RULES, read_rules, rules_content},
};
use myelin_storage::{
    StorageError,
    account_data::{self, AccountData},
};
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use crate::{
    EventJson, Sync, SyncError, SyncRequest, ephemeral::written, room_section::SectionReader,
};

#[derive(Serialize)]
struct AccountDataEvent<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    content: &'a RawValue,
}

impl Sync {
    /// The settings that are about no room and were changed in a span of the stream; to a client that knows
    /// nothing, all.
    pub(crate) async fn settings(
        &self,
        request: &SyncRequest,
        (after, upto): (StreamPosition, StreamPosition),
    ) -> Result<Vec<EventJson>, SyncError> {
        let span = match request.full_state {
            true => (StreamPosition(0), upto),
            false => (after, upto),
        };
        let (user, filter) = (request.viewer.user_id.clone(), &request.filter.account_data);
        let mut found = Vec::new();
        if span.0 < span.1 {
            let owner = user.clone();
            let read = self.rooms().database().look_up("account data", move |tx| {
                Box::pin(async move { account_data::within(tx, &owner, None, span).await })
            });
            found = read.await?;
        }
        let rules = found.iter().position(|data| data.data_type == PUSH_RULES);
        let stored = rules.map(|index| found.remove(index).content);
        let mut events = Vec::new();
        // Everybody has rules, whether or not something is stored.
        if (stored.is_some() || request.since.is_none() || request.full_state)
            && filter.wants_type(PUSH_RULES)
        {
            let rules = read_rules(&user, stored.as_deref()).map_err(corrupt)?;
            let content = rules_content(&rules);
            events.push(written(&json!({ "type": PUSH_RULES, "content": content })));
        }
        for data in found {
            if filter.wants_type(&data.data_type) {
                events.push(event(&data)?);
            }
        }
        Ok(events)
    }
}

impl SectionReader<'_> {
    /// All of the user's settings for the room.
    pub(crate) async fn all_settings(&self) -> Result<Vec<EventJson>, SyncError> {
        let (_, upto) = self.span.beside.account_data;
        self.room_settings((StreamPosition(0), upto)).await
    }

    /// The user's settings for the room that were changed in a span of the stream.
    pub(crate) async fn room_settings(
        &self,
        span: (StreamPosition, StreamPosition),
    ) -> Result<Vec<EventJson>, SyncError> {
        // As nearly always.
        if span.0 >= span.1 {
            return Ok(Vec::new());
        }
        let (user, room_id) = (self.user().to_owned(), self.room.key.room_id.clone());
        let filter = &self.request.filter.room.account_data;
        let found = self.rooms.database().look_up("account data", {
            let room_id = room_id.clone();
            move |tx| {
                Box::pin(async move { account_data::within(tx, &user, Some(&room_id), span).await })
            }
        });
        let found = found.await?.into_iter();
        found
            .filter(|data| filter.wants_type(&room_id, &data.data_type))
            .map(|data| event(&data))
            .collect()
    }
}

fn event(data: &AccountData) -> Result<EventJson, SyncError> {
    let content: &RawValue = serde_json::from_slice(&data.content).map_err(corrupt)?;
    let event = AccountDataEvent {
        event_type: &data.data_type,
        content,
    };
    Ok(to_raw_value(&event).map_err(corrupt)?)
}

fn corrupt(error: serde_json::Error) -> StorageError {
    StorageError::Corrupt(format!("account data: {error}"))
}
