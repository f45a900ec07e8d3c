//! Taking transactions of other servers: one of each at a time, and each once (R35).

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

/// Marks a transaction as being taken until it is dropped.
pub(crate) struct Taking<'a> {
    transactions: &'a Transactions,
    origin: OwnedServerName,
    done: Arc<Notify>,
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
    /// One transaction of an origin at a time; a repetition waits for the first to be answered.
    pub(crate) async fn begin_taking(
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
                        let origin = origin.to_owned();
                        return Ok(Taking {
                            transactions,
                            origin,
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
        origin: &ServerName,
        txn_id: &str,
    ) -> Result<Option<Box<RawValue>>, StorageError> {
        let (origin, txn_id) = (origin.to_owned(), txn_id.to_owned());
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
