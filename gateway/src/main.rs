//! The `tesserad` binary.
fn main() {}
