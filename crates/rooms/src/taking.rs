//! Taking transactions of other servers: one of each at a time, and each once (R35). That holds for all that is in
//! one: a server that sends many at once is given no more of this server's time than one that waits for answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use myelin_storage::{StorageError, staged};
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::{ReceiveError, Rooms};

/// The transactions that are being taken, one for each origin.
#[derive(Default)]
pub(crate) struct Transactions(Mutex<HashMap<OwnedServerName, InProgress>>);

struct InProgress {
    txn_id: String,
    done: Arc<Notify>,
}

/// A transaction that is being taken, until it is dropped.
pub struct Taking<'a> {
    transactions: &'a Transactions,
    pub(crate) origin: OwnedServerName,
    pub(crate) txn_id: String,
    done: Arc<Notify>,
}

impl std::fmt::Debug for Taking<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { origin, txn_id, .. } = self;
        write!(formatter, "Taking({origin} {txn_id})")
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        let mut taking = self
            .transactions
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taking.remove(&self.origin);
        self.done.notify_waiters();
    }
}

impl Rooms {
    /// Begins to take a transaction: one of an origin at a time; a repetition waits for the first to be answered.
    ///
    /// # Errors
    /// [`ReceiveError::Busy`] if another one of the origin is being taken. Nothing of this one may be looked at.
    pub async fn begin_taking(
        &self,
        origin: &ServerName,
        txn_id: &str,
    ) -> Result<Taking<'_>, ReceiveError> {
        let transactions = &self.0.transactions;
        loop {
            let done = {
                let mut taking = transactions
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                match taking.get(origin) {
                    None => {
                        let done = Arc::new(Notify::new());
                        let in_progress = InProgress {
                            txn_id: txn_id.to_owned(),
                            done: done.clone(),
                        };
                        taking.insert(origin.to_owned(), in_progress);
                        return Ok(Taking {
                            transactions,
                            origin: origin.to_owned(),
                            txn_id: txn_id.to_owned(),
                            done,
                        });
                    }
                    Some(other) if other.txn_id != txn_id => return Err(ReceiveError::Busy),
                    Some(same) => same.done.clone().notified_owned(),
                }
            };
            done.await;
        }
    }

    /// The answer that the same transaction got before (R35).
    pub(crate) async fn earlier_response(
        &self,
        taking: &Taking<'_>,
    ) -> Result<Option<Box<RawValue>>, StorageError> {
        let (origin, txn_id) = (taking.origin.clone(), taking.txn_id.clone());
        let response = self
            .database()
            .look_up("received transaction", move |tx| {
                Box::pin(async move { staged::transaction(tx, &origin, &txn_id).await })
            })
            .await?;
        Ok(response
            .and_then(|response| String::from_utf8(response).ok())
            .and_then(|response| RawValue::from_string(response).ok()))
    }
}
