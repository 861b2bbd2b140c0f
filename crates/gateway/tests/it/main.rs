//! The gateway as its clients, operators and neighbours see it.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::large_futures,
    reason = "tests say what they promise in their names"
)]

mod api;
mod api_rooms;
mod bad_input;
mod balancer;
mod bytes;
mod caps;
mod changes;
mod cli;
mod cluster;
mod codes;
mod counters;
mod handshake;
mod ingest;
mod limits;
mod limits_rooms;
mod limits_time;
mod moves;
mod operate;
mod pipeline;
mod rooms;
mod slow;
mod snapshots;
mod specs;
mod starting;
mod storm;
mod support;
mod tokens;
