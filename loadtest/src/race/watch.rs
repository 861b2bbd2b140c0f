//! Who looks on: subscribers of each node in both codecs, and what they must have seen.
//!
//! A version never falls, a version has one value for everybody, events come once and in order, and at the end
//! everybody holds the last value.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use roomcast_protocol::{Epoch, Incoming, Join, Offset, Op, RoomName, Since};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{arena::Shared, verdict::Verdicts};
use crate::{
    client::{Client, ClientError},
    target::{Identity, Wire},
};

/// On each node.
const WATCHERS: usize = 2;
/// A count that was lost on the way is told anew within the look at quiet rooms, which is every 2 s.
const SETTLE: Duration = Duration::from_secs(12);
const ARRIVE: Duration = Duration::from_secs(20);

/// A counter as one subscriber saw it: each value that was told, by its version.
#[derive(Debug, Default, Clone)]
pub(super) struct Track {
    pub(super) last: Option<(u64, u64)>,
    pub(super) values: BTreeMap<u64, u64>,
}

/// An event as one subscriber saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) event: String,
    pub(super) data: Value,
}

/// What one subscriber saw.
#[derive(Debug, Default, Clone)]
pub(super) struct Sight {
    pub(super) who: String,
    pub(super) counts: BTreeMap<(String, String), Track>,
    pub(super) events: Vec<Seen>,
    position: Option<(Epoch, Offset)>,
    breaches: Vec<String>,
    resets: u32,
}

impl Sight {
    fn count(&mut self, target: &str, counter: &str, value: u64, version: u64, told: &str) {
        let track = self.counts.entry((target.to_owned(), counter.to_owned())).or_default();
        // The same again is no step back: what may have been missed is told anew.
        if let Some((held, before)) = track.last
            && (version < before || version == before && value != held)
        {
            let breach = format!(
                "{}: {target} {counter} {value} of version {version} by {told} after {held} of {before}",
                self.who
            );
            self.breaches.push(breach);
        }
        track.last = Some((value, version));
        track.values.insert(version, value);
    }

    fn event(&mut self, event: &str, data: Value, offset: Offset) {
        match &mut self.position {
            Some((_, last)) if offset == last.next() => *last = offset,
            position => {
                let breach = format!("{}: event {offset:?} after {position:?}", self.who);
                self.breaches.push(breach);
            }
        }
        self.events.push(Seen { event: event.to_owned(), data });
    }

    fn push(&mut self, push: Incoming) {
        match (push.push.as_deref(), push.target, push.counter, push.value, push.version) {
            (Some("count"), Some(target), Some(counter), Some(value), Some(version)) => {
                self.count(&target, &counter, value, version, "a push");
            }
            (Some("event"), ..) => {
                let data = push.data.and_then(|data| data.to().ok()).unwrap_or(Value::Null);
                self.event(&push.event.unwrap_or_default(), data, push.offset.unwrap_or(Offset(0)));
            }
            (Some("reset"), ..) => {
                self.resets += 1;
                self.position = push.epoch.zip(push.offset);
            }
            _ => {}
        }
    }

    /// The value that it holds of a counter; 0 where it was told none.
    pub(super) fn value(&self, target: &str, counter: &str) -> u64 {
        let track = self.counts.get(&(target.to_owned(), counter.to_owned()));
        track.and_then(|track| track.last).map_or(0, |(value, _)| value)
    }

