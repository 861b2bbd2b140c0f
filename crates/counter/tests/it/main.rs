//! The contract of the counters, run over every store; and what only Redis can get wrong.

mod comments;
mod counters;
mod faults;
mod ingest;
mod log;
mod people;
mod races;
mod restore;
mod server;
mod stage;

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
