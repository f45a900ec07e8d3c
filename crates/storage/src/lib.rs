//! The only place that knows SQL: the executor over both engines, the schema's history, and one file
//! per concept with its statements and the functions that run them.
//!
//! Nothing here decides anything. A function of a concept takes the [`Tx`] it runs in, so that the
//! caller decides what belongs together.

// Their macros are known in every file below without an import.
#[macro_use]
mod param;
#[macro_use]
mod statement;

pub mod account_data;
pub mod account_list;
pub mod accounts;
pub mod aggregations;
pub mod aliases;
pub mod blocked_rooms;
pub mod client_transactions;
mod database;
pub mod destinations;
pub mod device_keys;
pub mod devices;
pub mod edu_outbox;
mod error;
mod event_id;
pub mod events;
pub mod extremities;
pub mod filters;
pub mod guest_departures;
pub mod history_purges;
pub mod joins;
mod migrations;
pub mod notifications;
pub mod old_notifications;
pub mod openid_tokens;
pub mod out_of_band;
pub mod outbox;
mod postgres;
pub mod presence;
pub mod profiles;
pub mod published_rooms;
pub mod purge;
pub mod queues;
pub mod rate_limit_overrides;
pub mod receipts;
pub mod refresh_tokens;
pub mod registration_tokens;
pub mod relations;
pub mod reports;
pub mod room_deletions;
pub mod rooms;
mod row;
pub mod search_index;
pub mod server_keys;
pub mod shared_rooms;
pub mod snapshots;
mod sqlite;
pub mod staged;
pub mod stream;
#[cfg(feature = "testing")]
pub mod testing;
pub mod timelines;
pub mod to_device;
mod tx;
mod url;
pub mod user_directory;
pub mod waking;

pub use database::{BoxFuture, Database, Priority};
pub use error::StorageError;
pub use param::Param;
pub use row::Row;
pub use tx::Tx;
pub use url::DatabaseUrl;

/// The statements of each file, by its name.
#[cfg(test)]
const STATEMENTS: &[(&str, &[(&str, &str)])] = &[
    ("account_data", account_data::STATEMENTS),
    ("account_list", account_list::STATEMENTS),
    ("accounts", accounts::STATEMENTS),
    ("aggregations", aggregations::STATEMENTS),
    ("aliases", aliases::STATEMENTS),
    ("blocked_rooms", blocked_rooms::STATEMENTS),
    ("client_transactions", client_transactions::STATEMENTS),
    ("destinations", destinations::STATEMENTS),
    ("device_keys", device_keys::STATEMENTS),
    ("devices", devices::STATEMENTS),
    ("edu_outbox", edu_outbox::STATEMENTS),
    ("events", events::STATEMENTS),
    ("extremities", extremities::STATEMENTS),
    ("filters", filters::STATEMENTS),
    ("guest_departures", guest_departures::STATEMENTS),
    ("history_purges", history_purges::STATEMENTS),
    ("joins", joins::STATEMENTS),
    ("migrations", migrations::STATEMENTS),
    ("openid_tokens", openid_tokens::STATEMENTS),
    ("notifications", notifications::STATEMENTS),
    ("old_notifications", old_notifications::STATEMENTS),
    ("out_of_band", out_of_band::STATEMENTS),
    ("outbox", outbox::STATEMENTS),
    ("presence", presence::STATEMENTS),
    ("profiles", profiles::STATEMENTS),
    ("published_rooms", published_rooms::STATEMENTS),
    ("purge", purge::STATEMENTS),
    ("rate_limit_overrides", rate_limit_overrides::STATEMENTS),
    ("queues", queues::STATEMENTS),
    ("receipts", receipts::STATEMENTS),
    ("refresh_tokens", refresh_tokens::STATEMENTS),
    ("registration_tokens", registration_tokens::STATEMENTS),
    ("relations", relations::STATEMENTS),
    ("reports", reports::STATEMENTS),
    ("room_deletions", room_deletions::STATEMENTS),
    ("rooms", rooms::STATEMENTS),
    ("search_index", search_index::STATEMENTS),
    ("server_keys", server_keys::STATEMENTS),
    ("shared_rooms", shared_rooms::STATEMENTS),
    ("snapshots", snapshots::STATEMENTS),
    ("staged", staged::STATEMENTS),
    ("timelines", timelines::STATEMENTS),
    ("to_device", to_device::STATEMENTS),
    ("user_directory", user_directory::STATEMENTS),
];
