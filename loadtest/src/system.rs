//! What the operating system allows and tells: open files, a process's memory, a process's end.

use std::{fs, process::Command};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
    thread_native_id,
};

/// Files that are open anyway: standard streams, the runtime's, a report.
const SPARE_FILES: u64 = 64;

/// The calling thread has the processor only while nobody else wants it (`SCHED_IDLE`).
pub(crate) fn give_way() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    // Nobody needs a right to have less; whoever is refused all the same only disturbs more.
    let _idle = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
}

fn allowed_files() -> anyhow::Result<u64> {
    let limits = fs::read_to_string("/proc/self/limits").context("reading /proc/self/limits")?;
    open_files(&limits).context("/proc/self/limits has no line on open files")
}

/// How many sockets this process may have.
pub(crate) fn sockets() -> anyhow::Result<usize> {
    Ok(usize::try_from(allowed_files()?.saturating_sub(SPARE_FILES)).unwrap_or(usize::MAX))
}

/// Refuses a run that would end in "too many open files" half way.
pub(crate) fn need_sockets(sockets: usize) -> anyhow::Result<()> {
    let allowed = allowed_files()?;
    let needed = sockets as u64 + SPARE_FILES;
    ensure!(
        needed <= allowed,
        "{sockets} connections need {needed} open files, this process may have {allowed}: raise it with \
         `ulimit -n {needed}`, or run several of these side by side"
    );
    Ok(())
}

fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

/// What a process holds, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Anonymous resident memory: what the program allocated and touched.
    pub(crate) rss_anon_kib: u64,
    /// The proportional set, where the system lets us read it.
    pub(crate) pss_kib: Option<u64>,
}

impl Memory {
    /// Reads both for a process.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let rss_anon_kib = kib(&status, "RssAnon:").with_context(|| format!("{path} has no RssAnon"))?;
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
        Ok(Self { rss_anon_kib, pss_kib: rollup.and_then(|rollup| kib(&rollup, "Pss:")) })
    }
}

fn kib(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

/// Ends a process at once, as a crash would.
pub(crate) fn kill(pid: u32) -> anyhow::Result<()> {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().context("running kill")?;
    if !status.success() {
        bail!("kill -9 {pid} failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            20000                50000                files     \n";
        assert_eq!(open_files(text), Some(20_000));
        assert_eq!(open_files("Max open files            unlimited  unlimited  files"), Some(u64::MAX));
        assert_eq!(open_files("Max processes 7"), None);
    }

    #[test]
    fn too_many_sockets_are_refused_with_what_to_do() {
        assert!(need_sockets(1).is_ok());
        let error = need_sockets(usize::MAX >> 1).unwrap_err().to_string();
        assert!(error.contains("ulimit -n"), "{error}");
    }

    #[test]
    fn a_process_knows_its_own_memory() {
        let before = Memory::of(std::process::id()).unwrap();
        assert!(before.rss_anon_kib > 0);
        let filled = vec![7_u8; 32 << 20];
        let after = Memory::of(std::process::id()).unwrap();
        assert!(after.rss_anon_kib >= before.rss_anon_kib + 16 * 1024, "{before:?} {after:?}");
        assert!(filled.iter().all(|byte| *byte == 7));
        assert!(Memory::of(u32::MAX).is_err());
    }

    #[test]
    fn fields_of_proc_files_are_read_in_kib() {
        assert_eq!(kib("Name:\tx\nRssAnon:\t     1234 kB\n", "RssAnon:"), Some(1234));
        assert_eq!(kib("Rss: 9 kB\nPss:  77 kB\nPss_Dirty: 1 kB", "Pss:"), Some(77));
        assert_eq!(kib("", "Pss:"), None);
    }
}
