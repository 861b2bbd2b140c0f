//! Is anyone there? A message to ourselves over the real path, twice a second, and a watchdog that does not wait for
//! TCP to notice: whoever is silent for too long is connected anew.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fred::{
    clients::Client,
    interfaces::{ClientLike, EventInterface},
};
use tokio::{
    sync::broadcast,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{SharedFeed, client::Commands, health::HealthCell};

/// Between two probes, and between two signs of life on the subscription connection.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Silence for so long means that nobody is there.
const SILENCE: Duration = Duration::from_millis(1_500);
/// How often silence is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Before the same connection is forced again, if it did not come back by itself.
const FORCE_AGAIN: Duration = Duration::from_secs(5);
/// Probes remembered; older ones are lost.
const MAX_FLYING: usize = 32;

/// What is known of probes and pings.
#[derive(Debug)]
pub(super) struct Probe(Mutex<State>);

#[derive(Debug)]
struct State {
    next: u64,
    /// Numbers and times of probes not yet heard, oldest first.
    flying: VecDeque<(u64, Instant)>,
    /// Redis took the first probe that has not been heard since the last that has.
    unheard_since: Option<Instant>,
    heard: Instant,
    published: Instant,
    pong: Instant,
    distrusted: bool,
    forced_commands: Option<Instant>,
    forced_subscriptions: Option<Instant>,
}

/// What the watchdog found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// No probe came round.
    pub(super) silent: bool,
    /// Connect the command connection anew.
    pub(super) force_commands: bool,
    /// Connect the subscription connection anew.
    pub(super) force_subscriptions: bool,
    /// The age of the oldest probe on its way.
    pub(super) waiting: Option<Duration>,
}

impl Probe {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State {
            next: 1,
            flying: VecDeque::new(),
            unheard_since: None,
            heard: now,
            published: now,
            pong: now,
            distrusted: false,
            forced_commands: None,
            forced_subscriptions: None,
        }))
    }

    /// The number of the probe that is sent now.
    fn send(&self, now: Instant) -> u64 {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        if state.flying.len() == MAX_FLYING {
            state.flying.pop_front();
        }
        state.flying.push_back((number, now));
        number
    }

    /// Redis took a probe.
    fn published(&self, number: u64, now: Instant) {
        let mut state = self.lock();
        state.published = now;
        if state.flying.iter().any(|(flying, _)| *flying == number) {
            state.unheard_since.get_or_insert(now);
        }
    }

    /// A probe came round; answers when it was sent.
    pub(super) fn heard(&self, number: u64, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let (_, sent) = *state.flying.iter().find(|(flying, _)| *flying == number)?;
        state.flying.retain(|(flying, _)| *flying > number);
        state.unheard_since = None;
        state.heard = now;
        Some(sent)
    }

    /// The subscription connection answered.
    pub(super) fn pong(&self) {
        self.lock().pong = Instant::now();
    }

    /// The subscription connection answers nonsense.
    pub(super) fn distrust(&self) {
        self.lock().distrusted = true;
    }

    /// What to do now. `connected` tells of each connection whether the client believes in it: if not, it is at work on
    /// a new one already.
    fn look(&self, now: Instant, commands_connected: bool, subscriptions_connected: bool) -> Verdict {
        let mut state = self.lock();
        let old = |then: Instant| now.saturating_duration_since(then) > SILENCE;
        let may = |forced: Option<Instant>| {
            forced.is_none_or(|forced| now.saturating_duration_since(forced) > FORCE_AGAIN)
        };
        let deaf = state.distrusted || old(state.pong) || state.unheard_since.is_some_and(old);
        let force_commands = old(state.published) && commands_connected && may(state.forced_commands);
        let force_subscriptions = deaf && subscriptions_connected && may(state.forced_subscriptions);
        if force_commands {
            state.forced_commands = Some(now);
        }
        if force_subscriptions {
            state.forced_subscriptions = Some(now);
            state.distrusted = false;
            state.unheard_since = None;
        }
        let age = state.flying.front().map(|(_, sent)| now.saturating_duration_since(*sent));
        Verdict {
            silent: old(state.heard),
            force_commands,
            force_subscriptions,
            waiting: age.filter(|age| *age > PROBE_INTERVAL),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends probes until cancelled.
pub(super) async fn send(
    probe: Arc<Probe>,
    commands: Commands,
    channel: String,
    health: Arc<HealthCell>,
    cancel: CancellationToken,
) {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        let number = probe.send(Instant::now());
        let publish = commands.probe(&channel, number);
        match cancel.run_until_cancelled(timeout(PROBE_INTERVAL, publish)).await {
            Some(Ok(Ok(()))) => probe.published(number, Instant::now()),
            Some(Ok(Err(error))) => health.down(&error.to_string()),
            // Slow is not down: silence decides.
            Some(Err(_)) => {}
            None => return,
        }
    }
}

/// Watches for silence until cancelled.
pub(super) async fn watch(
    probe: Arc<Probe>,
    commands: Client,
    subscriptions: Client,
    feed: SharedFeed,
    health: Arc<HealthCell>,
    cancel: CancellationToken,
) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
        let verdict = probe.look(Instant::now(), commands.is_connected(), subscriptions.is_connected());
        if verdict.silent {
            health.down("nothing that is published arrives");
        }
        if let Some(age) = verdict.waiting {
            health.waiting(age);
        }
        if verdict.force_commands {
            force(&commands, "commands").await;
        }
        if verdict.force_subscriptions {
            force(&subscriptions, "subscriptions").await;
        }
        feed.lock().flush();
    }
}

