//! The rooms' logs: appending, reading, where they stand, and their end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fred::types::Value;
use futures_util::future::join_all;
use roomcast_core::permission::HistoryRules;
use roomcast_counter::{ChangeTarget, Outlet};
use roomcast_protocol::{Offset, Position, RoomName};
use sha2::{Digest, Sha256};

use super::{
    body,
    commands::Commands,
    fault::Effect,
    internal,
    keys::Keys,
    nonsense,
    scripts::{Call, Scripts},
    witness::Witnesses,
};
use crate::{
    broker::{
        BrokerError, MAX_PAGE, Page, Publication, Published, Range, new_epoch,
        payload::{self, Body},
    },
    random::hex,
};

/// How long a room in which nothing was ever written keeps its epoch after the last look: long enough for whoever
/// comes back to a quiet room, and for nodes to renew it while they have members there.
const UNWRITTEN_TTL: Duration = Duration::from_secs(300);
/// A room's position outlives its log by this much, as `log_append` has it.
pub(super) const POSITION_TTL: Duration = Duration::from_secs(86_400);

#[derive(Debug)]
pub(super) struct Log {
    pub(super) keys: Keys,
    pub(super) scripts: Arc<Scripts>,
    pub(super) commands: Commands,
    pub(super) witnesses: Arc<Witnesses>,
    pub(super) changes: ChangeTarget,
}

impl Log {
    pub(super) async fn publish(
        &self,
        publication: &Publication,
        remember: Duration,
    ) -> Result<Published, BrokerError> {
        let outcomes = self.publish_all(std::slice::from_ref(publication), remember).await?;
        outcomes.into_iter().next().ok_or_else(|| nonsense("publish"))?
    }

    /// One script for all events of one room: the keys' records, the log, the news.
    pub(super) async fn publish_all(
        &self,
        publications: &[Publication],
        remember: Duration,
    ) -> Result<Vec<Result<Published, BrokerError>>, BrokerError> {
        let Some(Publication { room, history, .. }) = publications.first() else { return Ok(Vec::new()) };
        debug_assert!(publications.iter().all(|publication| publication.room == *room));
        let (call, _outlet) = self.publish_call(room, *history, publications, remember)?;
        let answer = self.commands.call(&self.scripts.publish, &call, Effect::Write).await?;
        let Value::Array(words) = &answer else { return Err(nonsense("publish")) };
        let (outcomes, []) = words.as_chunks::<4>() else { return Err(nonsense("publish")) };
        if outcomes.len() != publications.len() {
            return Err(nonsense("publish"));
        }
        let now = Instant::now();
        Ok(outcomes.iter().map(|outcome| self.published(room, outcome, now)).collect())
    }

    /// The call of `publish.lua`, and what to hold until it is over.
    fn publish_call(
        &self,
        room: &RoomName,
        history: HistoryRules,
        publications: &[Publication],
        remember: Duration,
    ) -> Result<(Call, Outlet), BrokerError> {
        let Self { keys, changes, .. } = self;
        let mut names = vec![keys.meta(room), keys.log(room), keys.key_index(room)];
        let own = publications.iter().filter_map(|publication| publication.key.as_deref());
        names.extend(own.map(|key| keys.key(room, key)));
        let outlet = changes.outlet(&names[0]);
        outlet.extend(&mut names);
        let mut call = Call::new(&names);
        call.arg(&keys.channel(room));
        call.arg(&new_epoch()?);
        call.number(history.size);
        call.number(history.ttl.as_millis());
        call.number(remember.as_millis());
        for Publication { event, data, from, key, .. } in publications {
            let body = body(event, data, from.as_deref())?;
            call.arg(&body);
            call.arg(&key.as_ref().map(|_| hex(&Sha256::digest(&body))).unwrap_or_default());
        }
        Ok((call, outlet))
    }

    fn published(
        &self,
        room: &RoomName,
        outcome: &[Value; 4],
        now: Instant,
    ) -> Result<Published, BrokerError> {
        let [outcome, epoch, offset, at] = outcome.each_ref().map(|word| match word {
            Value::String(word) => &**word,
            _ => "",
        });
        match outcome {
            "key_reused" => Err(BrokerError::KeyReused),
            "duplicate" => Ok(Published { position: position(epoch, offset)?, duplicate: true }),
            "stored" => {
                let position = position(epoch, offset)?;
                let at = payload::number(Some(at)).map_err(|_| nonsense("publish"))?;
                self.witnesses.note(room, &position.epoch, position.offset, at, now);
                Ok(Published { position, duplicate: false })
            }
            _ => Err(nonsense("publish")),
        }
    }

