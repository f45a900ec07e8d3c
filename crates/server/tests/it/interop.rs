//! What needs more than cargo: mostly two servers in one room, of which one is Synapse and the other
//! Myelin.
//!
//! The scenarios do not know who is who. Some run between two Synapses as well, which proves
//! that what they demand of Myelin is what the reference does.

mod clients;
mod delivery;
mod discovery;
mod edus;
mod exchange;
mod faults;
mod first_start;
mod forks;
mod keys;
mod meeting;
mod memberships;
mod partial_join;
mod third_party_invites;
