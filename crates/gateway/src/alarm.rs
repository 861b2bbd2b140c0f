//! Tasks that a node can't do without: when one ends while the node should run, the node stops, rather than stay up
//! and deliver nothing.

use tokio_util::sync::CancellationToken;

/// Rings when an essential task ends, by a panic too, unless the node is stopping.
#[derive(Debug, Clone)]
pub struct Alarm {
    stop: CancellationToken,
    failed: CancellationToken,
}

/// Held by the task that is watched.
#[derive(Debug)]
pub struct Watched {
    task: &'static str,
    alarm: Alarm,
}

impl Alarm {
    /// An alarm that is silent once `stop` was told.
    pub fn new(stop: CancellationToken) -> Self {
        Self { stop, failed: CancellationToken::new() }
    }

    /// To be held by the task for as long as it runs.
    pub fn watch(&self, task: &'static str) -> Watched {
        Watched { task, alarm: self.clone() }
    }

    /// The task, watched from now on until it ends.
    pub fn watching<F: Future<Output = ()>>(
        &self,
        name: &'static str,
        task: F,
    ) -> impl Future<Output = ()> + use<F> {
        let watched = self.watch(name);
        async move {
            task.await;
            drop(watched);
        }
    }

    /// Waits until it rings.
    pub async fn rung(&self) {
        self.failed.cancelled().await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.alarm.stop.is_cancelled() {
            tracing::error!(task = self.task, "an essential task ended: the node stops");
            self.alarm.failed.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_rings_and_one_that_is_stopped_does_not() {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let alarm = Alarm::new(stop.clone());
        let held = alarm.watch("well");
        let watched = alarm.watch("panics");
        let panicked = tasks.spawn(async move {
            let _watched = watched;
            panic!("on purpose");
        });
        assert!(panicked.await.is_err());
        alarm.rung().await;

        let quiet = Alarm::new(stop.clone());
        let watched = quiet.watch("stopped");
        stop.cancel();
        drop((held, watched));
        assert!(!quiet.failed.is_cancelled());
    }
}
