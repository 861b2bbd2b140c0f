//! `roomcast-loadtest`: loads a running cluster over its public protocol and checks what it promises.
//!
//! It knows the protocol and nothing else of roomcast: whatever it finds, a client would find. One file per
//! subcommand; each ends with a table for people, on request a JSON file for programs, and an exit code: 0 all
//! promises held, 1 one was broken, 2 the test itself could not be run.

mod capacity;
mod chaos;
mod client;
mod cluster;
mod compare;
mod fanout;
mod idle;
mod race;
mod report;
mod slow;
mod smoke;
mod system;
mod target;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Loads a roomcast cluster and checks its promises.
#[derive(Debug, Parser)]
#[command(name = "roomcast-loadtest", version)]
struct Arguments {
    /// Threads that drive the clients; 1 leaves the other cores to the server.
    #[arg(long, global = true, default_value_t = 1)]
    threads: usize,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures what things cost here, and says what a given load needs: nodes, Redis, memory, network.
    Capacity(Box<capacity::Options>),
    /// Starts a cluster of its own, breaks it, and judges what its clients saw.
    Chaos(chaos::Options),
    /// roomcast and its peers by turns: CPU, latency and memory as ratios.
    Compare(Box<compare::Options>),
    /// One of the servers of `compare` that are built in.
    #[command(hide = true)]
    CompareServer(compare::ServerOptions),
    /// Some clients of `compare` that have a process of their own.
    #[command(hide = true)]
    CompareCrowd(compare::CrowdOptions),
    /// Publishes into rooms full of subscribers: latency, loss, order.
    Fanout(fanout::Options),
    /// Opens many connections that do nothing: memory per connection.
    Idle(idle::Options),
    /// Starts a cluster of its own, lets crowds race on it while replies get lost, and judges every invariant.
    Race(race::Options),
    /// Puts slow readers into a busy room: what the others feel of it, and what it costs the node.
    Slow(slow::Options),
    /// Walks through the main job on two nodes, and optionally kills one.
    Smoke(smoke::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("roomcast-loadtest: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<bool> {
    let mut builder = match arguments.threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    let runtime = builder.enable_all().build().context("starting the runtime")?;
    runtime.block_on(async {
        match arguments.command {
            Command::Capacity(options) => Box::pin(capacity::run(*options)).await,
            Command::Chaos(options) => Box::pin(chaos::run(options)).await,
            Command::Compare(options) => Box::pin(compare::run(*options)).await,
            Command::CompareServer(options) => compare::serve(options).await,
            Command::CompareCrowd(options) => compare::crowd(&options),
            Command::Fanout(options) => Box::pin(fanout::run(options)).await,
            Command::Idle(options) => Box::pin(idle::run(options)).await,
            Command::Race(options) => Box::pin(race::run(options)).await,
            Command::Slow(options) => Box::pin(slow::run(options)).await,
            Command::Smoke(options) => Box::pin(smoke::run(options)).await,
        }
    })
}
