//! Myelin: sync.
