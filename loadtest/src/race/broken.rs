//! The same operations as they were in the systems that lost likes and oversold: read, decide, write, each a step of
//! its own, on the very keys that the judge looks at. Only here, and only to show that the judge is awake.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use roomcast_protocol::Op;
use serde_json::{Value, json};

use super::store::Store;

/// One user's connection.
#[derive(Debug)]
pub(super) struct Broken {
    store: Store,
    made: u64,
}

impl Broken {
    pub(super) const fn new(store: Store) -> Self {
        Self { store, made: 0 }
    }

    /// Carries out one operation; the inner error is the code of a refusal.
    pub(super) async fn act(&mut self, user: &str, op: &Op) -> anyhow::Result<Result<Value, &'static str>> {
        match op {
            Op::Like(op) => Ok(Ok(self.like(op.room.as_str(), user, &op.target, op.on).await?)),
            Op::Reserve(op) => self.reserve(op.room.as_str(), user, &op.item, u64::from(op.quantity)).await,
            Op::Confirm(op) => Ok(Ok(self.confirm(&op.reservation).await?)),
            op => bail!("the broken variant knows no {:?}", op.kind()),
        }
    }

    async fn like(&mut self, room: &str, user: &str, target: &str, on: bool) -> anyhow::Result<Value> {
        let (set, member) = (format!("rc:{{{room}}}:likes"), format!("{target} {user}"));
        let liked = self.store.number(&["SISMEMBER", &set, &member]).await? == 1;
        let (mut value, _) = self.store.counter(room, target, "like").await?.unwrap_or_default();
        if liked != on {
            value = if on { value + 1 } else { value.saturating_sub(1) };
            self.store.ask(&[if on { "SADD" } else { "SREM" }, &set, &member]).await?;
            self.tell(room, target, "like", value).await?;
        }
        Ok(json!({ "value": value, "on": on }))
    }

    async fn reserve(
        &mut self,
        room: &str,
        user: &str,
        item: &str,
        quantity: u64,
    ) -> anyhow::Result<Result<Value, &'static str>> {
        let (mut figures, buyer) = (self.item(room, item).await?, format!("{item} {user}"));
        let bought = self.store.text(&["HGET", &format!("rc:{{{room}}}:buyers"), &buyer]).await?;
        let bought: u64 = bought.parse().unwrap_or_default();
        let [stock, sold, held, per_user, hold_ms] = figures;
        if bought + quantity > per_user {
            return Ok(Err("limit_reached"));
        }
        if stock.saturating_sub(sold + held) < quantity {
            return Ok(Err("sold_out"));
        }
        figures[2] += quantity;
        self.made += 1;
        let token = format!("{user}-{}", self.made);
        let hold = format!("h {quantity} {} {item} {user}", now_ms() + hold_ms);
        self.write(room, item, figures).await?;
        self.store.ask(&["HSET", &format!("rc:{{{room}}}:holds"), &token, &hold]).await?;
        let after = (bought + quantity).to_string();
        self.store.ask(&["HSET", &format!("rc:{{{room}}}:buyers"), &buyer, &after]).await?;
        Ok(Ok(json!({ "reservation": format!("{token}.{room}") })))
    }

    async fn confirm(&mut self, reservation: &str) -> anyhow::Result<Value> {
        let (token, room) = reservation.split_once('.').context("no reservation")?;
        let holds = format!("rc:{{{room}}}:holds");
        let hold = self.store.text(&["HGET", &holds, token]).await?;
        let words: Vec<_> = hold.split(' ').collect();
        let [_, quantity, expires, item, user] = words[..] else { bail!("no hold {token}") };
        let mut figures = self.item(room, item).await?;
        let quantity: u64 = quantity.parse()?;
        figures[1] += quantity;
        figures[2] = figures[2].saturating_sub(quantity);
        self.write(room, item, figures).await?;
        let sold = format!("c {quantity} {expires} {item} {user}");
        self.store.ask(&["HSET", &holds, token, &sold]).await?;
        Ok(json!({ "state": "confirmed" }))
    }

    async fn item(&mut self, room: &str, item: &str) -> anyhow::Result<[u64; 5]> {
        let packed = self.store.text(&["HGET", &format!("rc:{{{room}}}:items"), item]).await?;
        let figures: Vec<u64> = packed.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        <[u64; 5]>::try_from(figures).ok().context("no such item")
    }

    async fn write(&mut self, room: &str, item: &str, figures: [u64; 5]) -> anyhow::Result<()> {
        let packed = figures.map(|figure| figure.to_string()).join(" ");
        self.store.ask(&["HSET", &format!("rc:{{{room}}}:items"), item, &packed]).await?;
        let [stock, sold, held, ..] = figures;
        self.tell(room, item, "remaining", stock.saturating_sub(sold + held)).await
    }

    /// Writes a counter's value and publishes it.
    async fn tell(&mut self, room: &str, target: &str, counter: &str, value: u64) -> anyhow::Result<()> {
        let version = now_ms();
        let packed = format!("{counter} {value} {version};");
        self.store.ask(&["HSET", &format!("rc:{{{room}}}:counts"), target, &packed]).await?;
        let push =
            format!("C {version}\n{{\"target\":\"{target}\",\"counter\":\"{counter}\",\"value\":{value}}}");
        self.store.ask(&["PUBLISH", &format!("rc:{{{room}}}:ch"), &push]).await?;
        Ok(())
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
