//! What each operation costs, in frames: reading much costs more than saying little.

use std::time::Instant;

use roomcast_protocol::OpKind;

use crate::{
    bucket::{Rate, TokenBucket},
    limits::Limits,
};

/// The cost of an operation against `limits.frames_per_second`.
pub const fn cost(kind: OpKind) -> u32 {
    match kind {
        OpKind::History | OpKind::Refresh | OpKind::Stats | OpKind::Queue | OpKind::Audit => 5,
        OpKind::Join | OpKind::Presence => 2,
        OpKind::Connect
        | OpKind::Leave
        | OpKind::Publish
        | OpKind::Signal
        | OpKind::Ping
        | OpKind::Like
        | OpKind::Count
        | OpKind::Comment
        | OpKind::Moderate
        | OpKind::Upload
        | OpKind::Reserve
        | OpKind::Confirm
        | OpKind::Release
        | OpKind::Claim
        | OpKind::Put
        | OpKind::Get
        | OpKind::Drain
        | OpKind::Shed
        | OpKind::Disconnect => 1,
    }
}

/// Whether the operation has a bucket of its own, `limits.counter_ops_per_minute`.
pub(super) const fn is_counter(kind: OpKind) -> bool {
    match kind {
        OpKind::Like
        | OpKind::Count
        | OpKind::Comment
        | OpKind::Moderate
        | OpKind::Upload
        | OpKind::Reserve
        | OpKind::Confirm
        | OpKind::Release
        | OpKind::Claim
        | OpKind::Put
        | OpKind::Get => true,
        OpKind::Connect
        | OpKind::Refresh
        | OpKind::Join
        | OpKind::Leave
        | OpKind::Publish
        | OpKind::Signal
        | OpKind::History
        | OpKind::Presence
        | OpKind::Ping
        | OpKind::Stats
        | OpKind::Queue
        | OpKind::Audit
        | OpKind::Drain
        | OpKind::Shed
        | OpKind::Disconnect => false,
    }
}

pub(super) fn frame_bucket(limits: &Limits, now: Instant) -> TokenBucket {
    let burst = u32::try_from(limits.frames_burst.or_max()).unwrap_or(u32::MAX);
    TokenBucket::new(Rate::per_second(limits.frames_per_second), burst, now)
}

/// A minute's worth may come at once.
pub(super) fn counter_bucket(limits: &Limits, now: Instant) -> TokenBucket {
    let per_minute = limits.counter_ops_per_minute;
    let burst = u32::try_from(per_minute.or_max()).unwrap_or(u32::MAX);
    TokenBucket::new(Rate::per_minute(per_minute), burst, now)
}
