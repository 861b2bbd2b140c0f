//! Where the clients go, from which addresses, and who they say they are.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use jsonwebtoken::{EncodingKey, Header};
use roomcast_protocol::{Codec, Connect};
use serde::Serialize;
use tokio::net::lookup_host;
use tokio_tungstenite::tungstenite::http::Uri;

/// How long the tokens hold that this tool signs: longer than any run.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The codec of the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wire {
    /// JSON in text frames.
    Json,
    /// MessagePack in binary frames.
    Msgpack,
    /// Each in turn.
    Both,
}

impl Wire {
    /// The codec of the `index`-th client.
    pub(crate) fn codec(self, index: usize) -> Codec {
        match self {
            Wire::Json => Codec::json(),
            Wire::Both if index.is_multiple_of(2) => Codec::json(),
            Wire::Both | Wire::Msgpack => Codec::msgpack(),
        }
    }
}

/// One node's WebSocket endpoint, resolved once.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    /// What the kernel may keep for a client that does not read, where it is not the system's choice.
    pub(crate) receive_buffer: Option<u32>,
}

impl Target {
    /// Reads `ws://host[:port]/path` and resolves the host.
    pub(crate) async fn resolve(url: &str) -> anyhow::Result<Self> {
        let uri = Uri::from_str(url).with_context(|| format!("{url} is no URL"))?;
        ensure!(
            uri.scheme_str() == Some("ws"),
            "{url}: only ws:// is spoken here; TLS ends at the balancer, so aim behind it"
        );
        let host = uri.host().with_context(|| format!("{url} names no host"))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = lookup_host((bare, uri.port_u16().unwrap_or(80)))
            .await
            .with_context(|| format!("resolving {host}"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        Ok(Self { url: url.to_owned(), address, receive_buffer: None })
    }

    /// All of them, in order.
    pub(crate) async fn resolve_all(urls: &[String]) -> anyhow::Result<Vec<Self>> {
        let mut targets = Vec::with_capacity(urls.len());
        for url in urls {
            targets.push(Self::resolve(url).await?);
        }
        Ok(targets)
    }
}

/// The addresses that connections come from, so that a cap per address need not be lifted for a test.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Sources {
    /// Client addresses to use in turn, from 127.0.0.2 on (targets on 127.0.0.0/8 only); 0: the system's choice.
    #[arg(long, default_value_t = 0)]
    pub(crate) sources: u32,
}

impl Sources {
    /// Refuses source addresses that could not reach a target.
    pub(crate) fn check(self, targets: &[Target]) -> anyhow::Result<()> {
        if self.sources == 0 {
            return Ok(());
        }
        ensure!(
            self.sources <= 0x00ff_fff0,
            "127.0.0.0/8 has fewer addresses than --sources {}",
            self.sources
        );
        for target in targets {
            let loopback_v4 = matches!(target.address.ip(), IpAddr::V4(ip) if ip.is_loopback());
            if !loopback_v4 {
                bail!("--sources needs targets on 127.0.0.0/8; {} is at {}", target.url, target.address);
            }
        }
        Ok(())
    }

    /// The address of the `index`-th connection.
    pub(crate) fn of(self, index: usize) -> Option<Ipv4Addr> {
        let first = u32::from(Ipv4Addr::new(127, 0, 0, 2));
        let turn = u32::try_from(index).unwrap_or(u32::MAX).checked_rem(self.sources)?;
        Some(Ipv4Addr::from(first + turn))
    }
}

/// Who the clients are.
#[derive(Debug, Clone, Args)]
pub(crate) struct Identity {
    /// A token with role member or above, for every client that publishes.
    #[arg(long, conflicts_with = "hmac_key", env = "LOADTEST_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The node's `auth.hmac_key`: sign a token (HS256, role member) for each client that publishes.
    #[arg(long, env = "LOADTEST_HMAC_KEY", hide_env_values = true)]
    pub(crate) hmac_key: Option<String>,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    role: &'a str,
    exp: u64,
}

impl Identity {
    /// The `connect` of a member; each `name` is a user of its own where this tool signs.
    pub(crate) fn member(&self, name: &str) -> anyhow::Result<Connect> {
        let token = match (&self.token, &self.hmac_key) {
            (Some(token), _) => token.clone(),
            (None, Some(key)) => sign(key, name)?,
            (None, None) => bail!("publishing needs role member: give --token or --hmac-key"),
        };
        Ok(Connect { token: Some(token), ticket: None, guest: None })
    }

    /// The `connect` of a guest.
    pub(crate) fn guest() -> Connect {
        Connect { token: None, ticket: None, guest: None }
    }
}

fn sign(key: &str, name: &str) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
    let claims = Claims { sub: name, role: "member", exp: (now + TOKEN_LIFE).as_secs() };
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(key.as_bytes()))
        .context("signing a token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_addresses_take_turns_from_127_0_0_2_on() {
        let sources = Sources { sources: 300 };
        assert_eq!(sources.of(0), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(sources.of(254), Some(Ipv4Addr::new(127, 0, 1, 0)));
        assert_eq!(sources.of(300), sources.of(0));
        assert_eq!(Sources { sources: 0 }.of(7), None);
    }

    #[tokio::test]
    async fn a_source_address_is_refused_where_it_could_not_reach_the_target() {
        let near = Target::resolve("ws://127.0.0.1:8080/ws").await.unwrap();
        assert_eq!(near.address, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert!(Sources { sources: 2 }.check(std::slice::from_ref(&near)).is_ok());
        let address = SocketAddr::from(([192, 0, 2, 1], 80));
        let far = Target { url: "ws://192.0.2.1/ws".into(), address, receive_buffer: None };
        assert!(Sources { sources: 2 }.check(&[near, far.clone()]).is_err());
        assert!(Sources { sources: 0 }.check(&[far]).is_ok());
    }

    #[tokio::test]
    async fn a_url_of_another_scheme_is_refused() {
        assert!(Target::resolve("http://127.0.0.1/ws").await.is_err());
        assert!(Target::resolve("wss://127.0.0.1/ws").await.is_err());
        assert!(Target::resolve("127.0.0.1").await.is_err());
    }

    #[test]
    fn a_member_needs_a_token_or_a_key_to_sign_one() {
        assert!(Identity { token: None, hmac_key: None }.member("a").is_err());
        let signed = Identity { token: None, hmac_key: Some("0123456789abcdef0123456789abcdef".into()) };
        let token = signed.member("a").unwrap().token.unwrap();
        assert_eq!(token.split('.').count(), 3);
        assert_ne!(Some(token), signed.member("b").unwrap().token);
        let given = Identity { token: Some("t".into()), hmac_key: None };
        assert_eq!(given.member("a").unwrap().token.as_deref(), Some("t"));
    }

    #[test]
    fn both_codecs_take_turns() {
        assert_eq!(Wire::Both.codec(0), Codec::json());
        assert_eq!(Wire::Both.codec(1), Codec::msgpack());
        assert_eq!(Wire::Msgpack.codec(0), Codec::msgpack());
    }
}
