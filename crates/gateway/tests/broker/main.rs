//! What every broker promises, shown over the in-process bus and over a real Redis in all its forms; and what only
//! Redis can suffer.

mod cluster;
mod contract;
mod encrypted;
mod frozen;
mod local;
mod moving;
mod proxy;
mod redis;
mod refusals;
mod sentinel;
mod server;
mod takeover;
mod world;
