//! Myelin: env.
