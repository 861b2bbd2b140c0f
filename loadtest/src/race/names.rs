//! Names with one owner, and locks with one holder.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Found, Play, arena::Shared, verdict::Verdicts};
use crate::cluster::dice::Dice;

pub(super) async fn claims(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const NAMES: usize = 60;
    const USERS: usize = 10;
    const CODES: usize = 300;
    arena.rain(true);
    let mut crowd = JoinSet::new();
    for name in 0..NAMES {
        let pause = play.dice.below(700);
        for user in 0..USERS {
            let arena = arena.clone();
            crowd.spawn(async move {
                sleep(Duration::from_millis(pause as u64)).await;
                let body = json!({ "scope": "slug", "user": format!("user-{user}"), "name": format!("party-{name}") });
                let first = arena.ask(user, "POST", "/api/v1/claim", Some(&body)).await?;
                // Who has it may ask again, and who has not is told so again.
                let second = arena.ask(user + 1, "POST", "/api/v1/claim", Some(&body)).await?;
                anyhow::Ok((name, user, first.status, second.status))
            });
        }
    }
    let mut codes = JoinSet::new();
    for index in 0..CODES {
        let (arena, pause) = (arena.clone(), play.dice.below(900));
        codes.spawn(async move {
            sleep(Duration::from_millis(pause as u64)).await;
            let body = json!({
                "scope": "code", "user": format!("user-{}", index % 7), "key": format!("code-{index}"),
                "generate": { "length": 4, "alphabet": "abcdefgh" },
            });
            let (one, other) = tokio::join!(
                arena.must(index, "POST", "/api/v1/claim", Some(&body)),
                arena.must(index + 1, "POST", "/api/v1/claim", Some(&body)),
            );
            anyhow::Ok((format!("user-{}", index % 7), one?["name"].clone(), other?["name"].clone()))
        });
    }
    let (mut owners, mut breaches) = (BTreeMap::<usize, Vec<usize>>::new(), Vec::new());
    while let Some(done) = crowd.join_next().await {
        let (name, user, first, second) = done.context("a user panicked")??;
        match (first, second) {
            (200, 200) => owners.entry(name).or_default().push(user),
            (409, 409) => {}
            other => breaches.push(format!("party-{name} by user-{user}: {other:?}")),
        }
    }
    let (mut given, mut twice) = (BTreeMap::<String, String>::new(), Vec::new());
    while let Some(done) = codes.join_next().await {
        let (user, one, other) = done.context("a user panicked")??;
        let code = one.as_str().unwrap_or_default().to_owned();
        if one != other {
            twice.push(format!("one key gave {one} and {other}"));
        }
        if let Some(first) = given.insert(code.clone(), user.clone()) {
            twice.push(format!("{code} was given to {first} and {user}"));
        }
    }
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    verdicts.none("a name is given again to its owner and to nobody else", &breaches, NAMES * USERS);
    let wrong: Vec<_> = owners
        .iter()
        .filter(|(_, users)| users.len() != 1)
        .map(|(name, users)| format!("party-{name}: {users:?}"))
        .collect();
    verdicts.none("each name has one winner", &wrong, NAMES);
    verdicts.same("every name was won", &owners.len(), &NAMES);
    verdicts.none("generated codes are unique, and one key gives one code", &twice, CODES);
    let kept = arena.store().await?.hash("rc:{claims}:names").await?;
    let slugs = owners
        .iter()
        .filter_map(|(name, users)| Some((format!("slug party-{name}"), format!("user-{}", users.first()?))));
    let should: BTreeMap<_, _> =
        slugs.chain(given.into_iter().map(|(code, user)| (format!("code {code}"), user))).collect();
    verdicts.must(
        "the names in Redis are those that were given",
        kept == should,
        format!("{} names", kept.len()),
    );
    let counted = arena.store().await?.hash("rc:{claims}:owners").await?;
    let mut should_count: BTreeMap<String, u64> = BTreeMap::new();
    for user in should.values() {
        *should_count.entry(user.clone()).or_default() += 1;
    }
    let counted: BTreeMap<_, u64> =
        counted.into_iter().map(|(user, n)| (user, n.parse().unwrap_or_default())).collect();
    verdicts.same("how many each user has in Redis", &counted, &should_count);
    Ok(verdicts.into())
}

/// One time that somebody had the lock.
#[derive(Debug, Clone, Copy)]
struct Held {
    fence: u64,
    /// By Redis' clock, which is this machine's.
    from: u64,
    until: u64,
}

pub(super) async fn locks(arena: &Shared, mut play: Play) -> anyhow::Result<Found> {
    const OWNERS: usize = 30;
    const TTL_MS: u64 = 150;
    arena.rain(true);
    let end = Instant::now() + Duration::from_secs(if play.short { 4 } else { 8 });
    let mut crowd = JoinSet::new();
    for index in 0..OWNERS {
        let (arena, mut dice) = (arena.clone(), Dice::new(play.dice.below(usize::MAX) as u64, 5));
        crowd.spawn(async move {
            let (mut held, mut turn) = (Vec::new(), 0);
            while Instant::now() < end {
                turn += 1;
                // A new name each time: an owner who asks again is the same holder.
                let owner = format!("owner-{index}-{turn}");
                let body = json!({ "name": "race", "owner": owner, "ttl_ms": TTL_MS });
                let told = arena.ask(index + turn, "POST", "/api/v1/lock", Some(&body)).await?;
                if told.status != 200 {
                    sleep(Duration::from_millis(5 + dice.below(30) as u64)).await;
                    continue;
                }
                let fence = told.body["fence"].as_u64().context("no fence")?;
                let mut until = told.body["expires_at"].as_u64().context("no end")?;
                // Some work past the end of their lease, and some never say goodbye.
                sleep(Duration::from_millis(dice.below(180) as u64)).await;
                let from = until.saturating_sub(TTL_MS);
                if dice.below(4) > 0 {
                    let now = now_ms();
                    let body = json!({ "name": "race", "owner": owner, "fence": fence });
                    let freed = arena.ask(index + turn, "POST", "/api/v1/unlock", Some(&body)).await?;
                    // A lost answer to a release that was carried out comes back as a conflict.
                    if freed.status == 200 || freed.again {
                        until = until.min(now);
                    }
                }
                held.push(Held { fence, from, until });
            }
            anyhow::Ok(held)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = crowd.join_next().await {
        all.extend(done.context("an owner panicked")??);
    }
    arena.rain(false);
    let mut verdicts = Verdicts::default();
    all.sort_by_key(|held: &Held| held.fence);
    let same: Vec<_> = all
        .windows(2)
        .filter(|pair| pair[0].fence == pair[1].fence)
        .map(|pair| format!("{pair:?}"))
        .collect();
    verdicts.none("each holder has a fence of its own", &same, all.len());
    let both: Vec<_> =
        all.windows(2).filter(|pair| pair[1].from < pair[0].until).map(|pair| format!("{pair:?}")).collect();
    verdicts.none("a higher fence begins only where the lower one has ended", &both, all.len());
    verdicts.must("the lock was taken all the time", all.len() > 10, format!("{} times", all.len()));
    let mut store = arena.store().await?;
    let fence = store.text(&["HGET", "rc:lock:race", "fence"]).await?;
    let highest = all.last().map(|held| held.fence).unwrap_or_default();
    let kept: u64 = fence.parse().unwrap_or_default();
    verdicts.must(
        "the fence in Redis is the highest one",
        kept == highest,
        format!("{kept}, told {highest}"),
    );
    Ok(verdicts.into())
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
