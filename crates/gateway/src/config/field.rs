//! The kinds of settings: each knows where its value goes, how it is read, shown, and described to a schema.

use std::{fs, net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use ipnet::IpNet;
use roomcast_core::{limits::Cap, permission::Role};
use serde_json::json;

use super::{
    JwksSource, LogFormat, Origins, Secret,
    parse::{self, byte_cap, cap, duration, network, show_bytes, show_duration},
};

/// A value as it was given.
#[derive(Debug, Clone)]
pub(super) enum Given {
    /// In the environment or a flag: text, whatever the kind.
    Written(String),
    /// In the file.
    Toml(toml::Value),
}

/// The place for a value of type `V` inside the settings `T`.
pub(super) type Place<T, V> = fn(&mut T) -> &mut V;

/// The kind of a setting, and where its value goes.
pub(super) enum Field<T> {
    Bool(Place<T, bool>),
    /// A whole number from 1.
    Number(Place<T, u32>),
    Count(Place<T, NonZeroUsize>),
    /// A whole number from 0.
    Length(Place<T, u64>),
    Cap(Place<T, Cap>),
    Bytes(Place<T, Cap>),
    /// Longer than nothing.
    Duration(Place<T, Duration>),
    /// May be `0s`; at most this long.
    Delay(Place<T, Duration>, Duration),
    /// May be `off`.
    MaybeDuration(Place<T, Option<Duration>>),
    Address(Place<T, Option<SocketAddr>>),
    Text(Place<T, Option<String>>, TextRule),
    Secret(Place<T, Option<Secret>>, TextRule),
    Jwks(Place<T, Option<JwksSource>>),
    /// The path of a file that can be read.
    File(Place<T, Option<PathBuf>>),
    Networks(Place<T, Vec<IpNet>>),
    Overrides(Place<T, Vec<(IpNet, Cap)>>),
    Origins(Place<T, Origins>),
    Role(Place<T, Role>),
    Format(Place<T, LogFormat>),
}

/// What a text must be.
#[derive(Clone, Copy)]
pub(super) struct TextRule {
    pub(super) holds: fn(&str) -> bool,
    pub(super) expected: &'static str,
}

impl TextRule {
    fn check(self, text: String) -> Result<String, String> {
        if (self.holds)(&text) { Ok(text) } else { Err(self.expected.to_owned()) }
    }
}

impl<T> Field<T> {
    /// Reads a value and puts it into its place; the error says what was expected.
    pub(super) fn assign(&self, target: &mut T, given: &Given) -> Result<(), String> {
        match self {
            Self::Bool(at) => *at(target) = self.scalar(given)?.parse().map_err(|_| "true or false")?,
            Self::Number(at) => {
                let number = self.scalar(given)?.parse().ok().filter(|&n| n >= 1);
                *at(target) = number.ok_or("a whole number from 1")?;
            }
            Self::Count(at) => {
                *at(target) = self.scalar(given)?.parse().map_err(|_| "a whole number from 1")?;
            }
            Self::Length(at) => {
                *at(target) = self.scalar(given)?.parse().map_err(|_| "a whole number from 0")?;
            }
            Self::Cap(at) => *at(target) = cap(&self.scalar(given)?)?,
            Self::Bytes(at) => *at(target) = byte_cap(&self.scalar(given)?)?,
            Self::Duration(at) => *at(target) = positive(&self.scalar(given)?)?,
            Self::Delay(at, most) => {
                let value = duration(&self.scalar(given)?)?;
                if value > *most {
                    return Err(format!("at most {}", show_duration(*most)));
                }
                *at(target) = value;
            }
            Self::MaybeDuration(at) => {
                let text = self.scalar(given)?;
                let none = matches!(text.as_str(), "off" | "unlimited");
                *at(target) = if none { None } else { Some(positive(&text)?) };
            }
            Self::Address(at) => {
                let address =
                    self.scalar(given)?.parse().map_err(|_| "an address and port such as 127.0.0.1:8080")?;
                *at(target) = Some(address);
            }
            Self::Text(at, rule) => *at(target) = Some(rule.check(self.scalar(given)?)?),
            Self::Secret(at, rule) => *at(target) = Some(Secret::new(rule.check(self.scalar(given)?)?)),
            Self::Jwks(at) => *at(target) = Some(jwks(&self.scalar(given)?)?),
            Self::File(at) => {
                let path = PathBuf::from(self.scalar(given)?);
                let is_file = fs::metadata(&path).is_ok_and(|meta| meta.is_file());
                *at(target) = Some(is_file.then_some(path).ok_or("the path of a file that can be read")?);
            }
            Self::Networks(at) => {
                *at(target) = items(given)?.iter().map(|item| network(item)).collect::<Result<_, _>>()?;
            }
            Self::Overrides(at) => {
                *at(target) =
                    items(given)?.iter().map(|item| parse::ip_override(item)).collect::<Result<_, _>>()?;
            }
            Self::Origins(at) => {
                let place = at(target);
                *place = Origins { localhost: place.localhost, ..Origins::parse(&items(given)?)? };
            }
            Self::Role(at) => {
                *at(target) =
                    Role::from_name(&self.scalar(given)?).ok_or("guest, member, admin or service")?;
            }
            Self::Format(at) => {
                *at(target) = match self.scalar(given)?.as_str() {
                    "text" => LogFormat::Text,
                    "json" => LogFormat::Json,
                    _ => return Err("text or json".to_owned()),
                };
            }
        }
        Ok(())
    }

    /// The value in its place, as the file would hold it; none where nothing is set.
    pub(super) fn show(&self, target: &mut T) -> Option<toml::Value> {
        let number = |n: u64| toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
        let text = |text: &str| toml::Value::String(text.to_owned());
        let list =
            |items: Vec<String>| toml::Value::Array(items.into_iter().map(toml::Value::String).collect());
        Some(match self {
            Self::Bool(at) => toml::Value::Boolean(*at(target)),
            Self::Number(at) => number(u64::from(*at(target))),
            Self::Count(at) => number(u64::try_from(at(target).get()).unwrap_or(u64::MAX)),
            Self::Length(at) => number(*at(target)),
            Self::Cap(at) => at(target).get().map_or_else(|| text("unlimited"), number),
            Self::Bytes(at) => {
                at(target).get().map_or_else(|| text("unlimited"), |bytes| text(&show_bytes(bytes)))
            }
            Self::Duration(at) | Self::Delay(at, _) => text(&show_duration(*at(target))),
            Self::MaybeDuration(at) => text(&at(target).map_or_else(|| "off".to_owned(), show_duration)),
            Self::Address(at) => text(&at(target).as_ref()?.to_string()),
            Self::Text(at, _) => text(at(target).as_ref()?),
            Self::Secret(..) => return None,
            Self::Jwks(at) => match at(target).as_ref()? {
                JwksSource::File(path) => text(&path.display().to_string()),
                JwksSource::Url(url) => text(url),
            },
            Self::File(at) => text(&at(target).as_ref()?.display().to_string()),
            Self::Networks(at) => list(at(target).iter().map(ToString::to_string).collect()),
            Self::Overrides(at) => list(at(target).iter().map(show_override).collect()),
            Self::Origins(at) => {
                let origins = at(target);
                let same_host = origins.same_host.then(|| super::origins::SAME_HOST.to_owned());
                list(origins.list.iter().cloned().chain(same_host).collect())
            }
            Self::Role(at) => text(at(target).as_str()),
            Self::Format(at) => text(match at(target) {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }),
        })
    }

    /// What it takes, in a few words.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "true or false",
            Self::Number(_) | Self::Count(_) => "whole number from 1",
            Self::Length(_) => "whole number from 0",
            Self::Cap(_) => "limit",
            Self::Bytes(_) => "limit in bytes",
            Self::Duration(_) => "duration",
            Self::Delay(..) => "duration, may be 0s",
            Self::MaybeDuration(_) => "duration or \"off\"",
            Self::Address(_) => "address:port",
            Self::Text(..) => "text",
            Self::Secret(..) => "secret",
            Self::Jwks(_) => "path or URL",
            Self::File(_) => "path",
            Self::Networks(_) => "list of networks",
            Self::Overrides(_) => "list or table of network=limit",
            Self::Origins(_) => "list of origins",
            Self::Role(_) => "guest, member, admin or service",
            Self::Format(_) => "text or json",
        }
    }

    /// What the file may hold, as JSON Schema.
    pub(super) fn schema(&self) -> serde_json::Value {
        let limit = json!([{"type": "integer", "minimum": 1}, {"const": "unlimited"}]);
        let time = "^[0-9]+(ms|s|m|h|d)$";
        match self {
            Self::Bool(_) => json!({"type": "boolean"}),
            Self::Number(_) | Self::Count(_) => json!({"type": "integer", "minimum": 1}),
            Self::Length(_) => json!({"type": "integer", "minimum": 0}),
            Self::Cap(_) => json!({"oneOf": limit}),
            Self::Bytes(_) => {
                json!({"oneOf": [limit[0], limit[1], {"type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB)?$"}]})
            }
            Self::Duration(_) | Self::Delay(..) => json!({"type": "string", "pattern": time}),
            Self::MaybeDuration(_) => {
                json!({"oneOf": [{"type": "string", "pattern": time}, {"enum": ["off", "unlimited"]}]})
            }
            Self::Address(_) | Self::Text(..) | Self::Jwks(_) | Self::File(_) => json!({"type": "string"}),
            Self::Secret(..) => json!({"type": "string", "writeOnly": true}),
            Self::Networks(_) | Self::Origins(_) => json!({"type": "array", "items": {"type": "string"}}),
            Self::Overrides(_) => json!({"oneOf": [
                {"type": "array", "items": {"type": "string"}},
                {"type": "object", "additionalProperties": {"oneOf": limit}},
            ]}),
            Self::Role(_) => json!({"enum": Role::ALL.iter().map(|role| role.as_str()).collect::<Vec<_>>()}),
            Self::Format(_) => json!({"enum": ["text", "json"]}),
        }
    }

    /// Whether its value must never be shown.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(..))
    }

    /// The text of a single value; TOML's own types are held to, so that `presence = "no"` is no boolean.
    fn scalar(&self, given: &Given) -> Result<String, String> {
        let wants_bool = matches!(self, Self::Bool(_));
        let wants_number = matches!(self, Self::Number(_) | Self::Count(_) | Self::Length(_));
        let takes_number = wants_number
            || matches!(
                self,
                Self::Cap(_) | Self::Bytes(_) | Self::Duration(_) | Self::Delay(..) | Self::MaybeDuration(_)
            );
        match given {
            Given::Written(text) => Ok(text.clone()),
            Given::Toml(toml::Value::Boolean(value)) if wants_bool => Ok(value.to_string()),
            Given::Toml(toml::Value::Integer(value)) if takes_number => Ok(value.to_string()),
            Given::Toml(toml::Value::String(text)) if !wants_bool && !wants_number => Ok(text.clone()),
            Given::Toml(_) if wants_bool || wants_number => Err(format!("a {} without quotes", self.kind())),
            Given::Toml(_) => Err(format!("one value: {}", self.kind())),
        }
    }
}

