//! The binary `roomcast`: the command line in front, a node behind.

use std::process::ExitCode;

use roomcast_gateway::{app, cli, serve};

/// Gives back what a crowd needed, by a thread of its own; the system's allocator keeps it for the next crowd.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run(serve::serve, app::reach_redis)
}
