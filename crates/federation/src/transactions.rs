//! Sending events to another server.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Federation,
    error::FederationError,
    request::{KIB, Request},
};

/// The most PDUs and EDUs a transaction may have (R133).
pub const MOST_PDUS: usize = 50;
/// See [`MOST_PDUS`].
pub const MOST_EDUS: usize = 100;

/// What is sent in one go. A retry must have the same content and ID.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    /// When it was made (Unix milliseconds).
    pub origin_server_ts: u64,
    /// At most [`MOST_PDUS`].
    pub pdus: &'a [Box<RawValue>],
    /// At most [`MOST_EDUS`].
    pub edus: &'a [Box<RawValue>],
}

/// What became of the PDUs of a transaction, as far as the server says: an error for each that it did
/// not take.
pub type TransactionAnswer = BTreeMap<OwnedEventId, Option<String>>;

impl Federation {
    /// `PUT /v1/send`: sends a transaction.
    ///
    /// # Errors
    /// Any [`FederationError`]; [`FederationError::Refused`] if there is too much in it.
    pub async fn send_transaction(
        &self,
        server: &ServerName,
        txn_id: &str,
        transaction: &Transaction<'_>,
    ) -> Result<TransactionAnswer, FederationError> {
        #[derive(Serialize)]
        struct Body<'a> {
            origin: &'a ServerName,
            origin_server_ts: u64,
            pdus: &'a [Box<RawValue>],
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            edus: &'a [Box<RawValue>],
        }
        #[derive(Deserialize)]
        struct Verdict {
            error: Option<String>,
        }
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            pdus: BTreeMap<String, Verdict>,
        }
        if transaction.pdus.len() > MOST_PDUS || transaction.edus.len() > MOST_EDUS {
            let why = "too much for one transaction".to_owned();
            return Err(FederationError::Refused(why));
        }
        let body = Body {
            origin: self.server_name(),
            origin_server_ts: transaction.origin_server_ts,
            pdus: transaction.pdus,
            edus: transaction.edus,
        };
        let request = Request::put("send", "v1/send")
            .segment(txn_id)
            .limit(256 * KIB)
            .json(&body)?;
        let answer: Answer = self.ask(server, request).await?;
        let verdicts = answer.pdus.into_iter().filter_map(|(event_id, verdict)| {
            let event_id = OwnedEventId::try_from(event_id).ok()?;
            Some((event_id, verdict.error))
        });
        Ok(verdicts.collect())
    }
}
