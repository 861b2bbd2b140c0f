//! What a node decides, without doing it: rooms, sessions, limits, permissions, the breaker.
//!
//! This crate knows no socket, no clock and no Redis. Every function takes `now`, and answers with what is to be
//! done; the gateway does it.

pub mod breaker;
pub mod bucket;
pub mod continuity;
pub mod counts;
pub mod events;
pub mod gather;
pub mod limits;
pub mod pace;
pub mod permission;
pub mod permits;
pub mod rest;
pub mod rooms;
pub mod session;
