//! The roomcast node: sockets in front, rooms in the middle, Redis or the in-process bus behind.
//!
//! The only crate with sockets. `docs/architecture.md` shows how a frame and an event walk through it.

pub mod admin;
pub mod admission;
pub mod alarm;
pub mod app;
pub mod auth;
pub mod backend;
pub mod broker;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod conn;
pub mod drain;
pub mod figures;
pub mod fine;
pub mod http;
pub mod hub;
pub mod ingest;
pub mod interest;
pub mod lag;
pub mod lane;
pub mod metrics;
pub mod moves;
pub mod node;
pub mod outbox;
pub mod presence;
pub mod pulse;
pub mod pump;
pub mod random;
pub mod rarely;
pub mod rest;
pub mod restrictions;
pub mod seats;
pub mod serve;
pub mod session;
pub mod shelf;
pub mod tallies;
pub mod worker;
