//! Tests of the whole program against real homeservers and real client libraries.
//!
//! What stands below `interop` needs Synapse (and matrix-nio) from PyPI: `cargo xtask ci full`
//! installs both.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    missing_docs,
    reason = "a test is outside of the program: it has a clock, connections and tasks of its own"
)]

mod crash;
mod engine;
mod homeserver;
mod interop;
mod keys;
mod machine;
mod myelin;
mod program;
mod proxy;
mod traces;
mod trouble;
mod witness;

use myelin_testbed::{ca, client, http, identity, resident, synapse};
