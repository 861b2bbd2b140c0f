//! The binary `roomcast`: the command line in front, a node behind.

use std::process::ExitCode;

use roomcast_gateway::{app, cli, serve};

fn main() -> ExitCode {
    cli::run(serve::serve, app::reach_redis)
}
