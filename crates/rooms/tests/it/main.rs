//! Rooms from the outside: what other servers push and ask, what users of this server do, and what
//! is there after a restart.

mod creating;
mod edus;
mod forks;
mod gaps;
mod guests;
mod history;
mod hostile;
mod house;
mod invites;
mod joining;
mod leaves_and_knocks;
mod local;
mod memory;
mod notifications;
mod outgoing;
mod outliers;
mod peers;
mod presence;
mod profiles;
mod receiving;
mod redactions;
mod relations;
mod resident;
mod restricted;
mod server_acl;
mod serving;
mod snapshots;
mod staging;
mod story;
mod takeovers;
mod verdicts;
