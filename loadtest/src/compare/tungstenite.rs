//! tokio-tungstenite as one would use it, with 4 KiB buffers: what reading frames costs without roomcast. It answers
//! whatever has an `id`; with JSON it reads each message first, as a server must that wants to know what it is told.

use std::{io, net::Ipv4Addr};

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

const BUFFER: usize = 4096;

/// What is done with a message before it is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Nothing.
    Bytes,
    /// It is read as a JSON object.
    Json,
}

/// The part of a message that says what it wants.
#[derive(Debug, Deserialize)]
struct Wanted<'a> {
    #[serde(default)]
    id: Option<u64>,
    #[serde(borrow)]
    op: &'a str,
}

/// Serves until the process is ended.
pub(crate) async fn serve(port: u16, reading: Reading) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let mut sessions = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        sessions.spawn(session(stream, reading));
        while sessions.try_join_next().is_some() {}
    }
}

async fn session(stream: TcpStream, reading: Reading) -> Result<(), tungstenite::Error> {
    stream.set_nodelay(true).map_err(|error: io::Error| tungstenite::Error::Io(error))?;
    let config = WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER);
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message?
            && asks(text.as_str(), reading)
        {
            socket.send(Message::text(r#"{"ok":{}}"#)).await?;
        }
    }
    Ok(())
}

fn asks(text: &str, reading: Reading) -> bool {
    match reading {
        Reading::Bytes => text.starts_with(r#"{"id""#),
        Reading::Json => {
            serde_json::from_str(text).is_ok_and(|Wanted { id, op }| id.is_some() && !op.is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::wire::Wire;

    #[test]
    fn questions_are_answered_and_notes_are_not() {
        for reading in [Reading::Bytes, Reading::Json] {
            assert!(asks(&Wire::Plain.question(7), reading));
            assert!(!asks(&Wire::Plain.note(2048), reading));
        }
    }
}
