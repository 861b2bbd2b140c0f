//! Two clients on two nodes, in two codecs, in one room.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail, ensure};
use roomcast_protocol::{Comment, Count, Data, Incoming, Like, Op, Publish, RoomName};
use serde::Deserialize;

use super::Stage;
use crate::client::{Client, ClientError};

/// How long nothing more may come once all is there.
const SILENCE: Duration = Duration::from_millis(500);

/// Both publish in turn; both get every event once, with rising offsets, the same in both codecs.
pub(super) async fn events(stage: &Stage) -> anyhow::Result<String> {
    let room = stage.room("events")?;
    let (mut one, mut other) = pair(stage, &room).await?;
    let each = stage.options.events;
    for n in 0..each {
        one.request_patiently(publish(&room, &format!(r#"{{"by":"one","n":{n},"text":"ä😀"}}"#))?).await?;
        other.request_patiently(publish(&room, &format!(r#"{{"by":"other","n":{n},"f":1.5}}"#))?).await?;
    }
    let all = usize::try_from(each * 2)?;
    let seen_by_one = collect(stage, &mut one, "event", all).await.context("on the first node")?;
    let seen_by_other = collect(stage, &mut other, "event", all).await.context("on the second node")?;
    check_order(&seen_by_one).context("on the first node")?;
    check_order(&seen_by_other).context("on the second node")?;
    for (left, right) in seen_by_one.iter().zip(&seen_by_other) {
        let value = |push: &Incoming| push.data.as_ref().map(Data::to::<serde_json::Value>).transpose();
        ensure!(left.offset == right.offset && left.from == right.from, "the nodes tell different events");
        ensure!(value(left)? == value(right)?, "the data differs at offset {:?}", left.offset);
    }
    Ok(format!("{all} events on each"))
}

fn check_order(events: &[Incoming]) -> anyhow::Result<()> {
    for (n, event) in (1..).zip(events) {
        let offset = event.offset.context("an event without offset")?;
        ensure!(offset.0 == n, "event {n} came with offset {offset}");
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct CounterReply {
    value: u64,
}

/// Both like (and like again), both count; both see the same last values, with rising versions.
pub(super) async fn counters(stage: &Stage) -> anyhow::Result<String> {
    let room = stage.room("counters")?;
    let (mut one, mut other) = pair(stage, &room).await?;
    let like = |target: &str, on| Op::Like(Like { room: room.clone(), target: target.to_owned(), on });
    for on in [true, true, false, true] {
        one.request_patiently(like("photo", on)).await?;
        other.request_patiently(like("photo", on)).await?;
    }
    let likes: CounterReply = one.request_patiently(like("photo", true)).await?.to()?;
    ensure!(likes.value == 2, "two users like the photo, the answer says {}", likes.value);
    let each = stage.options.events;
    for n in 0..each {
        for (client, name) in [(&mut one, "one"), (&mut other, "other")] {
            let count = Op::Count(Count {
                room: room.clone(),
                target: "photo".to_owned(),
                counter: "download".to_owned(),
                by: 3,
                key: Some(format!("{name}-{n}")),
            });
            client.request_patiently(count.clone()).await?;
            if n == 0 {
                // A retry with the same key must change nothing.
                client.request_patiently(count).await?;
            }
        }
    }
    let expected = BTreeMap::from([("like".to_owned(), 2), ("download".to_owned(), each * 2 * 3)]);
    latest(stage, &mut one, &expected).await.context("on the first node")?;
    latest(stage, &mut other, &expected).await.context("on the second node")?;
    Ok(format!("{} likes, {} downloads on both", 2, each * 6))
}

/// Reads `count` pushes until the last values are the expected ones, and then for a while nothing else.
async fn latest(stage: &Stage, client: &mut Client, expected: &BTreeMap<String, u64>) -> anyhow::Result<()> {
    let mut values: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    loop {
        let done = expected.iter().all(|(name, value)| values.get(name).is_some_and(|(_, now)| now == value));
        let push = match client.push(if done { SILENCE } else { stage.options.push_wait }).await {
            Ok(push) => push,
            Err(ClientError::Timeout(_)) if done => return Ok(()),
            Err(ClientError::Timeout(_)) => bail!("expected {expected:?}, saw (version, value) {values:?}"),
            Err(error) => return Err(error.into()),
        };
        if push.push.as_deref() != Some("count") {
            continue;
        }
        let counter = push.counter.context("a count without counter")?;
        let (version, value) = (push.version.context("no version")?, push.value.context("no value")?);
        let before = values.insert(counter.clone(), (version, value));
        if let Some((last, _)) = before {
            ensure!(version > last, "{counter}: version {version} came after {last}");
        }
    }
}

/// Each comments, and retries with its key; both see every comment once, in the same order.
pub(super) async fn comments(stage: &Stage) -> anyhow::Result<String> {
    let room = stage.room("comments")?;
    let (mut one, mut other) = pair(stage, &room).await?;
    let each = stage.options.events.min(20);
    for n in 0..each {
        for (client, name) in [(&mut one, "one"), (&mut other, "other")] {
            let comment = Op::Comment(Comment {
                room: room.clone(),
                target: "photo".to_owned(),
                text: format!("{name} says {n}"),
                key: Some(format!("{name}-{n}")),
            });
            let first = client.request_patiently(comment.clone()).await?;
            if n == 0 {
                let again = client.request_patiently(comment).await?;
                let id = |data: &Data| data.to::<serde_json::Value>().map(|reply| reply["comment"].clone());
                ensure!(id(&first)? == id(&again)?, "a retry made another comment");
            }
        }
    }
    let all = usize::try_from(each * 2)?;
    let texts = |events: Vec<Incoming>| -> anyhow::Result<Vec<String>> {
        events
            .iter()
            .map(|event| {
                let data: serde_json::Value = event.data.as_ref().context("no data")?.to()?;
                Ok(data["text"].as_str().context("a comment without text")?.to_owned())
            })
            .collect()
    };
    let on_one = texts(collect(stage, &mut one, "event", all).await.context("on the first node")?)?;
    let on_other = texts(collect(stage, &mut other, "event", all).await.context("on the second node")?)?;
    ensure!(on_one == on_other, "the nodes tell different comments");
    let written: Vec<_> =
        (0..each).flat_map(|n| [format!("one says {n}"), format!("other says {n}")]).collect();
    ensure!(on_one == written, "expected {written:?}, saw {on_one:?}");
    Ok(format!("{all} comments on each"))
}

async fn pair(stage: &Stage, room: &RoomName) -> anyhow::Result<(Client, Client)> {
    let mut one = stage.json("smoke-one", 0).await.context("the first node")?;
    let mut other = stage.msgpack("smoke-other", 1).await.context("the second node")?;
    one.join(room, None).await?;
    other.join(room, None).await?;
    Ok((one, other))
}

/// A publish with this JSON.
pub(super) fn publish(room: &RoomName, json: &str) -> anyhow::Result<Op> {
    let data = Data::parse(json)?;
    Ok(Op::Publish(Publish { room: room.clone(), event: "smoke".to_owned(), data, key: None }))
}

/// The next `count` pushes of a kind, and the assurance that no further one follows.
async fn collect(
    stage: &Stage,
    client: &mut Client,
    kind: &str,
    count: usize,
) -> anyhow::Result<Vec<Incoming>> {
    let mut found = Vec::with_capacity(count);
    loop {
        let done = found.len() >= count;
        match client.push(if done { SILENCE } else { stage.options.push_wait }).await {
            Ok(push) if push.push.as_deref() == Some(kind) => found.push(push),
            Ok(push) if matches!(push.push.as_deref(), Some("reset" | "kicked")) => {
                bail!("{:?}: {:?}", push.push, push.reason)
            }
            Ok(_) => {}
            Err(ClientError::Timeout(_)) if found.len() == count => return Ok(found),
            Err(ClientError::Timeout(_)) => bail!("{} of {count} came", found.len()),
            Err(error) => return Err(error.into()),
        }
        ensure!(found.len() <= count, "more came than was sent: {}", found.len());
    }
}