/// Tells the client to connect anew; it does so whether or not this waits.
async fn force(client: &Client, which: &str) {
    tracing::warn!(which, "a connection to Redis is silent: connecting anew");
    let _told = timeout(Duration::from_millis(1), client.force_reconnection()).await;
}

/// Follows a client's own errors, which are quicker than silence, until cancelled. `commands` is told where the client is
/// its.
pub(super) async fn follow_errors(
    client: Client,
    commands: Option<Commands>,
    health: Arc<HealthCell>,
    cancel: CancellationToken,
) {
    let (mut errors, mut reconnects) = (client.error_rx(), client.reconnect_rx());
    loop {
        tokio::select! {
            // An error that waits together with a reconnect came before it, as a rule.
            biased;
            () = cancel.cancelled() => return,
            error = errors.recv() => {
                match error {
                    Ok((error, _server)) => health.down(&error.to_string()),
                    Err(broadcast::error::RecvError::Lagged(_)) => health.down("many errors"),
                    Err(broadcast::error::RecvError::Closed) => return,
                }
                if let Some(commands) = &commands {
                    commands.lost();
                }
            }
            reconnect = reconnects.recv() => {
                if matches!(reconnect, Err(broadcast::error::RecvError::Closed)) {
                    return;
                }
                if let Some(commands) = &commands {
                    commands.found();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn a_live_path_is_left_alone() {
        let start = Instant::now();
        let probe = Probe::new(start);
        for tick in 0..20 {
            let now = at(start, tick * 500);
            let number = probe.send(now);
            probe.published(number, now);
            assert_eq!(probe.heard(number, now), Some(now));
            probe.lock().pong = now;
            let verdict = probe.look(now, true, true);
            let fine =
                Verdict { silent: false, force_commands: false, force_subscriptions: false, waiting: None };
            assert_eq!(verdict, fine);
        }
    }

    #[test]
    fn a_frozen_server_is_noticed_within_two_seconds_and_forced_once() {
        let start = Instant::now();
        let probe = Probe::new(start);
        probe.send(at(start, 500));
        assert!(!probe.look(at(start, 1_400), true, true).silent);
        let verdict = probe.look(at(start, 1_600), true, true);
        assert!(verdict.silent && verdict.force_commands && verdict.force_subscriptions, "{verdict:?}");
        assert_eq!(verdict.waiting, Some(Duration::from_millis(1_100)));
        let verdict = probe.look(at(start, 1_700), true, true);
        assert!(verdict.silent && !verdict.force_commands && !verdict.force_subscriptions, "{verdict:?}");
        assert!(probe.look(at(start, 6_800), true, true).force_commands);
    }

    #[test]
    fn a_client_that_connects_already_is_not_forced() {
        let start = Instant::now();
        let verdict = Probe::new(start).look(at(start, 5_000), false, false);
        assert!(verdict.silent && !verdict.force_commands && !verdict.force_subscriptions);
    }

    #[test]
    fn a_subscription_that_hears_nothing_is_forced_though_it_answers() {
        let start = Instant::now();
        let probe = Probe::new(start);
        let number = probe.send(start);
        probe.published(number, start);
        let now = at(start, 1_600);
        probe.lock().pong = now;
        probe.lock().published = now;
        let verdict = probe.look(now, true, true);
        assert!(verdict.force_subscriptions && !verdict.force_commands, "{verdict:?}");
    }

    #[test]
    fn unknown_probes_prove_nothing() {
        let start = Instant::now();
        let probe = Probe::new(start);
        let number = probe.send(start);
        assert_eq!(probe.heard(number + 1, start), None);
        assert!(probe.heard(number, start).is_some());
        assert_eq!(probe.heard(number, start), None);
    }
}
