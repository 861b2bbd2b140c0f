//! A publisher: one event after the other, each with a key and repeated until it is acknowledged. A second kind
//! counts instead, with keys as well.

use std::{collections::hash_map::Entry, net::Ipv4Addr, time::Duration};

use roomcast_protocol::{Codec, Count, Data, Epoch, ErrorCode, Offset, Op, Position, Publish};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    dice::Dice,
    follower::Mark,
    ledger::{Ledger, Sent},
    subscriber::chain,
};
use crate::{
    client::{Client, ClientError},
    target::{Identity, Target},
};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the last event is repeated after the end.
const LAST_WORD: Duration = Duration::from_secs(10);
/// How often somebody who may not count looks again.
const IDLE: Duration = Duration::from_millis(50);
const LEAST_PAUSE: Duration = Duration::from_millis(20);
const MOST_PAUSE: Duration = Duration::from_millis(150);

/// The counter that is counted in the first room.
pub(super) const COUNTER: (&str, &str) = ("photo", "download");

/// How much is published; the faults may change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// Bytes of padding per event.
    pub(super) payload: usize,
    /// Between two events of one publisher, divided by this.
    pub(super) hurry: u32,
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Publishes into the room of that index.
    Publish(usize),
    /// Counts in the first room.
    Count,
}

/// Who it is.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) id: u32,
    pub(super) work: Work,
    pub(super) period: Duration,
    pub(super) codec: Codec,
    pub(super) source: Ipv4Addr,
    pub(super) target: Target,
    pub(super) identity: Identity,
    pub(super) seed: u64,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    mark: Mark,
    x: &'a str,
}

#[derive(Deserialize)]
struct Published {
    epoch: Epoch,
    offset: Offset,
}

/// One publisher at work.
struct Publisher {
    plan: Plan,
    ledger: Ledger,
    client: Option<Client>,
    dice: Dice,
}

/// Publishes until it is told to stop.
pub(super) async fn publish(
    plan: Plan,
    load: watch::Receiver<Load>,
    counting: watch::Receiver<bool>,
    stop: CancellationToken,
    ledger: Ledger,
) {
    let dice = Dice::new(plan.seed, 2_000 + u64::from(plan.id));
    let mut publisher = Publisher { plan, ledger, client: None, dice };
    let mut n = 0;
    let mut next = Instant::now() + publisher.dice.between(Duration::ZERO, publisher.plan.period);
    while publisher.idle(next, &stop).await {
        let Load { payload, hurry } = *load.borrow();
        if publisher.plan.work == Work::Count && !*counting.borrow() {
            next = Instant::now() + IDLE;
            continue;
        }
        n += 1;
        let mark = Mark { p: publisher.plan.id, n };
        if let Err(error) = publisher.one(mark, payload, &stop).await {
            publisher.ledger.fault(&format!("publisher {}: {error:#}", publisher.plan.id));
            return;
        }
        next = (next + publisher.plan.period / hurry.max(1)).max(Instant::now());
    }
}

impl Publisher {
    /// Answers pings until the next event is due; false when told to stop.
    async fn idle(&mut self, until: Instant, stop: &CancellationToken) -> bool {
        loop {
            let heard = async {
                match &mut self.client {
                    Some(client) => client.message().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return false,
                () = sleep_until(until) => return true,
                heard = heard => {
                    if heard.is_err() {
                        self.client = None;
                    }
                }
            }
        }
    }

    async fn one(&mut self, mark: Mark, payload: usize, stop: &CancellationToken) -> anyhow::Result<()> {
        let op = self.op(mark, payload)?;
        let mut give_up: Option<Instant> = None;
        loop {
            if stop.is_cancelled() && Instant::now() > *give_up.get_or_insert(Instant::now() + LAST_WORD) {
                return Ok(());
            }
            self.sending(mark);
            let outcome = timeout(PATIENCE, self.attempt(op.clone())).await;
            let pause = self.dice.between(LEAST_PAUSE, MOST_PAUSE);
            let pause = match outcome {
                Ok(Ok(answer)) => return self.acknowledged(mark, &answer),
                Ok(Err(ClientError::Failed(failure))) => {
                    let told = failure.retry_ms.map(Duration::from_millis);
                    let passing = [ErrorCode::Unavailable, ErrorCode::RateLimited, ErrorCode::Internal];
                    anyhow::ensure!(
                        passing.contains(&failure.code),
                        "refused with {}: {}",
                        failure.code.as_str(),
                        failure.message
                    );
                    self.ledger.refused(format!("publish: {}", failure.code.as_str()));
                    told.unwrap_or(pause).min(Duration::from_secs(1))
                }
                Ok(Err(error)) => {
                    self.client = None;
                    self.ledger.refused(format!("publish: {}", chain(&error)));
                    pause
                }
                Err(_) => {
                    self.client = None;
                    self.ledger.refused(format!("publish: no answer within {PATIENCE:?}"));
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    fn op(&self, mark: Mark, payload: usize) -> anyhow::Result<Op> {
        let key = Some(format!("chaos-{}-{}", mark.p, mark.n));
        let room = |index: usize| {
            self.ledger.rooms.get(index).cloned().ok_or_else(|| anyhow::anyhow!("no room {index}"))
        };
        Ok(match self.plan.work {
            Work::Publish(index) => {
                let data = Data::of(&Body { mark, x: &"x".repeat(payload) })?;
                Op::Publish(Publish { room: room(index)?, event: "chaos".to_owned(), data, key })
            }
            Work::Count => {
                let (target, counter) = COUNTER;
                let (target, counter) = (target.to_owned(), counter.to_owned());
                Op::Count(Count { room: room(0)?, target, counter, by: 1, key })
            }
        })
    }

    async fn attempt(&mut self, op: Op) -> Result<Data, ClientError> {
        let client = if let Some(client) = &mut self.client {
            client
        } else {
            let name = format!("publisher-{}", self.plan.id);
            let who = self.plan.identity.member(&name).unwrap_or_else(|_| Identity::guest());
            let Plan { target, codec, source, .. } = &self.plan;
            let (client, _) = Client::connect(target, *codec, Some(*source), who).await?;
            self.client.insert(client)
        };
        client.request(op).await
    }

    fn sending(&self, mark: Mark) {
        let Work::Publish(room) = self.plan.work else { return };
        let now = self.ledger.now();
        match self.ledger.open().sent.entry(mark) {
            Entry::Occupied(mut sent) => sent.get_mut().tries += 1,
            Entry::Vacant(place) => {
                place.insert(Sent { room, first: now, acked: None, tries: 1 });
            }
        }
    }

    fn acknowledged(&self, mark: Mark, answer: &Data) -> anyhow::Result<()> {
        let now = self.ledger.now();
        if self.plan.work == Work::Count {
            self.ledger.open().counted += 1;
            return Ok(());
        }
        let Published { epoch, offset } = answer.to()?;
        if let Some(sent) = self.ledger.open().sent.get_mut(&mark) {
            sent.acked = Some((now, Position { epoch, offset }));
        }
        Ok(())
    }
}
