//! The queues in Redis: one stream with a consumer group per source, each call one script in one slot.

use std::{fmt, io, sync::Arc, time::Duration};

use fred::types::{FromValue, Value};

use super::{DeadLetter, Depth, Entry, Fate, IngestRules, Intake, Replayed};
use crate::{
    CounterError,
    redis::{Effect, Routed, Script, map_fault, run},
    secret,
};

const COMMON_LUA: &str = include_str!("lua/common.lua");

/// Queues in Redis.
#[derive(Clone)]
pub struct RedisIngest(Arc<Shared>);

struct Shared {
    client: Routed,
    prefix: String,
    rules: IngestRules,
    scripts: Scripts,
}

struct Scripts {
    enqueue: Script,
    take: Script,
    done: Script,
    failed: Script,
    dead: Script,
    replay: Script,
    depth: Script,
}

impl fmt::Debug for RedisIngest {
    /// Without the client: its configuration may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { prefix, rules, .. } = &*self.0;
        f.debug_struct("RedisIngest").field("prefix", prefix).field("rules", rules).finish_non_exhaustive()
    }
}

impl RedisIngest {
    /// Queues on this client, or these.
    pub fn new(client: impl Into<Routed>, prefix: &str, rules: IngestRules) -> Self {
        let script = |name, text: &str| Script::new(name, format!("{COMMON_LUA}{text}"));
        let scripts = Scripts {
            enqueue: script("ingest_enqueue", include_str!("lua/enqueue.lua")),
            take: script("ingest_take", include_str!("lua/take.lua")),
            done: script("ingest_done", include_str!("lua/done.lua")),
            failed: script("ingest_failed", include_str!("lua/failed.lua")),
            dead: script("ingest_dead", include_str!("lua/dead.lua")),
            replay: script("ingest_replay", include_str!("lua/replay.lua")),
            depth: script("ingest_depth", include_str!("lua/depth.lua")),
        };
        Self(Arc::new(Shared { client: client.into(), prefix: prefix.to_owned(), rules, scripts }))
    }

    pub(super) fn rules(&self) -> &IngestRules {
        &self.0.rules
    }

    pub(super) async fn enqueue(
        &self,
        source: &str,
        id: &str,
        hash: &str,
        body: &str,
    ) -> Result<Intake, CounterError> {
        let Shared { rules, scripts, .. } = &*self.0;
        let mut keys = self.keys(source);
        keys.push(self.key(source, &format!("id:{}", secret::digest(id))));
        let args: Vec<Value> = vec![
            hash.into(),
            id.into(),
            body.into(),
            rules.capacity.to_string().into(),
            millis(rules.remember),
        ];
        let said: String = self.call(&scripts.enqueue, keys, args, Effect::Write).await?;
        match said.as_str() {
            "queued" => Ok(Intake::Queued),
            "duplicate" => Ok(Intake::Duplicate),
            "mismatch" => Ok(Intake::Mismatch),
            "full" => Ok(Intake::Full),
            _ => Err(nonsense(&said)),
        }
    }

    pub(super) async fn take(
        &self,
        source: &str,
        consumer: &str,
        most: u32,
    ) -> Result<Vec<Entry>, CounterError> {
        let Shared { rules, scripts, .. } = &*self.0;
        let args: Vec<Value> = vec![consumer.into(), most.to_string().into(), millis(rules.lease)];
        let said: Vec<String> = self.call(&scripts.take, self.keys(source), args, Effect::Write).await?;
        let entry = |words: &[String]| match words {
            [entry, attempt, id, body] => Ok(Entry {
                entry: entry.clone(),
                attempt: number(attempt)?,
                id: id.clone(),
                body: body.clone(),
            }),
            _ => Err(nonsense(&words.join(" "))),
        };
        said.chunks(4).map(entry).collect()
    }

