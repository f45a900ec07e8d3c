//! Synapse's admin API, as far as the tools of administrators use it, a file per section of its
//! documentation. Paths, fields and texts of errors are those that the tools know.

pub(crate) mod destinations;
pub(crate) mod devices;
pub(crate) mod event_reports;
pub(crate) mod history;
pub(crate) mod history_purges;
pub(crate) mod rate_limits;
pub(crate) mod registration_tokens;
pub(crate) mod room_deletions;
pub(crate) mod rooms;
pub(crate) mod server;
pub(crate) mod shared_secret;
pub(crate) mod users;

use ruma::UserId;
use serde::{Deserialize, Deserializer};

use crate::{Api, ApiError};

/// The most rows of one answer.
const MOST_ROWS: u64 = 1000;

/// The rows of an answer for which no number is asked.
const USUAL_ROWS: u64 = 100;

/// Which way a list goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Dir {
    #[serde(rename = "f")]
    Forwards,
    #[serde(rename = "b")]
    Backwards,
}

/// How many rows an answer has at most.
fn row_limit(wanted: Option<u64>) -> u64 {
    wanted.unwrap_or(USUAL_ROWS).min(MOST_ROWS)
}

/// Refuses users of other servers.
fn must_be_local(api: &Api, user: &UserId, why: &str) -> Result<(), ApiError> {
    match user.server_name() == api.users().server_name() {
        true => Ok(()),
        false => Err(ApiError::unknown(why)),
    }
}

/// A field for which `null` says something else than its absence.
fn nullable<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}
