//! The binary `roomcast`.
fn main() {}
