//! Many whole servers on one thread, on simulated time and network, from one seed: what goes wrong happens
//! the same way each time, and what must hold in the end is checked.
#![allow(
    clippy::disallowed_methods,
    reason = "nothing here takes time, randomness or tasks from anywhere but env; the lint guards the product"
)]

pub mod check;
pub mod client;
pub mod faults;
pub mod liar;
pub mod lies;
pub mod machine;
pub mod network;
pub mod promises;
pub mod reader;
pub mod run;
pub mod trace;
pub mod view;
pub mod workload;

pub use run::{Report, Scenario, run};
