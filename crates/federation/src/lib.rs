//! Myelin: federation.
