//! The tool against a hub that keeps its promises, and against hubs that break one each: a test that can't fail
//! would find nothing.

mod hub;
mod runs;
