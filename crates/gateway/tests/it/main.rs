//! Tests of the node from outside, as one binary.

mod cli;
