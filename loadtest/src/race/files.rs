//! Uploads, which never go back, and documents, of which no update is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context as _;
use roomcast_protocol::{Data, DocGet, DocPut, Op, RoomName, Upload};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Found, Play,
    arena::Shared,
    person::{Person, Way},
    verdict::Verdicts,
    watch::Watch,
};

/// Each owner's tabs say at once that it is complete, that it has failed, and how far it is.
pub(super) async fn uploads(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const UPLOADS: usize = 80;
    let room = RoomName::parse("event:race-uploads")?;
    let watch = Watch::start(arena, &room).await?;
    arena.rain(true);
    let mut crowd = JoinSet::new();
    for index in 0..UPLOADS {
        let (room, arena, pause) = (room.clone(), arena.clone(), play.dice.below(700));
        crowd.spawn(async move {
            sleep(Duration::from_millis(pause as u64)).await;
            let target = format!("photo-{index}");
            let tab = |way, node| Person::new(&arena, format!("owner-{index}"), way, node);
            let step = |state: &str, progress| {
                Op::Upload(Upload {
                    room: room.clone(),
                    target: target.clone(),
                    state: state.into(),
                    progress,
                })
            };
            let mut breaches = Vec::new();
            if let Err(refused) = tab(Way::Api, index).ask(step("started", None)).await? {
                breaches.push(format!("{target}: started answered {refused:?}"));
            }
            let mut stranger = Person::new(&arena, "stranger".to_owned(), Way::Api, index);
            let (mut one, mut other, mut third) =
                (tab(Way::Socket(None), index), tab(Way::Api, index + 1), tab(Way::Api, index + 2));
            let (complete, failed, progress, theirs) = tokio::join!(
                one.ask(step("complete", None)),
                other.ask(step("failed", None)),
                async {
                    for percent in [20, 70, 50] {
                        third.ask(step("progress", Some(percent))).await?.ok();
                    }
                    anyhow::Ok(())
                },
                stranger.ask(step("failed", None)),
            );
            progress?;
            if theirs?.is_ok() {
                breaches.push(format!("{target}: a stranger moved it"));
            }
            let ends: Vec<_> = [complete?, failed?]
                .into_iter()
                .filter_map(|told| told.ok().and_then(|done| done["state"].as_str().map(str::to_owned)))
                .collect();
            if ends.len() != 1 {
                breaches.push(format!("{target}: ended as {ends:?}"));
            }
            anyhow::Ok((target, ends.first().cloned().unwrap_or_default(), breaches))
        });
    }
    let (mut told, mut breaches) = (BTreeMap::new(), Vec::new());
    while let Some(done) = crowd.join_next().await {
        let (target, end, wrong) = done.context("an owner panicked")??;
        breaches.extend(wrong);
        told.insert(target, end);
    }
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    verdicts.none("of complete and failed one is told yes, and strangers no", &breaches, UPLOADS);
    let mut store = arena.store().await?;
    let kept = store.hash(&format!("rc:{{{}}}:uploads", room.as_str())).await?;
    let ends: BTreeMap<_, _> = kept
        .into_iter()
        .map(|(target, packed)| (target, packed.split(' ').next().unwrap_or_default().to_owned()))
        .collect();
    verdicts.same("the ends in Redis are those that were told", &(ends == told), &true);
    let mut lives: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for step in store.changes(room.as_str(), "upload").await? {
        let word = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
        lives.entry(word("target")).or_default().push(word("state"));
    }
    let wrong: Vec<_> = lives
        .iter()
        .filter(|(target, states)| {
            states.len() != 2 || states[0] != "started" || told.get(*target) != Some(&states[1])
        })
        .map(|(target, states)| format!("{target}: {states:?}"))
        .collect();
    verdicts.none("each began once, ended once, and never went back", &wrong, lives.len());
    let complete: BTreeSet<_> =
        told.iter().filter(|(_, end)| *end == "complete").map(|(target, _)| target.clone()).collect();
    let shown = complete.len();
    watch.until(|sight| sight.events.iter().filter(|seen| seen.event == "upload").count() >= shown).await;
    let sights = watch.judge(&[], &mut verdicts).await?;
    let mut wrong = Vec::new();
    for sight in &sights {
        let seen: Vec<_> = sight.events.iter().filter(|seen| seen.event == "upload").collect();
        let targets: BTreeSet<_> =
            seen.iter().filter_map(|seen| seen.data["target"].as_str().map(str::to_owned)).collect();
        if targets != complete || seen.len() != shown {
            wrong.push(format!("{}: {} events, {shown} are complete", sight.who, seen.len()));
        }
    }
    verdicts.none("what is complete showed once to everybody, and nothing else did", &wrong, sights.len());
    Ok(verdicts.into())
}

