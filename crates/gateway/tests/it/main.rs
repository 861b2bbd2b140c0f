//! The gateway as its clients, operators and neighbours see it.
#![allow(missing_docs, unreachable_pub, reason = "tests say what they promise in their names")]

mod cli;
mod rooms;
mod support;
