//! The command line: what the user asked for, carried out or refused with an exit code. Runs no node and opens no
//! connection to Redis itself; both come in from `main`.

mod args;
mod healthcheck;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    auth::{self, AuthError, NewClaims, Verifier},
    config::{self, Config, Flag, Problems, Purpose, Sources},
};
use args::{Arguments, CheckConfig, Command, DefaultConfig, GenToken, Settings};

/// `EX_CONFIG` of sysexits.h: the configuration is at fault; starting again changes nothing.
pub const EXIT_CONFIG: u8 = 78;

/// Reads the command line and does what it says. `serve` runs a node until it ends; `reach_redis` tells whether the
/// broker answers, or why not.
pub fn run(
    serve: impl FnOnce(Config) -> ExitCode,
    reach_redis: impl AsyncFnOnce(&config::Redis) -> Result<(), String>,
) -> ExitCode {
    // Exits by itself on --help, and with 2 on a line that it doesn't understand.
    match Arguments::parse().command {
        Command::Serve(command) => match load(&command.settings, Purpose::Serve) {
            Ok(config) => serve(config),
            Err(problems) => refuse(&problems),
        },
        Command::Checkconfig(command) => check_config(&command, reach_redis),
        Command::Defaultconfig(command) => default_config(&command),
        Command::Gentoken(command) => gen_token(command),
        Command::Healthcheck(command) => match load(&command.settings, Purpose::Tool) {
            Ok(config) => report(healthcheck::ready(config.internal)),
            // A container's health is 0 or 1, nothing else.
            Err(problems) => report(Err(problems.to_string())),
        },
    }
}

fn load(settings: &Settings, purpose: Purpose) -> Result<Config, Problems> {
    let given = [
        ("--listen", "listen", settings.listen.clone()),
        ("--workers", "workers", settings.workers.clone()),
        ("--node", "node", settings.node.clone()),
    ];
    let own = given.into_iter().filter_map(|(name, key, value)| {
        Some(Flag { name: name.to_owned(), assignment: format!("{key}={}", value?) })
    });
    let set = settings.set.iter().map(|text| Flag { name: "--set".to_owned(), assignment: text.clone() });
    Config::load(&Sources {
        purpose,
        dev: settings.dev,
        file: settings.config.clone(),
        env: std::env::vars_os().collect(),
        flags: own.chain(set).collect(),
    })
}

fn check_config(
    command: &CheckConfig,
    reach_redis: impl AsyncFnOnce(&config::Redis) -> Result<(), String>,
) -> ExitCode {
    let config = match load(&command.settings, Purpose::Serve) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    if !command.connect {
        return print("the configuration is valid\n");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(Err(error.to_string())),
    };
    let mut failed = false;
    let mut tell = |what: &str, result: Result<String, String>| {
        failed |= result.is_err();
        match result {
            Ok(text) => {
                print(&format!("{what}: {text}\n"));
            }
            Err(error) => eprintln!("{what}: {error}"),
        }
    };
    match &config.redis {
        Some(redis) => {
            tell("redis.url", runtime.block_on(reach_redis(redis)).map(|()| "reached".to_owned()));
        }
        None => tell("redis.url", Ok("not set; the in-process bus needs nothing".to_owned())),
    }
    if config.auth.jwks.is_some() {
        let keys = runtime.block_on(async { Verifier::new(&config.auth)?.refresh_keys().await });
        tell(
            "auth.jwks",
            keys.map(|count| format!("{count} usable keys")).map_err(|error| error.to_string()),
        );
    }
    if failed { ExitCode::FAILURE } else { print("the configuration is valid\n") }
}

fn default_config(command: &DefaultConfig) -> ExitCode {
    if command.schema {
        print(&format!("{:#}\n", config::schema()))
    } else if command.markdown {
        print(&config::markdown())
    } else {
        print(&config::default_toml())
    }
}

fn gen_token(command: GenToken) -> ExitCode {
    let config = match load(&command.settings, Purpose::Tool) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems),
    };
    // Only the HMAC key signs; the public keys need not be reachable for that.
    let signer = Verifier::new(&config::Auth { jwks: None, ..config.auth });
    let lifetime = u64::try_from(command.ttl.as_millis()).unwrap_or(u64::MAX);
    let claims = NewClaims {
        sub: command.sub,
        role: command.role,
        rooms: (!command.rooms.is_empty()).then_some(command.rooms),
        info: command.info,
        expires_at: auth::unix_ms().saturating_add(lifetime),
    };
    match signer.map_err(|error| error.to_string()).map(|signer| signer.sign(&claims)) {
        Ok(Ok(token)) => print(&format!("{token}\n")),
        Ok(Err(AuthError::NoSigningKey)) => {
            eprintln!(
                "error: auth.hmac_key is not set: set ROOMCAST_AUTH__HMAC_KEY, ROOMCAST_AUTH__HMAC_KEY_FILE, or hmac_key \
                 in [auth] of the file to the key of the nodes that are to accept the token"
            );
            ExitCode::from(EXIT_CONFIG)
        }
        Ok(Err(error)) => report(Err(error.to_string())),
        Err(error) => report(Err(error)),
    }
}

fn refuse(problems: &Problems) -> ExitCode {
    eprintln!("error: {problems}");
    ExitCode::from(EXIT_CONFIG)
}

fn report(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints, and fails rather than panics when nobody reads, as in `roomcast defaultconfig | head`.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
