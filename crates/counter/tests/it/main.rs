//! The contract of the counters, run over every store; and what only Redis can get wrong.

mod claims;
mod comments;
mod costs;
mod counters;
mod faults;
mod files;
mod ingest;
mod log;
mod moderation;
mod moving;
mod people;
mod races;
mod restore;
mod server;
mod stage;
mod stock;

/// Runs each promise over both stores.
macro_rules! contract {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::stage::Stage::memory()).await;
            })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(crate::stage::Stage::redis().await).await;
            })*
        }
    };
}
use contract;
