//! Nodes in this process, and clients that speak to them over real sockets.

pub mod client;
pub mod node;
pub mod redis;

pub use client::{Client, Speak};
pub use node::{Cluster, TestNode, admin_token, token};
