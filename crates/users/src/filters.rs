//! Filters that clients store, to name them later. Client-server API, "Filtering".

use myelin_storage::{Priority, StorageError, filters};
use ruma::OwnedUserId;
use serde_json::value::RawValue;

use crate::{UserError, Users};

/// The longest filter that is kept, in bytes.
const MAX_BYTES: usize = 64 * 1024;

impl Users {
    /// Stores a filter and returns its ID. The same filter gets the same ID.
    ///
    /// # Errors
    /// [`UserError::InvalidParam`] if it is too long, [`UserError::Storage`].
    pub async fn store_filter(
        &self,
        user: OwnedUserId,
        filter: Box<RawValue>,
    ) -> Result<String, UserError> {
        if filter.get().len() > MAX_BYTES {
            let message = format!("A filter has at most {MAX_BYTES} bytes");
            return Err(UserError::InvalidParam(message));
        }
        let number: Result<i64, StorageError> = self
            .database()
            .write("store_filter", Priority::Interactive, move |tx| {
                Box::pin(async move { filters::put(tx, &user, filter.get().as_bytes()).await })
            })
            .await;
        Ok(number?.to_string())
    }

    /// A filter that the user has stored, as JSON.
    ///
    /// # Errors
    /// [`UserError::NotFound`], [`UserError::Storage`].
    pub async fn filter(&self, user: OwnedUserId, id: &str) -> Result<Box<RawValue>, UserError> {
        let unknown = || UserError::NotFound("No such filter".to_owned());
        let number: i64 = id.parse().map_err(|_| unknown())?;
        let found = self.database().look_up("filter", move |tx| {
            Box::pin(async move { filters::by_number(tx, &user, number).await })
        });
        let content = found.await?.ok_or_else(unknown)?;
        serde_json::from_slice(&content)
            .map_err(|error| StorageError::Corrupt(format!("filter: {error}")).into())
    }
}
