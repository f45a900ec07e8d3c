//! What surrounds a server when it is tested or measured whole: a client, a certificate authority, and
//! a resident server that lives in the same process and does what it is told, wrong things too, an
//! identity server, and a real Synapse.
//!
//! Not part of the product: only tests and benchmarks use it.
#![allow(
    clippy::disallowed_methods,
    missing_docs,
    reason = "this is outside of the program: it has a clock, connections and tasks of its own"
)]

pub mod ca;
pub mod client;
pub mod http;
pub mod identity;
pub mod resident;
pub mod synapse;
