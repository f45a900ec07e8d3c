//! Transactions: sending them to another server, and reading what one of another server says
//! (server-server API, "Transactions").

use std::collections::BTreeMap;

use ruma::{OwnedEventId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

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

/// What another server sends in one go.
#[derive(Debug, Default)]
pub struct ReceivedTransaction {
    /// At most [`MOST_PDUS`].
    pub pdus: Vec<Box<RawValue>>,
    /// At most [`MOST_EDUS`]. Those that aren't any are left out.
    pub edus: Vec<Edu>,
}

/// Something about a room or a user that is no part of any room's history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Edu {
    /// What it is about, for instance `m.typing`.
    pub edu_type: String,
    /// What it says.
    pub content: Box<RawValue>,
}

impl Edu {
    /// An EDU as it is sent.
    ///
    /// # Panics
    /// If the content can't be written as JSON: a map whose keys are no texts.
    pub fn written(edu_type: &str, content: &impl Serialize) -> Box<RawValue> {
        let written = to_raw_value(content).and_then(|content| {
            to_raw_value(&Self {
                edu_type: edu_type.to_owned(),
                content,
            })
        });
        written.expect("texts and numbers can be written")
    }
}

/// Why a body is no transaction.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransactionError {
    /// It isn't one.
    #[error("{0}")]
    BadJson(String),
    /// There is too much in it (R34).
    #[error("a transaction has at most {MOST_PDUS} PDUs and {MOST_EDUS} EDUs")]
    TooMany,
}

impl ReceivedTransaction {
    /// Reads the body of a transaction.
    ///
    /// # Errors
    /// Any [`TransactionError`].
    pub fn read(body: &[u8]) -> Result<Self, TransactionError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(default)]
            pdus: Vec<Box<RawValue>>,
            #[serde(default)]
            edus: Vec<Box<RawValue>>,
        }
        let body: Body = serde_json::from_slice(body)
            .map_err(|error| TransactionError::BadJson(error.to_string()))?;
        if body.pdus.len() > MOST_PDUS || body.edus.len() > MOST_EDUS {
            return Err(TransactionError::TooMany);
        }
        let edus = body.edus.iter();
        Ok(Self {
            pdus: body.pdus,
            edus: edus
                .filter_map(|edu| serde_json::from_str(edu.get()).ok())
                .collect(),
        })
    }
}

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

#[cfg(test)]
mod tests {
    use super::{ReceivedTransaction, TransactionError};
    use serde_json::json;

    #[test]
    fn what_is_no_edu_does_not_affect_its_neighbours() {
        let edus = json!([
            {"edu_type": "m.typing"}, 5, {"edu_type": "m.one", "content": 1}, {"content": {}},
            {"edu_type": "m.two", "content": {"a": 0.5}, "more": true},
        ]);
        let body = json!({ "edus": edus }).to_string();
        let read = ReceivedTransaction::read(body.as_bytes()).expect("a transaction");
        let types: Vec<_> = read.edus.iter().map(|edu| &edu.edu_type[..]).collect();
        assert_eq!(types, ["m.one", "m.two"]);
        assert_eq!(read.edus[1].content.get(), r#"{"a":0.5}"#);
    }

    #[test]
    fn a_transaction_has_limits() {
        let full = json!({ "pdus": vec![1; 50], "edus": vec![1; 100] }).to_string();
        assert!(ReceivedTransaction::read(full.as_bytes()).is_ok());
        for body in [
            json!({ "pdus": vec![1; 51] }),
            json!({ "edus": vec![1; 101] }),
        ] {
            let read = ReceivedTransaction::read(body.to_string().as_bytes());
            assert!(matches!(read, Err(TransactionError::TooMany)));
        }
        for body in ["", "{", r#"{"pdus": {}}"#, r#"{"edus": 1}"#] {
            let read = ReceivedTransaction::read(body.as_bytes());
            assert!(matches!(read, Err(TransactionError::BadJson(_))), "{body}");
        }
    }
}
