//! Whole jobs over several workers in one process.
fn main() {}
