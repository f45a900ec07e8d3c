//! Myelin: server.
