//! What every broker promises, shown over the in-process bus and over a real Redis; and what only Redis can suffer.

mod contract;
mod local;
mod redis;
mod server;
mod world;