    /// One script: where the log stands, and the part asked for.
    pub(super) async fn history(
        &self,
        room: &RoomName,
        range: &Range,
        history: HistoryRules,
    ) -> Result<Page, BrokerError> {
        let (names, args) = self.history_call(room, range, history)?;
        let answer: Vec<String> =
            self.commands.run(&self.scripts.history, names, args, Effect::Harmless).await?;
        let [epoch, offset, unbroken, entries @ ..] = &answer[..] else { return Err(nonsense("history")) };
        let mode_since = matches!(range, Range::Since(..));
        let mut complete = unbroken == "1";
        let mut events = Vec::with_capacity(entries.len() / 3);
        for entry in entries.chunks(3) {
            let [id, body, at] = entry else { return Err(nonsense("history")) };
            let read = || {
                let offset = payload::number(id.strip_suffix("-0")).ok()?;
                Some(Body::parse(body).ok()?.at(Offset(offset), payload::number(Some(at)).ok()?))
            };
            if let Some(event) = read() {
                events.push(event);
            } else {
                // What can't be read is missing, and is told as such: refusing the page would hold up all that
                // comes after it.
                tracing::warn!(%room, id, "an entry of a room's log can't be read");
                complete = false;
            }
        }
        if !mode_since {
            events.reverse();
        }
        let follows = |pair: &[roomcast_protocol::Event]| pair[1].offset == pair[0].offset.next();
        complete &= !mode_since || events.windows(2).all(follows);
        Ok(Page { tail: position(epoch, offset)?, events, complete })
    }

    /// The keys and arguments of `history.lua`.
    pub(super) fn history_call(
        &self,
        room: &RoomName,
        range: &Range,
        history: HistoryRules,
    ) -> Result<(Vec<String>, Vec<Value>), BrokerError> {
        let (mode, epoch, offset, limit) = match range {
            Range::Since(since, limit) => {
                ("since", since.epoch.as_str(), since.offset.0, (*limit).clamp(1, MAX_PAGE))
            }
            Range::Recent(limit) => ("recent", "", 0, (*limit).min(MAX_PAGE)),
            Range::Before(offset, limit) => ("before", "", *offset, (*limit).min(MAX_PAGE)),
        };
        let args = vec![
            new_epoch()?.into(),
            millis(history.ttl + POSITION_TTL),
            mode.into(),
            epoch.into(),
            offset.to_string().into(),
            limit.to_string().into(),
            millis(UNWRITTEN_TTL),
        ];
        Ok((vec![self.keys.meta(room), self.keys.log(room)], args))
    }

    /// One look per room, pipelined.
    pub(super) async fn tails(&self, rooms: &[RoomName]) -> Result<Vec<Option<Position>>, BrokerError> {
        let Self { keys, commands, .. } = self;
        let mut tails = Vec::with_capacity(rooms.len());
        for rooms in rooms.chunks((commands.most_at_once() / 2).max(1)) {
            let looks = rooms.iter().map(|room| {
                let meta = keys.meta(room);
                async move {
                    let look = vec![meta.as_str().into(), "epoch".into(), "offset".into()];
                    let look = commands.send::<Vec<Option<String>>>("HMGET", &meta, look, Effect::Harmless);
                    let tail = match &look.await?[..] {
                        [Some(epoch), Some(offset)] => position(epoch, offset)?,
                        [Some(epoch), None] => position(epoch, "0")?,
                        _ => return Ok(None),
                    };
                    let keep = if tail.offset == Offset(0) { UNWRITTEN_TTL } else { POSITION_TTL };
                    // GT: never shortens what a longer history asked for.
                    let renew = vec![meta.as_str().into(), millis(keep), "GT".into()];
                    if let Err(error) =
                        commands.send::<Value>("PEXPIRE", &meta, renew, Effect::Harmless).await
                    {
                        tracing::debug!(%error, "could not keep a room's position from expiring");
                    }
                    Ok::<_, BrokerError>(Some(tail))
                }
            });
            for tail in join_all(looks).await {
                tails.push(tail?);
            }
        }
        Ok(tails)
    }

    /// The keys' records first, as there may be many; then the end in one step.
    pub(super) async fn end_room(&self, room: &RoomName, reason: &str) -> Result<Position, BrokerError> {
        let Self { keys, scripts, commands, .. } = self;
        loop {
            let index = vec![keys.key_index(room)];
            let left: u64 = commands.run(&scripts.forget_keys, index, Vec::new(), Effect::Harmless).await?;
            if left == 0 {
                break;
            }
        }
        let mut names =
            vec![keys.meta(room), keys.log(room), keys.presence(room), keys.presence_pushed(room)];
        let outlet = self.changes.outlet(&names[0]);
        outlet.extend(&mut names);
        let args = vec![
            keys.channel(room).into(),
            new_epoch()?.into(),
            millis(UNWRITTEN_TTL),
            payload::ended_body(reason).map_err(|error| internal(&error))?.into(),
            keys.presence(room).into(),
        ];
        let answer: Vec<String> = commands.run(&scripts.end_room, names, args, Effect::Write).await?;
        match &answer[..] {
            [epoch, offset] => position(epoch, offset),
            _ => Err(nonsense("end_room")),
        }
    }
}

pub(super) fn position(epoch: &str, offset: &str) -> Result<Position, BrokerError> {
    let read = || {
        let offset = Offset(payload::number(Some(offset)).ok()?);
        Some(Position { epoch: payload::epoch(Some(epoch)).ok()?, offset })
    };
    read().ok_or_else(|| nonsense("a position"))
}

/// A number as a word of a command.
pub(super) fn number(number: impl TryInto<i64>) -> Value {
    Value::Integer(number.try_into().unwrap_or(i64::MAX))
}

pub(super) fn millis(duration: Duration) -> Value {
    number(duration.as_millis())
}
