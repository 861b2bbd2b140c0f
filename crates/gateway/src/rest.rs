//! The rests of a busy worker: its thread sleeps before it asks the kernel what has come, so that more comes together.
//! When it does is [`roomcast_core::rest`]'s to say.

use std::{
    cell::{Cell, RefCell},
    thread,
    time::{Duration, Instant},
};

use roomcast_core::rest::{Heard, Rest};
use tokio::runtime::Builder;

use crate::{fine, metrics};

thread_local! {
    static REST: RefCell<Rest> = RefCell::new(Rest::new(Duration::ZERO));
    static HEARD: Cell<Heard> = const { Cell::new(Heard::NOTHING) };
}

/// A frame was heard on this thread.
pub fn heard() {
    HEARD.with(|cell| cell.update(|heard| Heard { frames: heard.frames + 1, ..heard }));
}

/// A session's read brought something on this thread.
pub fn read() {
    HEARD.with(|cell| cell.update(|heard| Heard { reads: heard.reads + 1, ..heard }));
}

/// How many reads were counted on this thread since it paused.
#[cfg(test)]
pub fn reads() -> u64 {
    HEARD.get().reads
}

/// Has the runtime of this thread rest when it is busy, for at most this long; of zero: never.
pub fn when_busy(runtime: &mut Builder, most: Duration) {
    if most.is_zero() {
        return;
    }
    REST.set(Rest::new(most));
    be_punctual();
    runtime.on_thread_park(|| {
        let rest = pause();
        if !rest.is_zero() {
            thread::sleep(rest);
            metrics::rested();
        }
    });
    runtime.on_thread_unpark(wake);
}

/// All that there was is done: how long to rest.
fn pause() -> Duration {
    REST.with_borrow_mut(|rest| rest.pause(Instant::now(), HEARD.replace(Heard::NOTHING), fine::due()))
}

fn wake() {
    REST.with_borrow_mut(|rest| rest.wake(Instant::now()));
}

/// The kernel adds up to 50 µs to what a thread sleeps, to wake several together.
fn be_punctual() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)) {
        tracing::debug!(%error, "rests may be longer by the kernel's slack");
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, task::Poll, thread::JoinHandle};

    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    /// One that reads and hears frames, and works on each for as long as it is told to.
    fn worker(most: Duration) -> (UnboundedSender<Duration>, JoinHandle<()>) {
        let (say, mut said) = unbounded_channel();
        let run = move || {
            let mut runtime = Builder::new_current_thread();
            when_busy(&mut runtime, most);
            runtime.build().unwrap().block_on(async {
                let mut together = Vec::new();
                while said.recv_many(&mut together, 64).await > 0 {
                    read();
                    for work in together.drain(..) {
                        heard();
                        spin(work);
                    }
                }
            });
        };
        (say, thread::spawn(run))
    }

    fn spin(time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn what_the_flusher_waits_for_ends_a_rest() {
        let (most, sooner) = (Duration::from_millis(1), Duration::from_micros(300));
        REST.set(Rest::new(most));
        // Reads, hears, works, and has no pause to speak of; after a rest it reads all at once.
        let rested = Cell::new(false);
        let turn = || {
            (0..if rested.get() { 1 } else { 8 }).for_each(|_| read());
            (0..8).for_each(|_| heard());
            spin(Duration::from_micros(100));
            let rest = pause();
            wake();
            rested.set(!rest.is_zero());
            rest
        };
        let timer = fine::FineTimer::open();
        let begun = Instant::now();
        // Again where this thread had to wait for a processor meanwhile, and looks at once.
        loop {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is tired after some turns");
            if turn() < most {
                continue;
            }
            let cut = {
                let mut waits = pin!(timer.sleep(sooner));
                assert!(poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx).is_pending())).await);
                turn()
            };
            assert!(cut <= sooner, "{cut:?}");
            if !cut.is_zero() && turn() == most {
                break;
            }
        }
    }

    /// In one test, because the figure is the process'.
    #[test]
    fn a_worker_that_hears_much_rests_and_one_that_hears_little_does_not() {
        let most = Duration::from_millis(1);
        let before = metrics::rests();
        let (say, worked) = worker(most);
        for _ in 0..40 {
            say.send(Duration::from_micros(60)).unwrap();
            thread::sleep(most * 3);
        }
        drop(say);
        worked.join().unwrap();
        assert_eq!(metrics::rests(), before, "it heard little");

        let flood = |most, ends: &dyn Fn(Instant) -> bool| {
            let (say, worked) = worker(most);
            let begun = Instant::now();
            while !ends(begun) {
                say.send(Duration::from_micros(60)).unwrap();
                spin(Duration::from_micros(80));
            }
            drop(say);
            worked.join().unwrap();
            metrics::rests() - before
        };
        let never = flood(Duration::ZERO, &|begun| begun.elapsed() > Duration::from_millis(300));
        assert_eq!(never, 0, "it was told not to");
        let rests =
            flood(most, &|begun| metrics::rests() > before || begun.elapsed() > Duration::from_secs(20));
        assert!(rests > 0, "it heard much");
    }
}
