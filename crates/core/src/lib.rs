//! The protocol as pure functions: event format, hashes and signatures, redaction, authorisation,
//! room state and its resolution, history visibility, and the decision what becomes of an event.
//!
//! Nothing here waits, reads a clock, draws a random number, or depends on the order of a hash
//! map. What a function needs to know is on the [`desk::Desk`] that it is handed; what is missing
//! there is recorded, so that the caller can load it and ask again.

pub mod auth;
pub mod build;
mod canonical_json;
pub mod completeness;
pub mod desk;
pub mod event;
pub mod event_type;
pub mod join_rules;
pub mod key_table;
pub mod keys;
pub mod number;
pub mod pdu;
pub mod policy_server;
pub mod power_levels;
pub mod push_rules;
pub mod receive;
pub mod relation;
pub mod resolution;
pub mod room_version;
pub mod search;
pub mod server_acl;
pub mod state;
pub mod state_codec;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod third_party;
pub mod validate;
pub mod visibility;
