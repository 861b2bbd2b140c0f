//! Comments that wait, and two admins who decide about the same queue while it grows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context as _;
use roomcast_protocol::{Comment, Op, RoomName};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::{Found, Play, arena::Shared, crowd, person::Person, verdict::Verdicts, watch::Watch};
use crate::cluster::dice::Dice;

const AUTHORS: usize = 40;
const EACH: usize = 5;
const TARGETS: usize = 3;

/// What one admin was told.
#[derive(Debug, Default)]
struct Decided {
    won: Vec<(String, &'static str)>,
    lost: Vec<(String, Value)>,
    breaches: Vec<String>,
    passes: usize,
}

pub(super) async fn moderation(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    let room = RoomName::parse("gallery:race")?;
    let watch = Watch::start(arena, &room).await?;
    arena.rain(true);
    let mut authors = JoinSet::new();
    for index in 0..AUTHORS {
        let mut person = Person::of_crowd(arena, format!("author-{index}"), index, false).await?;
        let room = room.clone();
        let pauses: Vec<_> = (0..EACH).map(|_| play.dice.below(500)).collect();
        authors.spawn(async move {
            let mut ids = Vec::new();
            for (turn, pause) in pauses.into_iter().enumerate() {
                let op = Op::Comment(Comment {
                    room: room.clone(),
                    target: format!("photo-{}", (index + turn) % TARGETS),
                    text: format!("{turn} <b>of</b> {}", person.name),
                    key: Some(format!("comment-{turn}")),
                });
                let told = person.ask(op).await?;
                ids.push(told.ok().and_then(|done| done["comment"].as_str().map(str::to_owned)));
                sleep(Duration::from_millis(pause as u64)).await;
            }
            anyhow::Ok(ids)
        });
    }
    let closed = AtomicBool::new(false);
    let seeds = (play.dice.below(usize::MAX), play.dice.below(usize::MAX));
    let posted = async {
        let mut ids = Vec::new();
        while let Some(done) = authors.join_next().await {
            ids.extend(done.context("an author panicked")??);
        }
        closed.store(true, Ordering::Relaxed);
        anyhow::Ok(ids)
    };
    let admin = |node, seed: usize| decide(arena, &room, node, Dice::new(seed as u64, 3), &closed);
    let (posted, one, other, peeked, skipped) = tokio::join!(
        posted,
        admin(0, seeds.0),
        admin(1, seeds.1),
        peek(arena, &room, &closed),
        pass_over(arena, &room, &closed),
    );
    arena.rain(false);
    let (posted, one, other) = (posted?, one?, other?);
    let mut verdicts = Verdicts::default();
    let mut store = arena.store().await?;
    let key = |what: &str| format!("rc:{{{}}}:comments{what}", room.as_str());

    let ids: BTreeSet<_> = posted.iter().flatten().cloned().collect();
    verdicts.same("each comment has an id of its own", &ids.len(), &(AUTHORS * EACH));
    let states = store.hash(&key(":states")).await?;
    let kept: BTreeSet<_> = states.keys().cloned().collect();
    verdicts.must(
        "each is stored once in Redis, whatever the retries",
        kept == ids,
        format!("{} kept", kept.len()),
    );

    let mut winners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, decision) in one.won.iter().chain(&other.won) {
        winners.entry(id).or_default().push(decision);
    }
    let (mut approved, mut wrong) = (BTreeSet::new(), Vec::new());
    for (id, state) in &states {
        let words: Vec<_> = state.splitn(3, ' ').collect();
        let decision = match words.first() {
            Some(&"approved") => "approve",
            Some(&"rejected") => "reject",
            _ => "",
        };
        if decision == "approve" {
            approved.insert(id.clone());
        }
        let won = winners.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        // A winner whose answer was lost is told of its own decision as a conflict: then nobody knows that it won.
        if decision.is_empty()
            || words.get(1) != Some(&"2")
            || won.len() > 1
            || won.iter().any(|won| *won != decision)
        {
            wrong.push(format!("{id}: {state}, won {won:?}"));
        }
    }
    verdicts.none("each comment was decided about once, as its winner was told", &wrong, states.len());
    let wrong: Vec<_> = one
        .lost
        .iter()
        .chain(&other.lost)
        .filter(|(id, current)| {
            let told = format!("{} {} ", current["state"].as_str().unwrap_or_default(), current["version"]);
            !states.get(id).is_some_and(|state| state.starts_with(&told))
        })
        .map(|(id, current)| format!("{id}: {current}"))
        .collect();
    verdicts.none("who came second was told what stands", &wrong, one.lost.len() + other.lost.len());
    let breaches: Vec<_> = one.breaches.iter().chain(&other.breaches).cloned().collect();
    verdicts.none("the queue pages upwards without repeats", &breaches, one.passes + other.passes);
    let (skipped, passes) = skipped?;
    verdicts.none("the queue skips nothing that waits all the while", &skipped, passes);
    let early: Vec<_> = peeked?.difference(&approved).cloned().collect();
    verdicts.none("nobody else saw what was not approved", &early, approved.len());

