//! Tickets, which one socket may use, and guests, who are one however many tabs they open.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Context as _;
use roomcast_protocol::{Connect, ErrorCode, Op};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Found, Play, arena::Shared, verdict::Verdicts};
use crate::{
    client::{Client, ClientError},
    target::Wire,
};

/// What became of one `connect`, however often it was said.
#[derive(Debug)]
enum Came {
    In(Value),
    /// `again`: it had been said before, and nobody knows what became of that.
    Refused {
        code: ErrorCode,
        again: bool,
    },
}

async fn connect(arena: &Shared, index: usize, who: Connect) -> anyhow::Result<Came> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut node, mut again) = (index, false);
    loop {
        anyhow::ensure!(Instant::now() < deadline, "connect got no answer");
        let target = arena.sockets.get(node % arena.sockets.len()).context("no nodes")?;
        if let Ok(mut client) = Client::open(target, Wire::Both.codec(index), None).await {
            match client.request(Op::Connect(who.clone())).await {
                Ok(welcome) => return Ok(Came::In(welcome.to()?)),
                Err(ClientError::Failed(failure))
                    if !matches!(failure.code, ErrorCode::Unavailable | ErrorCode::Internal) =>
                {
                    return Ok(Came::Refused { code: failure.code, again });
                }
                Err(_) => again = true,
            }
        }
        arena.felt.again.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        node += 1;
        sleep(Duration::from_millis(60)).await;
    }
}

pub(super) async fn tickets(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const TICKETS: usize = 60;
    const RACERS: usize = 10;
    let mut tickets = Vec::new();
    for index in 0..TICKETS {
        let order = json!({ "sub": format!("holder-{index}"), "role": "member", "ttl_ms": 120_000 });
        let minted = arena.must(index, "POST", "/api/v1/tickets", Some(&order)).await?;
        tickets.push(minted["ticket"].as_str().context("no ticket")?.to_owned());
    }
    arena.rain(true);
    let mut crowd = JoinSet::new();
    for (index, ticket) in tickets.iter().enumerate() {
        let pause = play.dice.below(900);
        for racer in 0..RACERS {
            let (arena, ticket) = (arena.clone(), ticket.clone());
            crowd.spawn(async move {
                sleep(Duration::from_millis(pause as u64)).await;
                let who = Connect { token: None, ticket: Some(ticket), guest: None };
                anyhow::Ok((index, connect(&arena, index + racer, who).await?))
            });
        }
    }
    let (mut winners, mut unsure) = (vec![Vec::new(); TICKETS], BTreeSet::new());
    let mut breaches = Vec::new();
    while let Some(done) = crowd.join_next().await {
        match done.context("a racer panicked")?? {
            (index, Came::In(welcome)) => {
                if welcome["user"] != format!("holder-{index}") {
                    breaches.push(format!("ticket {index} let in {}", welcome["user"]));
                }
                winners[index].push(welcome["session"].clone());
            }
            (index, Came::Refused { code: ErrorCode::InvalidToken, again }) => {
                if again {
                    unsure.insert(index);
                }
            }
            (index, Came::Refused { code, .. }) => {
                breaches.push(format!("ticket {index}: {}", code.as_str()));
            }
        }
    }
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    verdicts.none("a ticket lets in its own user, or is invalid", &breaches, TICKETS * RACERS);
    let twice: Vec<_> = winners
        .iter()
        .enumerate()
        .filter(|(_, sessions)| sessions.len() > 1)
        .map(|(index, sessions)| format!("ticket {index}: {sessions:?}"))
        .collect();
    verdicts.none("no ticket lets in two", &twice, TICKETS);
    let unused: Vec<_> = winners
        .iter()
        .enumerate()
        .filter(|(index, sessions)| sessions.is_empty() && !unsure.contains(index))
        .map(|(index, _)| format!("ticket {index}"))
        .collect();
    verdicts.none("a ticket lets in one, unless the answer to its use was lost", &unused, TICKETS);
    let mut store = arena.store().await?;
    let mut left = store.list(&["KEYS", "rc:ticket:*"]).await?;
    // A ticket whose making was repeated, because the answer was lost, was given to nobody, and ends with its time.
    let given: BTreeSet<_> = tickets.iter().map(|ticket| key_of(ticket)).collect();
    left.retain(|key| given.contains(key));
    verdicts.none("nothing is left of used tickets in Redis", &left, TICKETS);
    let mut found = Found::from(verdicts);
    let lost = winners.iter().filter(|sessions| sessions.is_empty()).count();
    found.figures.push(("tickets used up by a lost answer", lost.to_string()));
    Ok(found)
}

