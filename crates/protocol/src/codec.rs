//! The two codecs behind one enum: frames to bytes, bytes to frames.

use bytes::Bytes;
use serde::Serialize;

use crate::{
    ClientFrame, DecodeError, Opcode,
    decode::{self, Decoder},
    ws::{MAX_HEADER, seal},
};

/// The subprotocol of JSON in text frames.
pub const SUBPROTOCOL_JSON: &str = "roomcast.v1.json";
/// The subprotocol of MessagePack in binary frames.
pub const SUBPROTOCOL_MSGPACK: &str = "roomcast.v1.msgpack";

/// One WebSocket message of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

/// Why a frame could not be written: a fault of the server.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// From the JSON writer.
    #[error("encoding JSON failed")]
    Json(#[from] serde_json::Error),
    /// From the MessagePack writer.
    #[error("encoding MessagePack failed")]
    MsgPack(#[from] rmp_serde::encode::Error),
}

/// How one connection writes and reads. It remembers the last frame's `id`, so each connection has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// JSON objects in text frames.
    Json(Decoder),
    /// MessagePack maps in binary frames.
    MsgPack(Decoder),
}

impl Codec {
    /// A fresh JSON codec.
    pub const fn json() -> Self {
        Self::Json(Decoder::new())
    }

    /// A fresh MessagePack codec.
    pub const fn msgpack() -> Self {
        Self::MsgPack(Decoder::new())
    }

    /// The codec for a subprotocol's name.
    pub fn for_subprotocol(name: &str) -> Option<Self> {
        match name {
            SUBPROTOCOL_JSON => Some(Self::json()),
            SUBPROTOCOL_MSGPACK => Some(Self::msgpack()),
            _ => None,
        }
    }

    /// The subprotocol's name.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Self::Json(_) => SUBPROTOCOL_JSON,
            Self::MsgPack(_) => SUBPROTOCOL_MSGPACK,
        }
    }

    /// Reads one message of a client.
    pub fn decode(&mut self, message: Message<'_>) -> Result<ClientFrame, DecodeError> {
        match (self, message) {
            (Self::Json(decoder), Message::Text(text)) => decoder.json(text),
            (Self::MsgPack(decoder), Message::Binary(bytes)) => decoder.msgpack(bytes),
            (Self::Json(_), Message::Binary(_)) => {
                Err(decode::bad_frame(None, "this connection speaks JSON: send text frames"))
            }
            (Self::MsgPack(_), Message::Text(_)) => {
                Err(decode::bad_frame(None, "this connection speaks MessagePack: send binary frames"))
            }
        }
    }

    /// The payload of a frame, without the WebSocket header.
    pub fn payload<T: Serialize>(self, value: &T) -> Result<Vec<u8>, EncodeError> {
        let mut buffer = Vec::with_capacity(256);
        self.write(&mut buffer, value)?;
        Ok(buffer)
    }

    /// A complete, unmasked WebSocket frame.
    pub fn encode<T: Serialize>(self, value: &T) -> Result<Bytes, EncodeError> {
        let mut buffer = Vec::with_capacity(256);
        buffer.resize(MAX_HEADER, 0);
        self.write(&mut buffer, value)?;
        Ok(seal(self.opcode(), buffer))
    }

    /// The kind of frame this codec's payloads travel in.
    pub const fn opcode(self) -> Opcode {
        match self {
            Self::Json(_) => Opcode::Text,
            Self::MsgPack(_) => Opcode::Binary,
        }
    }

    fn write<T: Serialize>(self, buffer: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
        match self {
            Self::Json(_) => serde_json::to_writer(buffer, value)?,
            Self::MsgPack(_) => rmp_serde::encode::write_named(buffer, value)?,
        }
        Ok(())
    }
}
