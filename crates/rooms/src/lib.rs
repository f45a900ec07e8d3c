//! Myelin: rooms.
