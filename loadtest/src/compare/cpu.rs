//! Where a process runs and how long it ran: one core for servers, one for clients, and CPU time in nanoseconds.

use std::fs;

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    /// The servers'.
    pub(crate) server: usize,
    /// The clients' and Redis'.
    pub(crate) client: usize,
}

impl Cores {
    /// The first two that this process may use; where there is one only, both are that one.
    pub(crate) fn pick() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("asking for the cores that may be used")?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let server = cores.next().context("no core may be used")?;
        Ok(Self { server, client: cores.next().unwrap_or(server) })
    }

    /// Whether servers and clients have a core each.
    pub(crate) fn are_apart(self) -> bool {
        self.server != self.client
    }
}

/// Keeps the calling thread, and what it starts from now on, on one core.
pub(crate) fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("keeping to core {core}"))
}

/// CPU time of a process so far, in nanoseconds, over all threads that it has now.
pub(crate) fn time(pid: u32) -> anyhow::Result<u64> {
    let folder = format!("/proc/{pid}/task");
    let mut sum = 0;
    for thread in fs::read_dir(&folder).with_context(|| format!("reading {folder}"))? {
        let path = thread.with_context(|| format!("reading {folder}"))?.path().join("schedstat");
        // A thread may end between the two looks.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        sum += run_time(&text).with_context(|| format!("{} is unreadable", path.display()))?;
    }
    Ok(sum)
}

/// The first of three numbers: nanoseconds on a core.
fn run_time(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedstat_begins_with_the_nanoseconds_on_a_core() {
        assert_eq!(run_time("123456789 42 7\n"), Some(123_456_789));
        assert_eq!(run_time(""), None);
    }

    #[test]
    fn work_shows_in_the_time_of_the_process() {
        let before = time(std::process::id()).unwrap();
        let sum = (0..20_000_000_u64).fold(0_u64, |sum, next| std::hint::black_box(sum ^ next));
        std::hint::black_box(sum);
        // What runs is booked at the latest when it lets go of its core.
        std::thread::yield_now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(time(std::process::id()).unwrap() > before);
        assert!(time(u32::MAX).is_err());
    }

    #[test]
    fn a_pinned_thread_runs_on_its_core_only() {
        let cores = Cores::pick().unwrap();
        std::thread::spawn(move || {
            pin(cores.client).unwrap();
            let set = sched_getaffinity(None).unwrap();
            assert!(set.is_set(cores.client) && set.count() == 1);
        })
        .join()
        .unwrap();
    }
}
