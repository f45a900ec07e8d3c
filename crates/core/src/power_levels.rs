//! What users may do.