/// Each writer keeps its own place in the same document, so that a lost update would be a place that went back.
pub(super) async fn documents(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const WRITERS: usize = 40;
    const TURNS: u64 = 5;
    const DOCS: usize = 4;
    let room = RoomName::parse("event:race-documents")?;
    let watch = Watch::start(arena, &room).await?;
    arena.rain(true);
    let mut crowd = JoinSet::new();
    for index in 0..WRITERS {
        let mut person = Person::of_crowd(arena, format!("writer-{index}"), index, false).await?;
        let (room, doc, late) = (room.clone(), format!("plan-{}", index % DOCS), play.dice.below(300));
        crowd.spawn(async move {
            sleep(Duration::from_millis(late as u64)).await;
            let mut breaches = Vec::new();
            let read = person.ask(Op::Get(DocGet { room: room.clone(), doc: doc.clone() })).await?;
            let mut stands = read.unwrap_or_else(|_| json!({ "version": 0, "value": {} }));
            for turn in 1..=TURNS {
                let (mut tries, mut unsure) = (0, false);
                loop {
                    let mut value = stands["value"].clone();
                    value[&person.name] = turn.into();
                    let version = stands["version"].as_u64().unwrap_or_default();
                    let op = Op::Put(DocPut {
                        room: room.clone(),
                        doc: doc.clone(),
                        value: Data::of(&value)?,
                        version,
                    });
                    let told = person.ask(op).await?;
                    unsure |= person.again;
                    match told {
                        Ok(done) => {
                            stands = json!({ "version": done["version"], "value": value });
                            break;
                        }
                        Err(refusal) if refusal.code == "conflict" => {
                            stands = refusal.current;
                            // An earlier try of this put whose answer was lost.
                            if stands["value"][&person.name] == turn {
                                if !unsure {
                                    breaches
                                        .push(format!("{}: turn {turn} was written by nobody", person.name));
                                }
                                break;
                            }
                        }
                        Err(refusal) => {
                            breaches.push(format!("{}: put answered {refusal:?}", person.name));
                            break;
                        }
                    }
                    tries += 1;
                    anyhow::ensure!(tries < 2_000, "{} never wins", person.name);
                }
            }
            anyhow::Ok(breaches)
        });
    }
    let mut breaches = Vec::new();
    while let Some(done) = crowd.join_next().await {
        breaches.extend(done.context("a writer panicked")??);
    }
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    verdicts.none("every conflict told what stands", &breaches, WRITERS);
    let mut store = arena.store().await?;
    let kept = store.hash(&format!("rc:{{{}}}:docs", room.as_str())).await?;
    let (mut wrong, mut versions) = (Vec::new(), BTreeMap::new());
    for (doc, packed) in &kept {
        let (version, value) = packed.split_once('\n').context("a damaged document")?;
        let value: BTreeMap<String, u64> = serde_json::from_str(value)?;
        wrong.extend(
            value.iter().filter(|(_, turn)| **turn != TURNS).map(|(who, turn)| format!("{who}: {turn}")),
        );
        if value.len() != WRITERS / DOCS {
            wrong.push(format!("{doc}: {} writers", value.len()));
        }
        versions.insert(doc.clone(), version.parse::<u64>()?);
    }
    verdicts.none("no update of any writer is lost", &wrong, kept.len());
    let should: BTreeMap<_, _> =
        (0..DOCS).map(|doc| (format!("plan-{doc}"), (WRITERS / DOCS) as u64 * TURNS)).collect();
    verdicts.same("each put is one version, none was doubled", &versions, &should);
    let total = should.values().sum::<u64>();
    watch.until(|sight| sight.events.len() as u64 >= total).await;
    let sights = watch.judge(&[], &mut verdicts).await?;
    let mut wrong = Vec::new();
    for sight in &sights {
        for (doc, last) in &should {
            let of_doc = sight.events.iter().filter(|seen| seen.data["doc"] == doc.as_str());
            let seen: Vec<_> = of_doc.map(|seen| seen.data["version"].as_u64().unwrap_or_default()).collect();
            if seen != (1..=*last).collect::<Vec<_>>() {
                wrong.push(format!("{}: {doc} {seen:?}", sight.who));
            }
        }
    }
    verdicts.none("every version was told once and in order", &wrong, sights.len() * DOCS);
    let mut api = Vec::new();
    for (doc, version) in &should {
        let body = json!({ "user": "reader", "room": room.as_str(), "doc": doc });
        let read: Value = arena.must(1, "POST", "/api/v1/get", Some(&body)).await?;
        if read["version"] != *version {
            api.push(format!("{doc}: {}", read["version"]));
        }
    }
    verdicts.none("the versions as the API tells them", &api, DOCS);
    Ok(verdicts.into())
}
