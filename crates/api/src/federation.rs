//! The server-server API, a file per section.

pub(crate) mod events;
pub(crate) mod keys;
pub(crate) mod membership;
pub(crate) mod openid;
pub(crate) mod public_rooms;
pub(crate) mod queries;
pub(crate) mod server;
pub(crate) mod spaces;
pub(crate) mod third_party_invites;
pub(crate) mod transactions;
