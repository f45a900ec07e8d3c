//! Myelin: storage.
