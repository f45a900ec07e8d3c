//! What goes wrong between servers: those that are asked refuse, break off, stay silent or lie.
//!
//! A whole server runs in the test, and the resident is told what to do. Time stands still unless the
//! test moves it, so a server that gives up waiting does so because the test says that it is time.

mod absence;
mod backfill;
mod clock;
mod connections;
mod edus;
mod figures;
mod floods;
mod gaps;
mod inviting;
mod joining;
mod newcomer;
mod patience;
mod policy_server;
mod rest;
mod resync;
mod returning;
mod sending;
