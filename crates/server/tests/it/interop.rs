//! Two servers in one room: one is Synapse, the other Myelin.
//!
//! The scenarios do not know who is who. Some run between two Synapses as well, which proves
//! that what they demand of Myelin is what the reference does.

mod delivery;
mod exchange;
mod meeting;
mod nio;
mod partial_join;
