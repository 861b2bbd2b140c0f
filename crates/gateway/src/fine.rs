//! A timer finer than a millisecond, which is as fine as the runtime's own is: it rounds up, and what may wait for a
//! millisecond at most would wait for two.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

#[cfg(target_os = "linux")]
pub use self::kernel::FineTimer;

thread_local! {
    static DUE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When the fine timer rings that this thread waits for. It has one at most: the flusher's.
pub fn due() -> Option<Instant> {
    DUE.get()
}

/// Known to [`due`] for as long as it lives.
struct Due;

impl Due {
    fn after(duration: Duration) -> Self {
        DUE.set(Instant::now().checked_add(duration));
        Self
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        DUE.set(None);
    }
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe::Receiver;

    use super::{Due, Duration};

    /// One of the kernel's timers. To whoever reads it is what a pipe is, from which eight bytes come when it rings;
    /// and for pipes the runtime has a type that owns them.
    #[derive(Debug)]
    pub struct FineTimer(Option<Receiver>);

    impl FineTimer {
        /// For one sleeper at a time, in a runtime. Where the kernel has none to give, it is as coarse as the runtime's.
        pub fn open() -> Self {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(io::Error::from);
            let timer = timer.and_then(Receiver::from_owned_fd_unchecked);
            Self(timer.inspect_err(|error| tracing::warn!(%error, "no fine timer")).ok())
        }

        /// Waits. Cancel safe.
        pub async fn sleep(&self, duration: Duration) {
            if duration.is_zero() {
                return;
            }
            let _due = Due::after(duration);
            let Some(timer) = &self.0 else { return tokio::time::sleep(duration).await };
            if wait(timer, duration).await.is_err() {
                tokio::time::sleep(duration).await;
            }
        }
    }

    async fn wait(timer: &Receiver, duration: Duration) -> io::Result<()> {
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: duration.subsec_nanos().into(),
            },
        };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &once)?;
        loop {
            timer.readable().await?;
            match timer.try_read(&mut [0; 8]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The runtime's own timer.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub struct FineTimer;

#[cfg(not(target_os = "linux"))]
impl FineTimer {
    /// For one sleeper at a time.
    pub fn open() -> Self {
        Self
    }

    /// Waits. Cancel safe.
    pub async fn sleep(&self, duration: Duration) {
        let _due = Due::after(duration);
        tokio::time::sleep(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn it_waits_at_least_as_long_as_it_was_told_and_again_after_it_was_given_up() {
        let timer = FineTimer::open();
        for microseconds in [1, 200, 1_500] {
            let (begun, wait) = (Instant::now(), Duration::from_micros(microseconds));
            timer.sleep(wait).await;
            assert!(begun.elapsed() >= wait);
        }
        let given_up = tokio::time::timeout(Duration::from_millis(2), timer.sleep(Duration::from_secs(3600)));
        assert!(given_up.await.is_err());
        let (begun, wait) = (Instant::now(), Duration::from_millis(1));
        timer.sleep(wait).await;
        assert!((wait..Duration::from_secs(1_800)).contains(&begun.elapsed()));
        timer.sleep(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn it_is_known_when_it_rings_for_as_long_as_somebody_waits() {
        let timer = FineTimer::open();
        let (begun, hour) = (Instant::now(), Duration::from_secs(3600));
        let looked = async {
            tokio::task::yield_now().await;
            due()
        };
        let seen = tokio::select! {
            biased;
            () = timer.sleep(hour) => None,
            seen = looked => seen,
        };
        assert!((begun + hour..Instant::now() + hour).contains(&seen.unwrap()));
        assert_eq!(due(), None, "nobody waits any more");
        timer.sleep(Duration::from_micros(1)).await;
        assert_eq!(due(), None);
    }
}