    /// Each value of a counter, in the order of versions.
    pub(super) fn values(&self, target: &str, counter: &str) -> Vec<u64> {
        let track = self.counts.get(&(target.to_owned(), counter.to_owned()));
        track.map(|track| track.values.values().copied().collect()).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Joined {
    epoch: Epoch,
    offset: Offset,
    recovered: bool,
    events: Vec<Past>,
    #[serde(default)]
    counts: Vec<Count>,
}

#[derive(Deserialize)]
struct Count {
    target: String,
    counter: String,
    value: u64,
    version: u64,
}

#[derive(Deserialize)]
struct Past {
    event: String,
    data: Value,
    offset: Offset,
}

type Sights = Arc<Mutex<Vec<Sight>>>;

fn open(sights: &Sights) -> MutexGuard<'_, Vec<Sight>> {
    sights.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The subscribers of one room.
#[derive(Debug)]
pub(super) struct Watch {
    sights: Sights,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Watch {
    /// Comes back when everybody is in the room.
    pub(super) async fn start(arena: &Shared, room: &RoomName) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let sights = Sights::default();
        let mut tasks = JoinSet::new();
        for index in 0..arena.sockets.len() * WATCHERS {
            let who = format!("subscriber {index}");
            open(&sights).push(Sight { who, ..Sight::default() });
            tasks.spawn(follow(arena.clone(), room.clone(), index, sights.clone(), stopped.clone()));
        }
        let deadline = Instant::now() + ARRIVE;
        while open(&sights).iter().any(|sight| sight.position.is_none()) {
            ensure!(Instant::now() < deadline, "the subscribers of {} did not come in", room.as_str());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { sights, stop, tasks })
    }

    /// Waits until all have seen it, or for as long as it may take.
    pub(super) async fn until(&self, seen: impl Fn(&Sight) -> bool) {
        let deadline = Instant::now() + SETTLE;
        while !open(&self.sights).iter().all(&seen) && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it, and judges what holds for every room. `last`: target, counter and value that everybody must hold.
    pub(super) async fn judge(
        mut self,
        last: &[(String, &str, u64)],
        verdicts: &mut Verdicts,
    ) -> anyhow::Result<Vec<Sight>> {
        self.until(|sight| {
            last.iter().all(|(target, counter, value)| sight.value(target, counter) == *value)
        })
        .await;
        // What comes now would come too much.
        sleep(Duration::from_millis(300)).await;
        self.stop.send_replace(true);
        while let Some(done) = self.tasks.join_next().await {
            done.context("a subscriber panicked")?;
        }
        let sights = open(&self.sights).clone();
        judge(&sights, last, verdicts);
        Ok(sights)
    }
}

fn judge(sights: &[Sight], last: &[(String, &str, u64)], verdicts: &mut Verdicts) {
    let breaches: Vec<_> = sights.iter().flat_map(|sight| sight.breaches.clone()).collect();
    let pushes = sights.iter().map(|sight| {
        sight.events.len() + sight.counts.values().map(|track| track.values.len()).sum::<usize>()
    });
    verdicts.none("no subscriber saw anything run backwards, twice or with a gap", &breaches, pushes.sum());
    let resets: u32 = sights.iter().map(|sight| sight.resets).sum();
    verdicts.must("no subscriber lost continuity", resets == 0, format!("{resets} resets"));
    let mut told: BTreeMap<_, (u64, &str)> = BTreeMap::new();
    let mut breaches = Vec::new();
    for sight in sights {
        for (of, track) in &sight.counts {
            for (version, value) in &track.values {
                let (first, by) = *told.entry((of, version)).or_insert((*value, &sight.who));
                if first != *value {
                    breaches.push(format!(
                        "{of:?} version {version}: {first} for {by}, {value} for {}",
                        sight.who
                    ));
                }
            }
        }
    }
    verdicts.none("a version has the same value for every subscriber", &breaches, told.len());
    let wrong = |sight: &Sight| {
        let differs =
            |(target, counter, value): &&(String, &str, u64)| sight.value(target, counter) != *value;
        let (target, counter, value) = last.iter().find(differs)?;
        Some(format!("{}: {target} {counter} is {}, not {value}", sight.who, sight.value(target, counter)))
    };
    let wrong: Vec<_> = sights.iter().filter_map(wrong).collect();
    if !last.is_empty() {
        verdicts.none("every subscriber holds the last value", &wrong, sights.len());
    }
}

async fn follow(
    arena: Shared,
    room: RoomName,
    index: usize,
    sights: Sights,
    mut stop: watch::Receiver<bool>,
) {
    for turn in index.. {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ended = listen(&arena, &room, turn, index, &sights) => {}
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// One connection, from its join to its end.
async fn listen(
    arena: &Shared,
    room: &RoomName,
    turn: usize,
    index: usize,
    sights: &Sights,
) -> Result<(), ClientError> {
    let nodes = &arena.sockets;
    let Some(target) = nodes.get(turn % nodes.len()) else { return Ok(()) };
    let codec = Wire::Both.codec(index / nodes.len());
    let (mut client, _) = Client::connect(target, codec, None, Identity::guest()).await?;
    let since = open(sights).get(index).and_then(|sight| sight.position.clone());
    let since = since.map(|(epoch, offset)| Since { epoch, offset });
    let join = Op::Join(Join { room: room.clone(), since: since.clone(), recent: None });
    let joined: Joined = timeout(ARRIVE, client.request_patiently(join))
        .await
        .map_err(|_| ClientError::Timeout(ARRIVE))??
        .to()?;
    {
        let mut sights = open(sights);
        let Some(sight) = sights.get_mut(index) else { return Ok(()) };
        if since.is_none() {
            sight.position = Some((joined.epoch, joined.offset));
        } else if !joined.recovered {
            sight.resets += 1;
            sight.position = Some((joined.epoch, joined.offset));
        }
        for past in joined.events {
            sight.event(&past.event, past.data, past.offset);
        }
        for Count { target, counter, value, version } in joined.counts {
            sight.count(&target, &counter, value, version, "a join");
        }
    }
    for push in client.take_pending() {
        if let Some(sight) = open(sights).get_mut(index) {
            sight.push(push);
        }
    }
    loop {
        let push = client.read().await?;
        if let Some(sight) = open(sights).get_mut(index) {
            sight.push(push);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight() -> Sight {
        let position = Some((Epoch::new("0123456789abcdef"), Offset(4)));
        Sight { who: "one".into(), position, ..Sight::default() }
    }

    fn broken(sights: &[Sight], last: &[(String, &str, u64)]) -> Vec<String> {
        let mut verdicts = Verdicts::default();
        judge(sights, last, &mut verdicts);
        let broken = verdicts.into_vec().into_iter().filter(|verdict| !verdict.held);
        broken.map(|verdict| verdict.invariant).collect()
    }

    #[test]
    fn what_rises_and_is_the_same_for_all_holds() {
        let mut one = sight();
        one.count("a", "like", 1, 10, "a push");
        one.count("a", "like", 1, 10, "a join");
        one.count("a", "like", 0, 11, "a push");
        one.event("doc", Value::Null, Offset(5));
        let mut other = sight();
        other.count("a", "like", 0, 11, "a push");
        assert_eq!(broken(&[one, other], &[("a".into(), "like", 0)]), Vec::<String>::new());
    }

    #[test]
    fn each_way_of_running_backwards_is_found() {
        let last = [("a".to_owned(), "like", 2)];
        let seen = |counts: &[(u64, u64)]| {
            let mut sight = sight();
            for (value, version) in counts {
                sight.count("a", "like", *value, *version, "a push");
            }
            sight
        };
        assert_eq!(broken(&[seen(&[(1, 1), (2, 2)])], &last), Vec::<String>::new());
        assert!(broken(&[seen(&[(3, 3), (2, 2)])], &last)[0].contains("backwards"));
        assert!(broken(&[seen(&[(1, 2), (2, 2)])], &last)[0].contains("backwards"));
        let two = [seen(&[(1, 1), (2, 2)]), seen(&[(5, 1), (2, 2)])];
        assert_eq!(broken(&two, &last), ["a version has the same value for every subscriber"]);
        assert_eq!(broken(&[seen(&[(1, 1)])], &last), ["every subscriber holds the last value"]);
        for offset in [4, 6] {
            let mut sight = seen(&[(2, 2)]);
            sight.event("doc", Value::Null, Offset(offset));
            assert!(broken(&[sight], &last)[0].contains("gap"), "{offset}");
        }
    }
}
