//! The words of the command line. Knows what may be written, not what it does.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use roomcast_core::permission::Role;
use roomcast_protocol::Data;

use crate::config::parse;

/// A horizontally scaled real-time WebSocket hub.
#[derive(Debug, Parser)]
#[command(name = "roomcast", version, after_help = "Try it: roomcast serve --dev")]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs a node
    Serve(Serve),
    /// Checks the configuration and lists everything that is wrong with it
    Checkconfig(CheckConfig),
    /// Prints a commented TOML file of every setting, default, unit and reason
    Defaultconfig(DefaultConfig),
    /// Signs a token with the configured HMAC key and prints it
    Gentoken(GenToken),
    /// Exits with 0 if the node on this machine is ready, else with 1
    Healthcheck(HealthCheck),
}

/// Where settings come from. Stronger than the file is the environment (`ROOMCAST_SECTION__KEY`), stronger still a flag.
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// One machine, nothing else needed: in-process broker, demo page, a ready-made admin token
    #[arg(long)]
    pub(super) dev: bool,
    /// The TOML file; else the one that `ROOMCAST_CONFIG` names
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Any setting, as often as needed: `--set limits.frame_bytes=32KiB`
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    /// Where browsers connect
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<String>,
    /// Worker threads
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<String>,
    /// This node's id, unique in the cluster
    #[arg(long, value_name = "NAME")]
    pub(super) node: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roomcast serve --dev
  roomcast serve --config /etc/roomcast.toml --set log.format=json
  ROOMCAST_REDIS__URL=redis://127.0.0.1:6379 ROOMCAST_AUTH__HMAC_KEY_FILE=/run/secrets/hmac roomcast serve

Exit codes: 0 stopped as asked, 2 the command line is at fault, 78 the configuration is, 1 anything else.")]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) settings: Settings,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roomcast checkconfig --config /etc/roomcast.toml
  roomcast checkconfig --connect

Exit codes: 0 all well, 2 the command line is at fault, 78 the configuration is, 1 something can't be reached.")]
pub(super) struct CheckConfig {
    /// Also reaches Redis and the public keys
    #[arg(long)]
    pub(super) connect: bool,
    #[command(flatten)]
    pub(super) settings: Settings,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roomcast defaultconfig > roomcast.toml
  roomcast defaultconfig --schema > roomcast.schema.json")]
pub(super) struct DefaultConfig {
    /// Prints the JSON Schema of the file instead
    #[arg(long, conflicts_with = "markdown")]
    pub(super) schema: bool,
    /// Prints docs/configuration.md instead
    #[arg(long)]
    pub(super) markdown: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roomcast gentoken --sub alice --role admin --ttl 1h
  roomcast gentoken --sub bob --rooms 'event:wall' --rooms 'chat:*' --info '{\"name\":\"Bob\"}'

The key is auth.hmac_key, as for serve: of the file, ROOMCAST_AUTH__HMAC_KEY or ROOMCAST_AUTH__HMAC_KEY_FILE.")]
pub(super) struct GenToken {
    /// The user's id
    #[arg(long, value_name = "USER")]
    pub(super) sub: String,
    /// guest, member, admin or service
    #[arg(long, default_value = "member", value_parser = role)]
    pub(super) role: Role,
    /// How long it holds, such as 15m or 12h
    #[arg(long, default_value = "1h", value_parser = lifetime)]
    pub(super) ttl: Duration,
    /// Rooms it is limited to, or that it opens: names, or prefixes that end in *; repeat or separate with commas
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pub(super) rooms: Vec<String>,
    /// Anything about the user, at most 4 KiB of JSON
    #[arg(long, value_name = "JSON", value_parser = info)]
    pub(super) info: Option<Data>,
    #[command(flatten)]
    pub(super) settings: Settings,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  roomcast healthcheck --dev
  HEALTHCHECK CMD [\"/roomcast\", \"healthcheck\"]        in a Dockerfile

It asks GET /readyz on internal.listen, so give it the configuration that serve has.")]
pub(super) struct HealthCheck {
    #[command(flatten)]
    pub(super) settings: Settings,
}

fn role(text: &str) -> Result<Role, String> {
    Role::from_name(text).ok_or_else(|| "expected guest, member, admin or service".to_owned())
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match parse::duration(text) {
        Ok(Duration::ZERO) => Err("expected a duration longer than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(expected) => Err(format!("expected {expected}")),
    }
}

fn info(text: &str) -> Result<Data, String> {
    Data::parse(text).map_err(|error| format!("expected JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_a_token_says_is_checked_when_it_is_written() {
        let parse = |more: &[&str]| {
            Arguments::try_parse_from(["roomcast", "gentoken", "--sub", "a"].iter().chain(more))
        };
        assert!(parse(&["--role", "admin", "--ttl", "15m", "--info", "{}", "--rooms", "a:*,b"]).is_ok());
        for bad in [["--role", "root"], ["--ttl", "60"], ["--ttl", "0s"], ["--info", "{"]] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }
}
