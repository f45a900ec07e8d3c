//! Myelin: core.
