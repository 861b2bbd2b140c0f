//! What the protocol promises, seen from outside: golden vectors, properties, and the prose that restates it.

mod docs;
mod frames;
mod properties;
mod refused;
mod samples;
mod vectors;
