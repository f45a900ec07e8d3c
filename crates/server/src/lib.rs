//! The program: configuration, the composition of all parts, the listeners, and the command line.
//!
//! Nothing here decides anything about rooms or users.

pub mod cli;
pub mod config;
mod listener;
pub mod memory;
mod server;
mod telemetry;
mod tls;
mod traces;
mod welcome;
pub mod workers;

pub use server::{Assembled, Running, Server, StartError};
