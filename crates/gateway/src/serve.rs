//! The process around a node: log, runtime, signals, service manager, exit code, and in development a banner.

mod demo;
mod notify;

use std::{
    convert::Infallible,
    future::pending,
    io::{self, IsTerminal},
    process::ExitCode,
    time::Duration,
};

use roomcast_core::permission::Role;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    app::{self, AppError, Backing, Running},
    auth::NewClaims,
    config::{Config, Log, LogFormat},
    node::{Node, now, unix_ms},
};

/// A working day.
const DEV_TOKEN_TTL: Duration = Duration::from_secs(12 * 3_600);

/// What ends after the drain: sockets, broker, threads.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// Runs a node until it is told to stop. Exits with 0 after a graceful stop.
pub fn serve(config: Config) -> ExitCode {
    start_log(&config.log);
    // One thread holds Redis, the API and the metrics; the workers bring their own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run(config: Config) -> Result<(), AppError> {
    let (mut terminate, mut interrupt) = signals().map_err(AppError::Thread)?;
    let backing = Backing::of(&config);
    let dev = config.dev;
    let running = tokio::select! {
        running = app::start(config, backing) => running?,
        // Redis may take its time; a stop does not wait for it.
        () = told_to_stop(&mut terminate, &mut interrupt) => return Ok(()),
    };
    notify::tell(notify::State::Ready);
    if dev {
        demo::open_sale(&running.node).await;
        print_banner(&running);
    }
    let node = running.node.clone();
    tokio::select! {
        result = serve_until_told(running, &mut terminate, &mut interrupt) => result,
        never = feed_watchdog(&node) => match never {},
    }
}

async fn serve_until_told(
    running: Running,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> Result<(), AppError> {
    tokio::select! {
        () = told_to_stop(terminate, interrupt) => {}
        () = running.failed() => {
            running.halt().await;
            return Err(AppError::Failed);
        }
    }
    notify::tell(notify::State::Stopping(running.node.config.drain.deadline + LAST_WORDS));
    let silence = running.silence();
    let told_twice = async {
        told_to_stop(terminate, interrupt).await;
        // What ends from here on ends because it was told to.
        silence.cancel();
    };
    tokio::select! {
        () = running.stop() => {}
        () = told_twice => tracing::warn!("told twice: stopping at once"),
    }
    Ok(())
}

/// Tells the service manager that all threads turn, until one does not: then it restarts the process, and the clients
/// find another node. To be told late is no reason, so it is told three times as often as it asks.
async fn feed_watchdog(node: &Node) -> Infallible {
    let Some(patience) = notify::watchdog() else { return pending().await };
    let mut tick = interval(patience / 3);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match node.pulse.hanging(now().instant) {
            None => notify::tell(notify::State::Alive),
            Some(hanging) => tracing::error!(?hanging, "a worker does not turn: the watchdog is not fed"),
        }
    }
}

fn signals() -> io::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}

async fn told_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn start_log(log: &Log) {
    // The configuration has checked the filter.
    let filter = || EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt().with_env_filter(filter()).with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    let started = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        eprintln!("the log could not be started: {error}");
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let mut causes = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    eprintln!("error: {}", causes.join(": "));
    ExitCode::FAILURE
}

/// What somebody needs who has just started a node for the first time.
fn print_banner(running: &Running) {
    let public = running.public;
    let expires_at = unix_ms() + u64::try_from(DEV_TOKEN_TTL.as_millis()).unwrap_or_default();
    let claims =
        NewClaims { sub: "dev-admin".into(), role: Role::Admin, rooms: None, info: None, expires_at };
    let admin = match running.node.verifier.sign(&claims) {
        Ok(token) => format!("http://{public}/admin#token={token}"),
        Err(error) => format!("http://{public}/admin (no token: {error})"),
    };
    let broker = if running.node.config.redis.is_some() {
        "the Redis of redis.url"
    } else {
        "in this process; gone with it"
    };
    eprintln!(
        "\n  roomcast {version} · DEVELOPMENT MODE · not for production\n\n\
         \x20 photo wall   http://{public}/   (open it in two tabs)\n\
         \x20 dashboard    {admin}\n\
         \x20 WebSocket    ws://{public}/ws\n\
         \x20 state        {broker}\n\
         \x20 stop         Ctrl-C\n",
        version = env!("CARGO_PKG_VERSION"),
    );
}
