//! Whose connection it is: the socket's address, unless a trusted proxy says better.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use http::HeaderMap;
use ipnet::IpNet;
use ppp::{HeaderResult, PartialResult, v2};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

use crate::config::Config;

/// A PROXY header with its fixed part, both addresses and a few extensions.
const MAX_PROXY_HEADER: usize = 1_024;

/// Whether what this peer says of others is believed.
pub fn is_trusted(ip: IpAddr, proxies: &[IpNet]) -> bool {
    let ip = ip.to_canonical();
    proxies.iter().any(|net| net.contains(&ip))
}

/// The client's address: the right-most entry of `X-Forwarded-For` that is no trusted proxy, where the peer is one.
/// An entry that is no address ends the search: what stands left of it can't be believed.
pub fn client(peer: IpAddr, headers: &HeaderMap, proxies: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_trusted(peer, proxies) {
        return peer;
    }
    let values: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let mut nearest = peer;
    for entry in values.iter().rev().flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(ip) = std::str::from_utf8(entry).ok().and_then(|entry| parse_entry(entry.trim())) else {
            break;
        };
        nearest = ip;
        if !is_trusted(ip, proxies) {
            break;
        }
    }
    nearest
}

/// An address, perhaps with a port, as proxies write it.
fn parse_entry(text: &str) -> Option<IpAddr> {
    let ip = text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    ip.or_else(bracketed).or_else(with_port).map(|ip: IpAddr| ip.to_canonical())
}

/// Reads the PROXY protocol v2 header of a trusted proxy, where it is enabled.
pub async fn behind_proxy(
    mut stream: TcpStream,
    peer: SocketAddr,
    config: &Config,
) -> io::Result<(TcpStream, SocketAddr)> {
    if !config.proxy_protocol || !is_trusted(peer.ip(), &config.trusted_proxies) {
        return Ok((stream, peer));
    }
    let read = read_header(&mut stream, peer);
    let peer =
        timeout(config.limits.handshake_timeout, read).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok((stream, peer))
}

async fn read_header(stream: &mut TcpStream, peer: SocketAddr) -> io::Result<SocketAddr> {
    const FIXED: usize = 16;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a PROXY protocol v2 header");
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if FIXED + length > MAX_PROXY_HEADER {
        return Err(invalid());
    }
    header.resize(FIXED + length, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    let HeaderResult::V2(Ok(parsed)) = HeaderResult::parse(&header) else { return Err(invalid()) };
    if HeaderResult::V2(Ok(parsed.clone())).is_incomplete() {
        return Err(invalid());
    }
    Ok(match (parsed.command, parsed.addresses) {
        // The proxy's own health check: it speaks for itself.
        (v2::Command::Local, _) | (_, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => peer,
        (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => {
            SocketAddr::new(ip.source_address.into(), ip.source_port)
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => {
            SocketAddr::new(ip.source_address.into(), ip.source_port)
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let proxies: Vec<IpNet> = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()].into();
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        client(peer.parse().unwrap(), &headers, &proxies).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_believed_in_nothing() {
        assert_eq!(seen("198.51.100.7", &["1.2.3.4"]), "198.51.100.7");
    }

    #[test]
    fn the_right_most_untrusted_entry_counts() {
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(seen("::ffff:10.0.0.1", &["198.51.100.7:5000"]), "198.51.100.7");
    }

    #[test]
    fn nonsense_is_not_skipped_over() {
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, what"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["6.6.6.6, , 10.0.0.2"]), "10.0.0.2");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn a_line_that_is_no_text_ends_the_search() {
        let proxies = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", "6.6.6.6".parse().unwrap());
        headers.append("x-forwarded-for", http::HeaderValue::from_bytes(b"\xff, 198.51.100.7").unwrap());
        assert_eq!(client("10.0.0.1".parse().unwrap(), &headers, &proxies).to_string(), "198.51.100.7");
        headers.append("x-forwarded-for", http::HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(client("10.0.0.1".parse().unwrap(), &headers, &proxies).to_string(), "10.0.0.1");
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(value in "[ -~]{0,200}") {
            seen("10.0.0.1", &[&value]);
        }
    }
}
