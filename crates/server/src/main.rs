//! The `myelin` program.
fn main() {}
