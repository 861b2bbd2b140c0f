//! Tells the service manager how far the node is (the `sd_notify` protocol): one datagram to `$NOTIFY_SOCKET`, and
//! nothing at all where there is none. It never fails a start or a stop: a manager that can't be told will notice.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
    process,
    time::Duration,
};

/// What a service manager wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Clients are served.
    Ready,
    /// All threads turn.
    Alive,
    /// Told to stop: the drain has begun, and takes so long at most.
    Stopping(Duration),
}

impl State {
    fn message(self) -> String {
        match self {
            State::Ready => "READY=1\nSTATUS=serving".to_owned(),
            State::Alive => "WATCHDOG=1".to_owned(),
            // The manager waits for the drain, whatever patience its own settings give it.
            State::Stopping(limit) => {
                format!("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={}", limit.as_micros())
            }
        }
    }
}

/// How often a manager wants to hear that all is well before it restarts the node; none where it does not ask, or
/// asks another process.
pub(super) fn watchdog() -> Option<Duration> {
    let asked = env::var("WATCHDOG_PID").ok();
    asked_of(asked.as_deref(), &env::var("WATCHDOG_USEC").ok()?, process::id())
}

fn asked_of(pid: Option<&str>, microseconds: &str, own: u32) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let microseconds = microseconds.parse().ok().filter(|n| *n > 0)?;
    meant.then(|| Duration::from_micros(microseconds))
}

/// Tells the service manager, where one listens.
pub(super) fn tell(state: State) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "the service manager could not be told: {state:?}");
    }
}

fn send(socket: &OsStr, state: State) -> io::Result<()> {
    let address = address(socket)?;
    let datagram = UnixDatagram::unbound()?;
    // A manager whose queue is full must not hold up a node.
    datagram.set_nonblocking(true)?;
    datagram.send_to_addr(state.message().as_bytes(), &address).map(drop)
}

/// The name is a path or, on Linux, begins with `@` for a socket of the abstract namespace.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    {
        use std::os::{linux::net::SocketAddrExt, unix::ffi::OsStrExt};
        if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
            return SocketAddr::from_abstract_name(name);
        }
    }
    SocketAddr::from_pathname(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 128];
        manager.set_nonblocking(true).unwrap();
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_at_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str(), State::Ready).unwrap();
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving");
        send(path.as_os_str(), State::Alive).unwrap();
        assert_eq!(heard(&manager), "WATCHDOG=1");
        send(path.as_os_str(), State::Stopping(Duration::from_secs(35))).unwrap();
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=35000000");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_manager_hears_at_an_abstract_name() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("roomcast-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), State::Ready).unwrap();
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving");
    }

    #[test]
    fn a_watchdog_is_fed_by_whom_it_watches() {
        assert_eq!(asked_of(Some("7"), "30000000", 7), Some(Duration::from_secs(30)));
        assert_eq!(asked_of(None, "500000", 7), Some(Duration::from_millis(500)));
        assert_eq!(asked_of(Some("8"), "30000000", 7), None);
        assert_eq!(asked_of(Some("7"), "0", 7), None);
        assert_eq!(asked_of(Some("7"), "soon", 7), None);
    }

    #[test]
    fn a_manager_that_is_gone_is_an_error_and_no_panic() {
        assert!(send(OsStr::new("/nonexistent/notify"), State::Ready).is_err());
        assert!(send(OsStr::new("@"), State::Ready).is_err());
    }
}
