//! Tells the service manager how far the node is (the `sd_notify` protocol): one datagram to `$NOTIFY_SOCKET`, and
//! nothing at all where there is none. It never fails a start or a stop: a manager that can't be told will notice.

use std::{
    env,
    ffi::OsStr,
    io,
    os::unix::net::{SocketAddr, UnixDatagram},
};

/// What a service manager wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Clients are served.
    Ready,
    /// Told to stop: the drain has begun.
    Stopping,
}

impl State {
    const fn message(self) -> &'static str {
        match self {
            State::Ready => "READY=1\nSTATUS=serving",
            State::Stopping => "STOPPING=1\nSTATUS=draining",
        }
    }
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
        let mut buffer = [0; 64];
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
        send(path.as_os_str(), State::Stopping).unwrap();
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=draining");
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
    fn a_manager_that_is_gone_is_an_error_and_no_panic() {
        assert!(send(OsStr::new("/nonexistent/notify"), State::Ready).is_err());
        assert!(send(OsStr::new("@"), State::Ready).is_err());
    }
}
