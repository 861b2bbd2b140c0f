//! A join is live before it is answered: join on one node, publish on the other at once, thousands of times.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use roomcast_protocol::{Data, Leave, Op, RoomName};
use tokio::task::JoinSet;

use super::{Stage, together::publish};
use crate::{
    client::{Client, ClientError},
    report,
};

/// Joins fresh rooms on the second node and publishes on the first; every event must come.
pub(super) async fn subscribe_then_publish(stage: &Stage) -> anyhow::Result<String> {
    let times = stage.options.subscribe_then_publish;
    let pairs = stage.options.pairs.min(times);
    let bar = report::bar("joining", times);
    let mut running = JoinSet::new();
    for pair in 0..pairs {
        let index = usize::try_from(pair)? * 2;
        // A user each, so that no limit per user is shared.
        let publisher = stage.json(&format!("smoke-publisher-{pair}"), index).await?;
        let subscriber = stage.msgpack(&format!("smoke-subscriber-{pair}"), index + 1).await?;
        let rooms = (pair..times)
            .step_by(usize::try_from(pairs)?)
            .map(|n| stage.room(&format!("live-{n}")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        running.spawn(one_pair(publisher, subscriber, rooms, stage.options.push_wait, bar.clone()));
    }
    let mut lost = 0;
    while let Some(one) = running.join_next().await {
        lost += one.context("a pair panicked")??;
    }
    bar.finish_and_clear();
    ensure!(lost == 0, "{lost} of {times} lost");
    Ok(format!("{times} times, none lost"))
}

async fn one_pair(
    mut publisher: Client,
    mut subscriber: Client,
    rooms: Vec<RoomName>,
    push_wait: Duration,
    bar: indicatif::ProgressBar,
) -> anyhow::Result<u64> {
    let mut lost = 0;
    for (n, room) in rooms.iter().enumerate() {
        subscriber.join(room, None).await.context("join")?;
        publisher.request_patiently(publish(room, &n.to_string())?).await.context("publish")?;
        loop {
            match subscriber.push(push_wait).await {
                Ok(push)
                    if push.push.as_deref() == Some("event")
                        && push.room.as_deref() == Some(room.as_str()) =>
                {
                    ensure!(push.data.as_ref().map(Data::as_str) == Some(&*n.to_string()), "wrong data");
                    break;
                }
                Ok(_) => {}
                Err(ClientError::Timeout(_)) => {
                    lost += 1;
                    break;
                }
                Err(error) => return Err(error).context("subscriber"),
            }
        }
        subscriber.request_patiently(Op::Leave(Leave { room: room.clone() })).await.context("leave")?;
        subscriber.take_pending();
        bar.inc(1);
    }
    publisher.close().await;
    subscriber.close().await;
    Ok(lost)
}
