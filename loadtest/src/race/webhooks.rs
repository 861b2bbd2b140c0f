//! Webhooks: taken in once, worked on once, whoever dies; and how fast they are answered.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use roomcast_protocol::RoomName;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::{Found, Play, arena::Shared, store::Store, verdict::Verdicts, watch::Watch};
use crate::report::{Latency, histogram};

/// A dead node's entries are another's after its lease of 10 s.
const WORKED_OFF: Duration = Duration::from_secs(45);
const KILLED: usize = 2;

pub(super) async fn webhooks(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const IDS: usize = 500;
    let room = RoomName::parse("event:race-webhooks")?;
    let watch = Watch::start(arena, &room).await?;
    arena.rain(true);
    let mut senders = JoinSet::new();
    for index in 0..IDS * 2 {
        let arena = arena.clone();
        // The same id twice, most often at nearly the same time.
        let (id, late) = (index / 2, index + play.dice.below(400));
        senders.spawn(async move {
            sleep(Duration::from_millis(late as u64)).await;
            let body = order(id, 1);
            let told = arena.ask(index, "POST", "/api/v1/ingest/shop", Some(&body)).await?;
            anyhow::Ok((id, told.status, told.again))
        });
    }
    let killing = async {
        sleep(Duration::from_millis(600)).await;
        let mut cluster = arena.cluster.lock().await;
        cluster.nodes.get_mut(KILLED).context("no such node")?.kill().await
    };
    let (killed, answers) = tokio::join!(killing, async {
        let mut answers: BTreeMap<usize, Vec<(u16, bool)>> = BTreeMap::new();
        while let Some(done) = senders.join_next().await {
            let (id, status, again) = done.context("a sender panicked")??;
            answers.entry(id).or_default().push((status, again));
        }
        anyhow::Ok(answers)
    });
    killed?;
    let answers = answers?;
    let mut store = arena.store().await?;
    let worked_off = worked_off(&mut store, "shop").await?;
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    let wrong: Vec<_> = answers
        .iter()
        .filter(|(_, told)| {
            let taken = told.iter().filter(|(status, _)| *status == 202).count();
            let unsure = told.iter().any(|(_, again)| *again);
            told.iter().any(|(status, _)| !matches!(status, 200 | 202)) || taken > 1 || taken == 0 && !unsure
        })
        .map(|(id, told)| format!("{id}: {told:?}"))
        .collect();
    verdicts.none("of two posts one is taken in, the other is a duplicate", &wrong, answers.len());
    let other = arena.ask(0, "POST", "/api/v1/ingest/shop", Some(&order(0, 2))).await?;
    verdicts.same("the same id with another body is refused", &other.status, &409);
    verdicts.must("the queue in Redis is worked off", worked_off.is_some(), format!("after {worked_off:?}"));
    let dead = store.number(&["XLEN", "rc:{ingest:shop}:dead"]).await?;
    verdicts.same("none was given up", &dead, &0);
    let log = store.stream(&format!("rc:{{{}}}:log", room.as_str())).await?;
    let published = log.iter().filter_map(|entry| {
        let event: Value = serde_json::from_str(entry.get("b")?).ok()?;
        event["data"]["uuid"].as_str().map(str::to_owned)
    });
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    published.for_each(|id| *times.entry(id).or_default() += 1);
    let wrong = once(&times, IDS);
    verdicts.none("each is one event in the room's log in Redis", &wrong, IDS);
    watch.until(|sight| sight.events.len() >= IDS).await;
    let sights = watch.judge(&[], &mut verdicts).await?;
    let mut wrong = Vec::new();
    for sight in &sights {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let seen = sight.events.iter().filter_map(|seen| seen.data["uuid"].as_str());
        seen.for_each(|id| *times.entry(id.to_owned()).or_default() += 1);
        wrong.extend(once(&times, IDS).into_iter().map(|wrong| format!("{}: {wrong}", sight.who)));
    }
    verdicts.none("every subscriber saw each once, also those of the dead node", &wrong, sights.len() * IDS);
    // The others want three nodes again.
    arena.cluster.lock().await.restart(KILLED).await?;
    let mut found = Found::from(verdicts);
    found.figures.push(("queue empty after", format!("{worked_off:?} since the last post")));
    Ok(found)
}

/// Which ids came otherwise than once.
fn once(times: &BTreeMap<String, usize>, ids: usize) -> Vec<String> {
    let missing = (0..ids).map(uuid).filter(|id| !times.contains_key(id)).map(|id| format!("{id} never"));
    let often =
        times.iter().filter(|(_, times)| **times != 1).map(|(id, times)| format!("{id} {times} times"));
    missing.chain(often).collect()
}

/// What senders wait for, while five workers a node are at work on what came before. No fault is made: this measures.
pub(super) async fn intake(arena: &Shared) -> anyhow::Result<Found> {
    const POSTS: usize = 900;
    const AT_ONCE: usize = 30;
    let mut store = arena.store().await?;
    let mut senders = JoinSet::new();
    let (mut waiting, mut statuses): (u64, BTreeMap<u16, usize>) = (0, BTreeMap::new());
    let mut latency = histogram();
    for lane in 0..AT_ONCE {
        let arena = arena.clone();
        senders.spawn(async move {
            let mut told = Vec::new();
            for index in (lane..POSTS).step_by(AT_ONCE) {
                let body = order(index, 1);
                let began = Instant::now();
                let answer = arena.api.call(index % 3, "POST", "/api/v1/ingest/clock", Some(&body)).await?;
                told.push((answer.status, began.elapsed()));
            }
            anyhow::Ok(told)
        });
    }
    let began = Instant::now();
    loop {
        tokio::select! {
            done = senders.join_next() => match done {
                Some(done) => for (status, took) in done.context("a sender panicked")?? {
                    *statuses.entry(status).or_default() += 1;
                    latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                },
                None => break,
            },
            depth = store.number(&["XLEN", "rc:{ingest:clock}:q"]) => {
                waiting = waiting.max(depth?);
                sleep(Duration::from_millis(3)).await;
            }
        }
    }
    let took = began.elapsed();
    let mut verdicts = Verdicts::default();
    verdicts.same("every post was taken in", &statuses, &BTreeMap::from([(202, POSTS)]));
    let empty = worked_off(&mut store, "clock").await?;
    verdicts.must("the queue in Redis is worked off", empty.is_some(), format!("after {empty:?}"));
    let mut found = Found::from(verdicts);
    found.figures.push(("answers to posts", Latency::of(&latency).to_string()));
    let load = format!("{POSTS} posts, {AT_ONCE} at once, in {took:?}; at most {waiting} waited for workers");
    found.figures.push(("load", load));
    Ok(found)
}

/// How long it took until nothing of a source waits; none where it takes too long.
async fn worked_off(store: &mut Store, source: &str) -> anyhow::Result<Option<Duration>> {
    let began = Instant::now();
    let key = format!("rc:{{ingest:{source}}}:q");
    while began.elapsed() < WORKED_OFF {
        if store.number(&["XLEN", &key]).await? == 0 {
            return Ok(Some(began.elapsed()));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(None)
}

fn uuid(id: usize) -> String {
    format!("00000000-0000-4000-8000-{id:012}")
}

fn order(id: usize, revision: u32) -> Value {
    json!({ "uuid": uuid(id), "total": 42, "revision": revision })
}
