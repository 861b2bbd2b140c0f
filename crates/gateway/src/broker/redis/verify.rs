//! Holds what was seen against the logs of a server that took over.

use fred::{error::Error, types::Value};
use futures_util::future::join_all;
use roomcast_protocol::RoomName;

use super::{
    fault,
    log::{POSITION_TTL, millis},
    multiplexed::Multiplexed,
    scripts::Call,
    shard::Context,
    witness::{Seen, SeenCount, SeenEvent},
};
use crate::broker::{new_epoch, payload};

/// Rooms in one pipeline.
const CHUNK: usize = 256;
/// What subscribers are told of a log that has lost its end.
const REASON: &str = "the room's log lost its end in a failover";

/// Gives a new epoch to each room whose newest event is gone, and new versions to the counters of each whose newest
/// count is. An error means that the connection is of no use, and the
/// witnesses wait for the next.
pub(super) async fn hold_against_logs(
    context: &Context,
    commands: &Multiplexed,
    mut witnesses: Vec<(RoomName, Seen)>,
) -> Result<(), Error> {
    let rooms = witnesses.len();
    let mut lost = 0;
    while !witnesses.is_empty() {
        let chunk = witnesses.split_off(witnesses.len().saturating_sub(CHUNK));
        let answers = join_all(chunk.iter().map(|(room, seen)| verify(context, commands, room, seen))).await;
        let mut failed = None;
        for ((room, seen), answer) in chunk.into_iter().zip(answers) {
            match answer {
                Ok(answer) if answer == "lost" => lost += 1,
                Ok(_) => {}
                // The server is full or read-only: it can't be told now, and nothing can be appended either.
                Err(error) if fault::is_refusal(&error) && !fault::is_busy(&error) => {
                    tracing::error!(%room, %error, "could not look whether a room's log is whole");
                    context.witnesses.put_back([(room, seen)]);
                }
                Err(error) => {
                    context.witnesses.put_back([(room, seen)]);
                    failed = Some(error);
                }
            }
        }
        if let Some(error) = failed {
            context.witnesses.put_back(witnesses);
            return Err(error);
        }
    }
    if lost > 0 {
        tracing::warn!(
            rooms,
            lost,
            "Redis came back without events that were seen: those rooms begin a new epoch"
        );
    }
    Ok(())
}

async fn verify(
    context: &Context,
    commands: &Multiplexed,
    room: &RoomName,
    seen: &Seen,
) -> Result<String, Error> {
    let keys = &context.keys;
    let internal = |error: &dyn std::fmt::Display| {
        Error::new(fred::error::ErrorKind::InvalidArgument, error.to_string())
    };
    let mut args: Vec<Value> = vec![
        keys.channel(room).into(),
        new_epoch().map_err(|error| internal(&error))?.into(),
        millis(POSITION_TTL),
        payload::ended_body(REASON).map_err(|error| internal(&error))?.into(),
    ];
    // What was not seen is left empty.
    args.extend(
        match &seen.event {
            Some(SeenEvent { epoch, offset, at }) => {
                [epoch.to_string(), offset.0.to_string(), at.to_string()]
            }
            None => [const { String::new() }; 3],
        }
        .map(Value::from),
    );
    args.extend(
        match &seen.count {
            Some(SeenCount { target, counter, version, highest }) => {
                [target.clone(), counter.clone(), version.to_string(), highest.to_string()]
            }
            None => [const { String::new() }; 4],
        }
        .map(Value::from),
    );
    let names = vec![keys.meta(room), keys.log(room), keys.counts(room)];
    let (script, call) = (&context.scripts.verify, Call::of(&names, &args)?);
    commands.send_written(script.called(&call)).await?.convert()
}
