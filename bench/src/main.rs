//! Benchmarks: programs which print tables.
fn main() {}
