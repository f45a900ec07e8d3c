//! Tests of the protocol core through its public interface.

mod auth_rules;
mod completeness;
mod format;
mod join_rules;
mod numbered_rules;
mod policy_server;
mod power_levels;
mod properties;
mod receive;
mod relations;
mod resolution;
mod room;
mod server_acl;
mod signatures;
mod state;
mod state_codec;
mod third_party;
mod timeline;
mod vectors;
mod visibility;