/// Redis knows a ticket by its SHA-256 only.
fn key_of(ticket: &str) -> String {
    let digest = Sha256::digest(ticket);
    digest.iter().fold("rc:ticket:".to_owned(), |key, byte| key + &format!("{byte:02x}"))
}

pub(super) async fn guests(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const GUESTS: usize = 40;
    const TABS: usize = 20;
    const PASSING: Duration = Duration::from_secs(20);
    let mut store = arena.store().await?;
    let before = lasting(store.list(&["KEYS", "rc:*"]).await?);
    arena.rain(true);
    let mut crowd = JoinSet::new();
    for guest in 0..GUESTS {
        let pause = play.dice.below(900);
        let secret = format!("guest-secret-{guest}-{:016x}", play.dice.below(usize::MAX));
        for tab in 0..TABS {
            let (arena, secret) = (arena.clone(), secret.clone());
            crowd.spawn(async move {
                sleep(Duration::from_millis(pause as u64)).await;
                let who = Connect { token: None, ticket: None, guest: Some(secret) };
                anyhow::Ok((guest, connect(&arena, guest + tab, who).await?))
            });
        }
    }
    let (mut users, mut breaches): (BTreeMap<usize, BTreeSet<String>>, _) = (BTreeMap::new(), Vec::new());
    while let Some(done) = crowd.join_next().await {
        match done.context("a tab panicked")?? {
            (guest, Came::In(welcome)) => {
                users
                    .entry(guest)
                    .or_default()
                    .insert(welcome["user"].as_str().unwrap_or_default().to_owned());
            }
            (guest, refused @ Came::Refused { .. }) => breaches.push(format!("guest {guest}: {refused:?}")),
        }
    }
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    verdicts.none("every tab comes in", &breaches, GUESTS * TABS);
    let twice: Vec<_> =
        users.values().filter(|users| users.len() != 1).map(|users| format!("{users:?}")).collect();
    verdicts.none("one secret is one guest", &twice, GUESTS);
    let distinct: BTreeSet<_> = users.values().flatten().collect();
    verdicts.same("two secrets are two guests", &distinct.len(), &GUESTS);
    let after = lasting(store.list(&["KEYS", "rc:*"]).await?);
    let mut kept: Vec<_> = after.difference(&before).cloned().collect();
    // A room that the scenario before has left may still tell of it, once per node and a second apart: each time a key
    // holds back the next push.
    let until = Instant::now() + PASSING;
    while !kept.is_empty() && Instant::now() < until {
        sleep(Duration::from_millis(250)).await;
        let later = lasting(store.list(&["KEYS", "rc:*"]).await?);
        kept.retain(|key| later.contains(key));
    }
    verdicts.none("nothing is kept in Redis of who only came in", &kept, GUESTS);
    Ok(verdicts.into())
}

/// Keys without those that nodes lease: their own, and their shares of addresses and users.
fn lasting(keys: Vec<String>) -> BTreeSet<String> {
    let leased = |key: &String| key.starts_with("rc:{nodes}:") || key.starts_with("rc:{@");
    keys.into_iter().filter(|key| !leased(key)).collect()
}
