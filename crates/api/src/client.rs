//! The client-server API, a file per section.

pub(crate) mod account;
pub(crate) mod account_data;
pub(crate) mod devices;
pub(crate) mod directory;
pub(crate) mod events;
pub(crate) mod filters;
pub(crate) mod keys;
pub(crate) mod login;
pub(crate) mod membership;
pub(crate) mod presence;
pub(crate) mod profiles;
pub(crate) mod public_rooms;
pub(crate) mod push_rules;
pub(crate) mod receipts;
pub(crate) mod registration;
pub(crate) mod room_creation;
pub(crate) mod room_upgrades;
pub(crate) mod sending;
pub(crate) mod shared_secret;
pub(crate) mod spaces;
pub(crate) mod sync;
pub(crate) mod to_device;
pub(crate) mod typing;
pub(crate) mod versions;
