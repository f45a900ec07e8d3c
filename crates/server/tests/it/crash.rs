//! Power cuts: what was not synced to the disk is gone, whatever the server was doing.
//!
//! A whole server runs in the test, with its database on a disk that loses its power after a given
//! number of writes and syncs. What it did until then it did to real clients and over real
//! connections; what it acknowledged to them must still be true when it starts again. The same holds for
//! disks that are full, and for a PostgreSQL server that is killed.

mod crowd;
mod deletion;
mod disk_full;
mod join;
mod own_postgres;
mod postgres;
mod sends;
