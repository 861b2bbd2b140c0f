//! Nodes in this process, and clients that speak to them over real sockets.

pub mod api;
pub mod call;
pub mod client;
pub mod follower;
pub mod http;
pub mod neighbour;
pub mod node;
pub mod raw;
pub mod redis;
pub mod sign;

pub use api::Api;
pub use client::{Client, Speak};
pub use neighbour::Scene;
pub use node::{Cluster, TestNode, admin_token, token};
pub use raw::Raw;