    pub(super) async fn done(&self, source: &str, entry: &Entry) -> Result<(), CounterError> {
        let args = vec![entry.entry.as_str().into()];
        let _ok: String = self.call(&self.0.scripts.done, self.keys(source), args, Effect::Write).await?;
        Ok(())
    }

    pub(super) async fn failed(
        &self,
        source: &str,
        entry: &Entry,
        again: Option<Duration>,
        reason: &str,
    ) -> Result<Fate, CounterError> {
        let Shared { rules, scripts, .. } = &*self.0;
        let again = again.map_or_else(|| "".into(), millis);
        let args = vec![entry.entry.as_str().into(), reason.into(), again, rules.dead.to_string().into()];
        let said: String = self.call(&scripts.failed, self.keys(source), args, Effect::Write).await?;
        match said.as_str() {
            "again" => Ok(Fate::Again),
            "dead" => Ok(Fate::Dead),
            "gone" => Ok(Fate::Gone),
            _ => Err(nonsense(&said)),
        }
    }

    pub(super) async fn dead(
        &self,
        source: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<DeadLetter>, CounterError> {
        let args = vec![after.unwrap_or_default().into(), limit.to_string().into()];
        let said: Vec<String> =
            self.call(&self.0.scripts.dead, self.keys(source), args, Effect::Read).await?;
        let letter = |words: &[String]| match words {
            [entry, id, body, reason, attempts, at] => Ok(DeadLetter {
                entry: entry.clone(),
                id: id.clone(),
                body: body.clone(),
                reason: reason.clone(),
                attempts: number(attempts)?,
                at: number(at)?,
            }),
            _ => Err(nonsense(&words.join(" "))),
        };
        said.chunks(6).map(letter).collect()
    }

    pub(super) async fn replay(
        &self,
        source: &str,
        entries: Option<&[String]>,
        most: u32,
    ) -> Result<Replayed, CounterError> {
        let Shared { rules, scripts, .. } = &*self.0;
        if entries.is_some_and(<[String]>::is_empty) {
            let left = self.depth(source).await?.dead;
            return Ok(Replayed { replayed: 0, left });
        }
        let mut args: Vec<Value> = vec![rules.capacity.to_string().into(), most.to_string().into()];
        args.extend(entries.unwrap_or_default().iter().map(|entry| Value::from(entry.as_str())));
        let (replayed, left): (String, String) =
            self.call(&scripts.replay, self.keys(source), args, Effect::Write).await?;
        Ok(Replayed { replayed: number(&replayed)?, left: number(&left)? })
    }

    pub(super) async fn depth(&self, source: &str) -> Result<Depth, CounterError> {
        let (waiting, dead): (String, String) =
            self.call(&self.0.scripts.depth, self.keys(source), Vec::new(), Effect::Read).await?;
        Ok(Depth { waiting: number(&waiting)?, dead: number(&dead)? })
    }

    async fn call<R: FromValue>(
        &self,
        script: &Script,
        keys: Vec<String>,
        args: Vec<Value>,
        effect: Effect,
    ) -> Result<R, CounterError> {
        run(&self.0.client, script, keys, args).await.map_err(|error| map_fault(error, effect))
    }

    /// In the order that `common.lua` names them.
    fn keys(&self, source: &str) -> Vec<String> {
        ["q", "retry", "tries", "dead"].map(|what| self.key(source, what)).to_vec()
    }

    fn key(&self, source: &str, what: &str) -> String {
        format!("{}:{{{}}}:{what}", self.0.prefix, super::Ingest::place(source))
    }
}

fn millis(duration: Duration) -> Value {
    duration.as_millis().to_string().into()
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, CounterError> {
    text.parse().map_err(|_| nonsense(text))
}

fn nonsense(text: &str) -> CounterError {
    let message = format!("a script of the queue answered what it never says: {text:.100}");
    CounterError::Internal(io::Error::new(io::ErrorKind::InvalidData, message).into())
}
