//! The roomcast node: sockets in front, rooms in the middle, Redis or the in-process bus behind.
//!
//! The only crate with sockets. `docs/architecture.md` shows how a frame and an event walk through it.

pub mod auth;
pub mod broker;
pub mod config;
