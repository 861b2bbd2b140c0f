//! The roomcast protocol: names, frames, codes, and the codecs that turn them into bytes and back.
//!
//! This crate knows no socket, no clock and no tokio. It is shared by the node, by its load generator and by
//! tests; `docs/protocol.md` is the same protocol in prose and `vectors/` holds golden examples for other
//! languages.

mod client;
mod code;
mod codec;
mod data;
mod decode;
mod head;
mod incoming;
mod name;
mod object;
mod position;
mod scan;
mod server;
mod ws;

pub use client::{
    Audit, Claim, ClientFrame, Comment, Confirm, Connect, Count, Disconnect, DocGet, DocPut, Drain, History,
    Join, Leave, Like, Moderate, Op, OpKind, Ping, Presence, Publish, Queue, Refresh, Release, Reserve, Shed,
    Signal, Since, Stats, Upload,
};
pub use code::{CloseCode, ErrorCode};
pub use codec::{Codec, EncodeError, Message, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK};
pub use data::{Data, DataError, MAX_DEPTH};
pub use decode::{DecodeError, Decoder};
pub use incoming::{Incoming, IncomingError, IncomingFailure};
pub use name::{NameError, Namespace, RoomName};
pub use position::{Epoch, Offset, Position};
pub use server::{
    AuditEntry, ClusterStats, Connected, CounterValue, Event, Failure, Joined, LimitsInfo, Member, Ok,
    PendingComment, PresenceCount, Push, PushClass, ServerFrame, SharedPush,
};
pub use ws::{MAX_HEADER, Opcode, close_frame, server_frame};

/// The largest integer a frame may carry: 2^53 − 1, the largest that JavaScript holds exactly.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
