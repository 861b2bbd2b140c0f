//! Is anyone there? A message to ourselves over the real path, twice a second, and a watchdog that does not wait for
//! TCP to notice: whoever is silent for too long is connected anew.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fred::{
    error::{Error, ErrorKind},
    types::Value,
};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{
    fault,
    multiplexed::Multiplexed,
    shard::{Context, Shard},
};

/// Between two probes, and between two signs of life on the subscription connection.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Silence for so long means that nobody is there.
const SILENCE: Duration = Duration::from_millis(1_500);
/// How often silence is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
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
    /// The subscription connection's last sign of life; none while there is no connection.
    pong: Option<Instant>,
}

/// What the watchdog found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// No probe came round.
    pub(super) silent: bool,
    /// Connect the command connection anew.
    pub(super) give_up_commands: bool,
    /// Connect the subscription connection anew.
    pub(super) give_up_subscriptions: bool,
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
            pong: None,
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

    /// A command connection stands that nothing was sent over yet.
    pub(super) fn commands_opened(&self, now: Instant) {
        self.lock().published = now;
    }

    /// A subscription connection stands that knows of nothing sent before.
    pub(super) fn subscriptions_opened(&self, now: Instant) {
        let mut state = self.lock();
        state.pong = Some(now);
        state.unheard_since = None;
    }

    /// Whether there is a subscription connection.
    pub(super) fn subscriptions_stand(&self) -> bool {
        self.lock().pong.is_some()
    }

    /// There is no subscription connection.
    pub(super) fn subscriptions_closed(&self) {
        self.lock().pong = None;
    }

    /// The subscription connection answered.
    pub(super) fn pong(&self) {
        let mut state = self.lock();
        if state.pong.is_some() {
            state.pong = Some(Instant::now());
        }
    }

    /// What to do now.
    fn look(&self, now: Instant, commands_stand: bool) -> Verdict {
        let mut state = self.lock();
        let old = |then: Instant| now.saturating_duration_since(then) > SILENCE;
        let deaf = state.pong.is_some_and(|pong| old(pong) || state.unheard_since.is_some_and(old));
        let give_up_commands = commands_stand && old(state.published);
        if give_up_commands {
            state.published = now;
        }
        if deaf {
            state.pong = None;
        }
        let age = state.flying.front().map(|(_, sent)| now.saturating_duration_since(*sent));
        Verdict {
            silent: old(state.heard),
            give_up_commands,
            give_up_subscriptions: deaf,
            waiting: age.filter(|age| *age > PROBE_INTERVAL),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends probes for ever.
pub(super) async fn send(context: Arc<Context>, shard: Arc<Shard>) {
    let mut ticks = interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut wanted = false;
    loop {
        if !std::mem::take(&mut wanted) {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shard.probe_wanted() => {}
            }
        }
        let number = shard.probe.send(Instant::now());
        let Some(commands) = shard.commands() else { continue };
        let published = publish(&context, &commands, &shard.probe_channel, number);
        let outcome = tokio::select! {
            outcome = timeout(PROBE_INTERVAL, published) => outcome,
            // Whatever this one waits for belongs to the past.
            () = shard.probe_wanted() => {
                wanted = true;
                continue;
            }
        };
        match outcome {
            Ok(Ok(())) => shard.probe.published(number, Instant::now()),
            // Slow is not down: silence decides.
            Ok(Err(error)) if *error.kind() == ErrorKind::Timeout => {}
            Err(_) => {}
            Ok(Err(error)) => context.health.down(&shard.server, &error.to_string()),
        }
    }
}

/// Publishes a probe, after a look at a key: a server that is loading its data, or that has lost its cluster, would
/// publish and do nothing else. It takes no permit: a busy node is not a deaf one.
async fn publish(context: &Context, commands: &Multiplexed, channel: &str, number: u64) -> Result<(), Error> {
    let key = context.keys.leases();
    let looked = commands.send::<Value>("EXISTS", &[key.into()]).await;
    if let Err(error) = looked
        && !fault::is_elsewhere(&error)
    {
        return Err(error);
    }
    let words = [channel.into(), number.to_string().into()];
    commands.send::<Value>("PUBLISH", &words).await.map(|_| ())
}

/// Watches for silence for ever.
pub(super) async fn watch(context: Arc<Context>, shard: Arc<Shard>) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let verdict = shard.probe.look(Instant::now(), shard.commands().is_some());
        if verdict.silent {
            context.health.down(&shard.server, "nothing that is published arrives");
        }
        if let Some(age) = verdict.waiting {
            context.health.waiting(age);
        }
        if verdict.give_up_commands {
            shard.give_up_commands();
        }
        if verdict.give_up_subscriptions {
            shard.give_up_subscriptions();
        }
        context.feed.lock().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    fn connected(start: Instant) -> Probe {
        let probe = Probe::new(start);
        probe.commands_opened(start);
        probe.subscriptions_opened(start);
        probe
    }

    #[test]
    fn a_live_path_is_left_alone() {
        let start = Instant::now();
        let probe = connected(start);
        for tick in 0..20 {
            let now = at(start, tick * 500);
            let number = probe.send(now);
            probe.published(number, now);
            assert_eq!(probe.heard(number, now), Some(now));
            probe.lock().pong = Some(now);
            let fine = Verdict {
                silent: false,
                give_up_commands: false,
                give_up_subscriptions: false,
                waiting: None,
            };
            assert_eq!(probe.look(now, true), fine);
        }
    }

    #[test]
    fn a_frozen_server_is_noticed_within_two_seconds_and_given_up_once() {
        let start = Instant::now();
        let probe = connected(start);
        probe.send(at(start, 500));
        assert!(!probe.look(at(start, 1_400), true).silent);
        let verdict = probe.look(at(start, 1_600), true);
        assert!(verdict.silent && verdict.give_up_commands && verdict.give_up_subscriptions, "{verdict:?}");
        assert_eq!(verdict.waiting, Some(Duration::from_millis(1_100)));
        let verdict = probe.look(at(start, 1_700), false);
        assert!(verdict.silent && !verdict.give_up_commands && !verdict.give_up_subscriptions, "{verdict:?}");
        let again = at(start, 6_000);
        probe.commands_opened(again);
        probe.subscriptions_opened(again);
        let verdict = probe.look(at(start, 7_000), true);
        assert!(
            !verdict.give_up_commands && !verdict.give_up_subscriptions,
            "new connections have their time"
        );
        let verdict = probe.look(at(start, 7_600), true);
        assert!(verdict.give_up_commands && verdict.give_up_subscriptions, "{verdict:?}");
    }

    #[test]
    fn nothing_is_given_up_while_it_connects() {
        let start = Instant::now();
        let verdict = Probe::new(start).look(at(start, 5_000), false);
        assert!(verdict.silent && !verdict.give_up_commands && !verdict.give_up_subscriptions);
    }

    #[test]
    fn a_subscription_that_hears_nothing_is_given_up_though_it_answers() {
        let start = Instant::now();
        let probe = connected(start);
        let number = probe.send(start);
        probe.published(number, start);
        let now = at(start, 1_600);
        probe.lock().pong = Some(now);
        probe.lock().published = now;
        let verdict = probe.look(now, true);
        assert!(verdict.give_up_subscriptions && !verdict.give_up_commands, "{verdict:?}");
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
