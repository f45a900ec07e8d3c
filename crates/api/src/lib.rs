//! Myelin: api.
