//! The binary `roomcast`: the command line in front, a node behind.

use std::process::ExitCode;

use roomcast_gateway::cli;

fn main() -> ExitCode {
    cli::run(
        |config| {
            eprintln!("error: this build has no node to run as {}", config.node);
            ExitCode::FAILURE
        },
        async |_redis| Err("this build has no Redis client".to_owned()),
    )
}
