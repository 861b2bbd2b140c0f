//! Likes and counts: the number is the set, and no increment is lost or doubled.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context as _;
use roomcast_protocol::{Count, Like, Op, RoomName};
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};

use super::{Found, Play, arena::Shared, person::Person, verdict::Verdicts, watch::Watch};

const PHOTOS: usize = 5;

/// A thousand users, each a few times: on, off, and the same again.
pub(super) async fn likes(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    let room = RoomName::parse("event:race-likes")?;
    let watch = Watch::start(arena, &room).await?;
    arena.rain(!play.broken);
    let mut crowd = JoinSet::new();
    for index in 0..1_000 {
        let mut person = Person::of_crowd(arena, format!("user-{index}"), index, play.broken).await?;
        let room = room.clone();
        // What each will do is drawn before anybody begins, so that it depends on the seed alone.
        let acts: Vec<_> =
            (0..4).map(|_| (play.dice.below(PHOTOS), play.dice.below(3) > 0, play.dice.below(600))).collect();
        crowd.spawn(async move {
            let mut liked: BTreeMap<String, bool> = BTreeMap::new();
            let mut breaches = Vec::new();
            for (photo, on, pause) in acts {
                let target = format!("photo-{photo}");
                let op = Op::Like(Like { room: room.clone(), target: target.clone(), on });
                match person.ask(op).await? {
                    Ok(done) if done["on"] == on => drop(liked.insert(target, on)),
                    other => breaches.push(format!("{}: like answered {other:?}", person.name)),
                }
                sleep(Duration::from_millis(pause as u64)).await;
            }
            anyhow::Ok((person.name, liked, breaches))
        });
    }
    let (mut should, mut breaches) = (BTreeSet::new(), Vec::new());
    while let Some(done) = crowd.join_next().await {
        let (user, liked, wrong) = done.context("a user panicked")??;
        breaches.extend(wrong);
        should.extend(liked.iter().filter(|(_, on)| **on).map(|(target, _)| format!("{target} {user}")));
    }
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    verdicts.none("every answer is the state that was asked for", &breaches, 1_000);
    let mut store = arena.store().await?;
    let set: BTreeSet<_> =
        store.list(&["SMEMBERS", &format!("rc:{{{}}}:likes", room.as_str())]).await?.into_iter().collect();
    let differ: Vec<_> = set.symmetric_difference(&should).cloned().collect();
    verdicts.none("the set in Redis is what each user asked for last", &differ, should.len());
    let mut last = Vec::new();
    for photo in 0..PHOTOS {
        let target = format!("photo-{photo}");
        let number = should.iter().filter(|like| like.starts_with(&format!("{target} "))).count() as u64;
        last.push((target, "like", number));
    }
    counted(arena, &room, &last, &mut verdicts).await?;
    watch.judge(&last, &mut verdicts).await?;
    Ok(verdicts.into())
}

/// Two hundred at once, five downloads each, every one with a key of its own.
pub(super) async fn downloads(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const BY: u32 = 3;
    let room = RoomName::parse("event:race-downloads")?;
    let watch = Watch::start(arena, &room).await?;
    arena.rain(true);
    let mut crowd = JoinSet::new();
    for index in 0..200 {
        let mut person = Person::of_crowd(arena, format!("user-{index}"), index, false).await?;
        let room = room.clone();
        let pauses: Vec<_> = (0..5).map(|_| play.dice.below(500)).collect();
        crowd.spawn(async move {
            let mut values = Vec::new();
            for (turn, pause) in pauses.into_iter().enumerate() {
                let op = Op::Count(Count {
                    room: room.clone(),
                    target: "album".into(),
                    counter: "download".into(),
                    by: BY,
                    key: Some(format!("download-{turn}")),
                });
                let done = person.ask(op).await?;
                values.push(done.ok().and_then(|done| done["value"].as_u64()));
                sleep(Duration::from_millis(pause as u64)).await;
            }
            anyhow::Ok(values)
        });
    }
    let mut values = Vec::new();
    while let Some(done) = crowd.join_next().await {
        values.extend(done.context("a user panicked")??);
    }
    arena.rain(false);
    let total = values.len() as u64 * u64::from(BY);
    let mut verdicts = Verdicts::default();
    // Each increment has a value of its own, and all of them together leave none out.
    let distinct: BTreeSet<_> = values.iter().flatten().copied().collect();
    let should: BTreeSet<_> = (1..=values.len() as u64).map(|turn| turn * u64::from(BY)).collect();
    verdicts.must(
        "each increment was answered with a value of its own",
        distinct == should,
        format!("{} of {}", distinct.len(), should.len()),
    );
    let last = [("album".to_owned(), "download", total)];
    counted(arena, &room, &last, &mut verdicts).await?;
    let sights = watch.judge(&last, &mut verdicts).await?;
    let falls = |sight: &super::watch::Sight| {
        let values = sight.values("album", "download");
        values.windows(2).any(|pair| pair[1] <= pair[0]).then(|| format!("{}: {values:?}", sight.who))
    };
    let falls: Vec<_> = sights.iter().filter_map(falls).collect();
    verdicts.none("the number only rises", &falls, sights.len());
    Ok(verdicts.into())
}

/// The numbers in Redis, and as every node's API tells them.
pub(super) async fn counted(
    arena: &Shared,
    room: &RoomName,
    should: &[(String, &str, u64)],
    verdicts: &mut Verdicts,
) -> anyhow::Result<()> {
    let mut store = arena.store().await?;
    let mut kept = Vec::new();
    for (target, counter, _) in should {
        let (value, _) = store.counter(room.as_str(), target, counter).await?.unwrap_or_default();
        kept.push((target.clone(), *counter, value));
    }
    verdicts.same("the numbers in Redis", &kept, &should.to_vec());
    let mut wrong = Vec::new();
    for node in 0..arena.api.nodes() {
        let path = format!("/api/v1/rooms/{}/counters", room.as_str());
        let read = arena.must(node, "GET", &path, None).await?;
        let told = |target: &str, counter: &str| {
            let all = read["counters"].as_array()?;
            all.iter().find(|one| one["target"] == target && one["counter"] == counter)?["value"].as_u64()
        };
        let differs = |(target, counter, value): &&(String, &str, u64)| {
            told(target, counter).unwrap_or_default() != *value
        };
        wrong.extend(should.iter().filter(differs).map(|(target, _, _)| format!("node {node}: {target}")));
        if read["counters"] == Value::Null {
            wrong.push(format!("node {node}: {read}"));
        }
    }
    verdicts.none("the numbers as every node's API tells them", &wrong, should.len());
    Ok(())
}