/// The items of a list: an array, a table of `key = limit`, or text with commas.
fn items(given: &Given) -> Result<Vec<String>, String> {
    const LIST: &str = "a list of texts";
    match given {
        Given::Written(text) | Given::Toml(toml::Value::String(text)) => Ok(parse::list(text)),
        Given::Toml(toml::Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| LIST.to_owned())).collect()
        }
        Given::Toml(toml::Value::Table(table)) => table
            .iter()
            .map(|(key, value)| match value {
                toml::Value::Integer(n) => Ok(format!("{key}={n}")),
                toml::Value::String(text) => Ok(format!("{key}={text}")),
                _ => Err(LIST.to_owned()),
            })
            .collect(),
        Given::Toml(_) => Err(LIST.to_owned()),
    }
}

fn positive(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a duration longer than 0".to_owned()),
        duration => Ok(duration),
    }
}

fn show_override((range, limit): &(IpNet, Cap)) -> String {
    limit.get().map_or_else(|| format!("{range}=unlimited"), |limit| format!("{range}={limit}"))
}

/// Keys fetched over plain HTTP could be anyone's, so that is for this machine only.
fn jwks(text: &str) -> Result<JwksSource, String> {
    const URL: &str = "an https:// URL (http:// on loopback only) or the path of a file";
    if !text.contains("://") {
        let path = PathBuf::from(text);
        let is_file = fs::metadata(&path).is_ok_and(|meta| meta.is_file());
        return is_file.then_some(JwksSource::File(path)).ok_or_else(|| format!("{URL} that can be read"));
    }
    let url = reqwest::Url::parse(text).map_err(|_| URL)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{URL} without a user or password"));
    }
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" if !host.is_empty() => Ok(JwksSource::Url(text.to_owned())),
        "http" if loopback => Ok(JwksSource::Url(text.to_owned())),
        _ => Err(URL.to_owned()),
    }
}
