//! Myelin: users.
