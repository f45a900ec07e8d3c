//! What clients keep for their users here. Client-server API, "Client Config" and "Room Tagging".

use myelin_core::{
    number::StreamPosition,
    push_rules::{PUSH_RULES, rules_content},
};
use myelin_storage::{
    Priority, StorageError, Tx,
    account_data::{self, AccountData},
    receipts,
};
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{UserError, Users, error::check_text, push_rules::PushRuleChange};

/// The type of the data that holds a room's tags.
const TAGS: &str = "m.tag";

/// The types that other endpoints set.
const SET_ELSEWHERE: [&str; 2] = [FULLY_READ, PUSH_RULES];

/// The type of the mark that a user sets in a room for itself.
const FULLY_READ: &str = "m.fully_read";

/// How long types and tags may be, in bytes.
const LONGEST_NAME: usize = 255;

/// A change of what is kept for a user.
struct Change {
    user: OwnedUserId,
    room_id: Option<OwnedRoomId>,
    data_type: String,
    edit: Edit,
}

/// How the content changes.
enum Edit {
    /// It is this from now on.
    Replace(Vec<u8>),
    /// This is said about a tag; `None` takes it off.
    Tag(String, Option<Map<String, Value>>),
    /// The user's push rules change.
    PushRules(Box<PushRuleChange>),
}

impl Change {
    async fn write(self, tx: &mut Tx, position: StreamPosition) -> Result<(), UserError> {
        let Self {
            user,
            room_id,
            data_type,
            edit,
        } = self;
        let room_id = room_id.as_deref();
        let before = match &edit {
            Edit::Replace(_) => Vec::new(),
            Edit::Tag(..) | Edit::PushRules(_) => {
                account_data::content_to_change(tx, &user, room_id, &data_type, position).await?
            }
        };
        let content = match edit {
            Edit::Replace(content) => content,
            Edit::PushRules(change) => change.apply(&user, &before)?,
            Edit::Tag(tag, about) => {
                let mut tags = read_tags(&before);
                match about {
                    Some(about) => tags.insert(tag, about.into()),
                    None => tags.remove(&tag),
                };
                json!({ "tags": tags }).to_string().into_bytes()
            }
        };
        let data = AccountData { data_type, content };
        Ok(account_data::put(tx, &user, room_id, &data, position).await?)
    }
}

/// The tags in the content of their data. What a client wrote there in another form is none.
fn read_tags(content: &[u8]) -> Map<String, Value> {
    let content: Result<Value, _> = serde_json::from_slice(content);
    match content.unwrap_or_default()["tags"].take() {
        Value::Object(tags) => tags,
        _ => Map::new(),
    }
}

impl Users {
    /// Keeps data about a room, or about none.
    ///
    /// # Errors
    /// [`UserError::SetElsewhere`], [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn put_account_data(
        &self,
        user: &UserId,
        room_id: Option<OwnedRoomId>,
        data_type: &str,
        content: &RawValue,
    ) -> Result<(), UserError> {
        if SET_ELSEWHERE.contains(&data_type) {
            return Err(UserError::SetElsewhere(data_type.to_owned()));
        }
        check_text("The type", Some(data_type), LONGEST_NAME)?;
        self.change_account_data(Change {
            user: user.to_owned(),
            room_id,
            data_type: data_type.to_owned(),
            edit: Edit::Replace(content.get().as_bytes().to_vec()),
        })
        .await
    }

    /// The data of one type about a room, or about none. Everybody has push rules.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn account_data(
        &self,
        user: &UserId,
        room_id: Option<OwnedRoomId>,
        data_type: &str,
    ) -> Result<Box<RawValue>, UserError> {
        let (user, data_type) = (user.to_owned(), data_type.to_owned());
        if room_id.is_none() && data_type == PUSH_RULES {
            let content = rules_content(&self.push_rules(&user).await?);
            return to_raw_value(&content)
                .map_err(|error| StorageError::Bug(format!("push rules: {error}")).into());
        }
        let found = self.database().read("account data", move |tx| {
            Box::pin(async move {
                match &room_id {
                    Some(room_id) if data_type == FULLY_READ => {
                        let mark = receipts::fully_read(tx, room_id, &user).await?;
                        Ok(mark.map(|event| json!({ "event_id": event }).to_string().into_bytes()))
                    }
                    room_id => {
                        account_data::content(tx, &user, room_id.as_deref(), &data_type).await
                    }
                }
            })
        });
        let content = found
            .await?
            .ok_or_else(|| UserError::NotFound("No such account data".to_owned()))?;
        serde_json::from_slice(&content)
            .map_err(|error| StorageError::Corrupt(format!("account data: {error}")).into())
    }

    /// The tags that a user has put on a room, with what is said about each.
    ///
    /// # Errors
    /// [`UserError::Storage`].
    pub async fn tags(
        &self,
        user: &UserId,
        room_id: OwnedRoomId,
    ) -> Result<Map<String, Value>, UserError> {
        let user = user.to_owned();
        let found = self.database().look_up("tags", move |tx| {
            Box::pin(async move { account_data::content(tx, &user, Some(&room_id), TAGS).await })
        });
        Ok(read_tags(&found.await?.unwrap_or_default()))
    }

    /// Puts a tag on a room, or with `None` takes it off.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`], [`UserError::Storage`].
    pub async fn set_tag(
        &self,
        user: &UserId,
        room_id: OwnedRoomId,
        tag: String,
        about: Option<Map<String, Value>>,
    ) -> Result<(), UserError> {
        check_text("The tag", Some(&tag), LONGEST_NAME)?;
        self.change_account_data(Change {
            user: user.to_owned(),
            room_id: Some(room_id),
            data_type: TAGS.to_owned(),
            edit: Edit::Tag(tag, about),
        })
        .await
    }

    /// Changes a user's push rules.
    ///
    /// # Errors
    /// [`UserError::NotFound`] if there is no such rule, [`UserError::Unknown`] if there is none to put it
    /// beside, [`UserError::InvalidParam`] if it can't be called or changed so, or if the rules become too
    /// large, [`UserError::Storage`].
    pub async fn change_push_rules(
        &self,
        user: &UserId,
        change: PushRuleChange,
    ) -> Result<(), UserError> {
        self.change_account_data(Change {
            user: user.to_owned(),
            room_id: None,
            data_type: PUSH_RULES.to_owned(),
            edit: Edit::PushRules(Box::new(change)),
        })
        .await
    }

    async fn change_account_data(&self, change: Change) -> Result<(), UserError> {
        let allocation = self.to_device_stream().allocate(1);
        let position = StreamPosition(allocation.before().0 + 1);
        let user = change.user.clone();
        // The allocation goes along, so that it lasts exactly as long as the transaction.
        let write = self.database().write::<_, UserError, _>(
            "account data",
            Priority::Interactive,
            move |tx| {
                Box::pin(async move {
                    change.write(tx, position).await?;
                    Ok(allocation)
                })
            },
        );
        drop(write.await?);
        self.waking().wake([&*user], position);
        Ok(())
    }
}
