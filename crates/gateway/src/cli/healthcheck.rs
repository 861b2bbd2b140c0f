//! Asks the node on this machine whether it is ready: one small HTTP/1.1 request, for images without a shell or curl.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Below the 30 s that orchestrators wait by default, and long enough for a node that is busy.
const TIMEOUT: Duration = Duration::from_secs(3);
/// `HTTP/1.1 200`.
const STATUS_LINE: usize = 12;

/// Whether the node behind this internal address answers `/readyz` with 200.
pub(super) fn ready(internal: SocketAddr) -> Result<(), String> {
    let address = reachable(internal);
    let status =
        status(address).map_err(|error| format!("no answer from http://{address}/readyz: {error}"))?;
    match status.as_str() {
        "200" => Ok(()),
        _ => Err(format!("not ready: http://{address}/readyz answers with status {status}")),
    }
}

/// An address that means "all of mine" is reached at loopback.
fn reachable(internal: SocketAddr) -> SocketAddr {
    let ip = match internal.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, internal.port())
}

fn status(address: SocketAddr) -> Result<String, String> {
    let deadline = Instant::now() + TIMEOUT;
    let told = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect_timeout(&address, TIMEOUT).map_err(told)?;
    socket.set_write_timeout(Some(TIMEOUT)).map_err(told)?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(told)?;
    let mut head = Vec::new();
    let mut piece = [0; 64];
    // Each read may wait only for what is left of the whole time.
    while head.len() < STATUS_LINE {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("timed out".to_owned());
        }
        socket.set_read_timeout(Some(left)).map_err(told)?;
        match socket.read(&mut piece).map_err(told)? {
            0 => return Err("the connection was closed".to_owned()),
            read => head.extend_from_slice(&piece[..read]),
        }
    }
    let line = String::from_utf8_lossy(&head[..STATUS_LINE]);
    match line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 ")) {
        Some(status) if status.bytes().all(|b| b.is_ascii_digit()) => Ok(status.to_owned()),
        _ => Err("the answer is not HTTP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_this_machine_is_asked_at_loopback() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(at("[::]:9090"), "[::1]:9090");
        assert_eq!(at("10.1.2.3:9090"), "10.1.2.3:9090");
    }
}
