//! Continuity: a client that comes back on another node gets what it missed, once and in order.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use roomcast_protocol::{Data, Offset, RoomName, Since};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Stage, together::publish};
use crate::{
    client::{Client, ClientError, Joined},
    system,
};

/// Between two events: within the frame rate that a node allows by default.
const PERIOD: Duration = Duration::from_millis(60);
/// How long a client may take to notice that its node is gone: the kernel closes a killed process's sockets.
const NOTICE: Duration = Duration::from_secs(10);
/// How many events a client sees before its node is killed, and how many after it came back.
const BEFORE: u64 = 20;
const MISSED: u64 = 20;
const AFTER: u64 = 20;

/// What a client knows of its room, and the check that it is whole.
#[derive(Debug)]
struct Follower {
    room: RoomName,
    since: Since,
    push_wait: Duration,
}

impl Follower {
    fn new(stage: &Stage, room: &RoomName, joined: &Joined) -> Self {
        let since = Since { epoch: joined.epoch.clone(), offset: joined.offset };
        Self { room: room.clone(), since, push_wait: stage.options.push_wait }
    }

    /// The publishers of this file count from 0 in `data`, in rooms of their own.
    fn next(&mut self, offset: Offset, data: Option<&Data>) -> anyhow::Result<()> {
        ensure!(offset == self.since.offset.next(), "offset {offset} came after {}", self.since.offset);
        let n: u64 = data.context("an event without data")?.to()?;
        ensure!(n + 1 == offset.0, "offset {offset} holds the event {n}");
        self.since.offset = offset;
        Ok(())
    }

    /// Reads one event.
    async fn follow(&mut self, client: &mut Client) -> anyhow::Result<()> {
        loop {
            let push = client.push(self.push_wait).await?;
            match push.push.as_deref() {
                Some("event") => {
                    return self.next(push.offset.context("an event without offset")?, push.data.as_ref());
                }
                Some(bad @ ("reset" | "kicked")) => bail!("{bad}: {:?}", push.reason),
                _ => {}
            }
        }
    }

    /// Joins again with the position, and takes in what was missed.
    async fn rejoin(&mut self, client: &mut Client) -> anyhow::Result<u64> {
        let joined = client.join(&self.room, Some(self.since.clone())).await?;
        ensure!(joined.recovered, "the history did not reach back");
        ensure!(joined.epoch == self.since.epoch, "another epoch");
        for event in &joined.events {
            self.next(event.offset, Some(&event.data))?;
        }
        ensure!(
            joined.offset == self.since.offset,
            "the join covers {} but tells events up to {}",
            joined.offset,
            self.since.offset
        );
        Ok(joined.events.len() as u64)
    }
}

/// The client leaves the first node by itself and comes back on the second.
pub(super) async fn after_goodbye(stage: &Stage) -> anyhow::Result<String> {
    let room = stage.room("goodbye")?;
    let mut client = stage.json("smoke-one", 0).await?;
    let mut publisher = stage.msgpack("smoke-other", 1).await?;
    let mut follower = Follower::new(stage, &room, &client.join(&room, None).await?);
    let mut n = 0;
    for _ in 0..BEFORE {
        publisher.request_patiently(publish(&room, &n.to_string())?).await?;
        n += 1;
        follower.follow(&mut client).await?;
    }
    client.close().await;
    for _ in 0..MISSED {
        publisher.request_patiently(publish(&room, &n.to_string())?).await?;
        n += 1;
    }
    let mut client = stage.msgpack("smoke-one", 2).await?;
    let missed = follower.rejoin(&mut client).await?;
    ensure!(missed == MISSED, "{missed} of {MISSED} missed events were told");
    for _ in 0..AFTER {
        publisher.request_patiently(publish(&room, &n.to_string())?).await?;
        n += 1;
        follower.follow(&mut client).await?;
    }
    Ok(format!("{missed} missed events told, then {AFTER} more, without gap"))
}

/// The first node is killed while events flow; its client finds out, and goes on at the second.
pub(super) async fn after_kill(stage: &Stage, pid: u32) -> anyhow::Result<String> {
    let room = stage.room("kill")?;
    let mut client = stage.json("smoke-one", 0).await?;
    let mut follower = Follower::new(stage, &room, &client.join(&room, None).await?);
    let stop = CancellationToken::new();
    let flow = async {
        let mut publisher = stage.msgpack("smoke-other", 1).await?;
        let mut n = 0;
        while !stop.is_cancelled() {
            publisher.request_patiently(publish(&room, &n.to_string())?).await?;
            n += 1;
            sleep(PERIOD).await;
        }
        anyhow::Ok(n)
    };
    let life = async {
        let outcome = die_and_go_on(stage, pid, &mut client, &mut follower).await;
        stop.cancel();
        outcome
    };
    let (published, outcome) = tokio::join!(flow, life);
    let (mut client, missed) = outcome?;
    let published: u64 = published.context("the publisher on the second node")?;
    while follower.since.offset.0 < published {
        follower.follow(&mut client).await.context("after the last publish")?;
    }
    ensure!(follower.since.offset.0 == published, "{} events of {published}", follower.since.offset);
    Ok(format!("{published} events, {missed} of them missed and told again, without gap"))
}

async fn die_and_go_on(
    stage: &Stage,
    pid: u32,
    client: &mut Client,
    follower: &mut Follower,
) -> anyhow::Result<(Client, u64)> {
    for _ in 0..BEFORE {
        follower.follow(client).await.context("before the kill")?;
    }
    system::kill(pid)?;
    let lost = async {
        loop {
            match follower.follow(client).await {
                Ok(()) => {}
                Err(error) => return error,
            }
        }
    };
    let error = timeout(NOTICE, lost).await.context("the client of a killed node noticed nothing")?;
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Closed(_)) => {}
        _ => return Err(error.context("expected a closed connection")),
    }
    // Some events go by while nobody listens.
    sleep(PERIOD * 10).await;
    let mut client = stage.msgpack("smoke-one", 2).await.context("connecting to the second node")?;
    let missed = follower.rejoin(&mut client).await.context("rejoining")?;
    for _ in 0..AFTER {
        follower.follow(&mut client).await.context("after the kill")?;
    }
    Ok((client, missed))
}