    let mut last = Vec::new();
    let bodies = store.hash(&key("")).await?;
    for target in 0..TARGETS {
        let target = format!("photo-{target}");
        let of_target = |id: &&String| {
            bodies.get(*id).is_some_and(|body| body.contains(&format!("\"target\":\"{target}\"")))
        };
        let number = approved.iter().filter(of_target).count() as u64;
        last.push((target, "comment", number));
    }
    crowd::counted(arena, &room, &last, &mut verdicts).await?;
    let sights = watch.judge(&last, &mut verdicts).await?;
    let mut wrong = Vec::new();
    for sight in &sights {
        let seen: Vec<_> = sight.events.iter().filter(|seen| seen.event == "comment").collect();
        let ids: BTreeSet<_> =
            seen.iter().filter_map(|seen| seen.data["comment"].as_str().map(str::to_owned)).collect();
        if ids != approved || seen.len() != approved.len() {
            wrong.push(format!("{}: {} events of {} comments", sight.who, seen.len(), approved.len()));
        }
    }
    verdicts.none(
        "every approved comment was one event for everybody, and no other was",
        &wrong,
        sights.len(),
    );
    let mut found = Found::from(verdicts);
    let both = format!("{}, {}", one.won.len() + other.won.len(), one.lost.len() + other.lost.len());
    found.figures.push(("decisions won, and refused as second", both));
    Ok(found)
}

/// One admin: goes through the queue, page by page, until nothing comes any more.
async fn decide(
    arena: &Shared,
    room: &RoomName,
    node: usize,
    mut dice: Dice,
    closed: &AtomicBool,
) -> anyhow::Result<Decided> {
    let mut decided = Decided::default();
    loop {
        let done = closed.load(Ordering::Relaxed);
        let pass = pages(arena, room, node).await?;
        decided.passes += 1;
        if !pass.is_sorted_by(|one, next| one.0 < next.0) {
            decided.breaches.push(format!("{pass:?}"));
        }
        for (id, version) in &pass {
            let decision = if dice.below(3) > 0 { "approve" } else { "reject" };
            let body = json!({
                "user": format!("admin-{node}"), "room": room.as_str(), "comment": id, "decision": decision, "version": version,
            });
            let told = arena.ask(node, "POST", "/api/v1/moderate", Some(&body)).await?;
            match told.status {
                200 => decided.won.push((id.clone(), decision)),
                409 => decided.lost.push((id.clone(), told.body["current"].clone())),
                _ => decided.breaches.push(format!("{id}: {}", told.body)),
            }
        }
        if done && pass.is_empty() {
            return Ok(decided);
        }
        sleep(Duration::from_millis(40)).await;
    }
}

/// The queue from its beginning to its end, in small pages: ids and versions.
async fn pages(arena: &Shared, room: &RoomName, node: usize) -> anyhow::Result<Vec<(String, u64)>> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/rooms/{}/comments?state=pending&limit=7{cursor}", room.as_str());
        let page = arena.must(node, "GET", &path, None).await?;
        for comment in page["comments"].as_array().into_iter().flatten() {
            let id = comment["comment"].as_str().unwrap_or_default().to_owned();
            all.push((id, comment["version"].as_u64().unwrap_or_default()));
        }
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(all),
        }
    }
}

/// What somebody sees who is neither admin nor author.
async fn peek(arena: &Shared, room: &RoomName, closed: &AtomicBool) -> anyhow::Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    while !closed.load(Ordering::Relaxed) {
        let path = format!("/api/v1/rooms/{}/comments?user=somebody&limit=100", room.as_str());
        let page = arena.must(2, "GET", &path, None).await?;
        let ids = page["comments"].as_array().into_iter().flatten();
        seen.extend(ids.filter_map(|comment| comment["comment"].as_str().map(str::to_owned)));
        sleep(Duration::from_millis(30)).await;
    }
    Ok(seen)
}

/// Goes through the queue again and again: what is there before and after must have been met on the way.
async fn pass_over(
    arena: &Shared,
    room: &RoomName,
    closed: &AtomicBool,
) -> anyhow::Result<(Vec<String>, usize)> {
    let (mut skipped, mut passes) = (Vec::new(), 0);
    let mut store = arena.store().await?;
    let key = format!("rc:{{{}}}:comments:queue", room.as_str());
    while !closed.load(Ordering::Relaxed) {
        let before = store.list(&["ZRANGE", &key, "0", "-1"]).await?;
        let met: BTreeSet<_> = pages(arena, room, 2).await?.into_iter().map(|(id, _)| id).collect();
        let after: BTreeSet<_> = store.list(&["ZRANGE", &key, "0", "-1"]).await?.into_iter().collect();
        skipped.extend(before.into_iter().filter(|id| after.contains(id) && !met.contains(id)));
        passes += 1;
        sleep(Duration::from_millis(25)).await;
    }
    Ok((skipped, passes))
}
