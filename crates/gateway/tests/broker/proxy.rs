//! A TCP proxy that can be cut, and that can stop reading while its connections stay open.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// The proxy; its threads end with their connections.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Nothing is read, in either direction.
    frozen: AtomicBool,
    /// New connections are refused, once accepted.
    closed: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State::default());
        let proxy = Self { port: listener.local_addr().unwrap().port(), state: state.clone() };
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                if state.closed.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let pair = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                state.open.lock().unwrap().extend(pair);
                let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let there = state.clone();
                let back = state.clone();
                thread::spawn(move || pass(&there, client, server));
                thread::spawn(move || pass(&back, back_from, back_to));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Reads no more, or reads on.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.state.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Cuts all connections, and refuses new ones until told otherwise.
    pub(crate) fn close(&self) {
        self.state.closed.store(true, Ordering::Relaxed);
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn open(&self) {
        self.state.closed.store(false, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.freeze(false);
        self.close();
        // The accepting thread ends with the process; it has nothing to do any more.
    }
}

fn pass(state: &State, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        while state.frozen.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        match from.read(&mut buffer) {
            Ok(read) if read > 0 => {
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            _ => break,
        }
    }
    let _gone = from.shutdown(Shutdown::Both);
    let _gone = to.shutdown(Shutdown::Both);
}
