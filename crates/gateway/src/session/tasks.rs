//! Carrying out what `core` permitted: each task goes to the hub, the broker or the counter, and comes back as an
//! answer and a change to the session.

pub(crate) use connect::Grant;
pub(crate) use counters::{apply, claim, counter};

mod catch_up;
mod connect;
mod counters;
mod join;
mod past;

use std::{future::Future, pin::Pin, rc::Rc, slice, time::Instant};

use roomcast_core::{
    events::ADMIN_EVENTS,
    permission::{Identity, Rules},
    session::Task,
};
use roomcast_counter::Wish;
use roomcast_protocol::{
    CloseCode, Data, ErrorCode, Failure, Ok as Answer, Op, Position, RoomName, ServerFrame,
};

use self::past::{MAX_PAST, Past};
use crate::{
    admin::{
        self,
        audit::{self, Act, Deed},
    },
    backend::{Fault, Repeat},
    broker::{BrokerError, Publication, Published, Range},
    conn::Conn,
    node::{Node, unix_ms},
    restrictions::Speaks,
    worker::Worker,
};

/// What became of a task.
pub(super) struct Done {
    /// To be sent.
    pub(super) answer: Option<ServerFrame>,
    /// To be told to the session.
    pub(super) change: Change,
    /// To be closed, after the answer.
    pub(super) close: Option<CloseCode>,
    /// To be finished before the next frame is read.
    pub(super) rest: Option<Work>,
}

/// A task being carried out.
pub(super) type Work = Pin<Box<dyn Future<Output = Done>>>;

/// How the session changes.
pub(super) enum Change {
    None,
    Opened {
        who: Identity,
        expires: Option<Instant>,
    },
    Refreshed {
        who: Identity,
        expires: Instant,
    },
    Joined(RoomName),
    /// A room that was joined before is not any more.
    Lost(RoomName),
}

impl Done {
    fn answer(id: Option<u64>, result: Result<Answer, Failure>) -> Self {
        let answer = match result {
            Ok(ok) => id.map(|id| ServerFrame::Ok { id, ok }),
            Err(error) => Some(ServerFrame::Error { id, error }),
        };
        Self { answer, ..Self::nothing() }
    }

    fn nothing() -> Self {
        Self { answer: None, change: Change::None, close: None, rest: None }
    }

    fn failed(id: Option<u64>, error: Failure) -> Self {
        Self::answer(id, Err(error))
    }

    #[cfg(test)]
    pub(super) fn with_answer(answer: ServerFrame) -> Self {
        Self { answer: Some(answer), ..Self::nothing() }
    }

    fn with(mut self, change: Change) -> Self {
        self.change = change;
        self
    }

    fn closing(mut self, code: CloseCode) -> Self {
        self.close = Some(code);
        self
    }
}

/// Carries out a task. It may be dropped at any await: the session's end takes back what a join had begun.
pub(super) async fn carry_out(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    who: Option<&Identity>,
    id: Option<u64>,
    task: Task,
) -> Done {
    let node = &worker.node;
    let who = match (task, who) {
        (Task::Authenticate(connect), _) => return connect::connect(node, conn, id, connect).await,
        (task, Some(who)) => (task, who),
        (_, None) => {
            return Done::failed(
                id,
                Failure::new(ErrorCode::ConnectFirst, "the first frame must be connect"),
            );
        }
    };
    if let Err(failure) = restricted(node, conn, who.1, &who.0) {
        return Done::failed(id, failure);
    }
    match who {
        (Task::Authenticate(_), _) => Done::answer(id, Ok(Answer::Empty {})),
        (Task::Refresh { token }, who) => connect::refresh(node, who, id, &token),
        (Task::Join { room, rules, since, recent }, who) => {
            join::join(worker, conn, who, id, join::Request { room, rules, since, recent }).await
        }
        (Task::Leave { room }, _) => {
            worker.leave(conn, &room);
            Done::answer(id, Ok(Answer::Empty {}))
        }
        (Task::Publish { room, rules, event, data, key }, who) => {
            let from = Some(who.user.to_string());
            Done::answer(
                id,
                publish(node, &rules, Publication { room, event, data, from, key, history: rules.history })
                    .await,
            )
        }
        (Task::Signal { room, event, data }, who) => {
            Done::answer(id, signal(node, &room, &event, &data, who).await)
        }
        (Task::History { room, rules, since, before, limit }, _) => {
            let range = range(since, before, limit);
            Done::answer(id, past(node, &room, &rules, range, most_bytes(node)).await)
        }
        (Task::Presence { room, cursor, limit }, _) => {
            Done::answer(id, presence(node, &room, cursor.as_deref(), limit).await)
        }
        (Task::Counter { room, rules, op }, who) => {
            Done::answer(id, counter(node, &room, &rules, &who.user, op).await)
        }
        (Task::Operate(op), who) => Done::answer(id, admin::operate(node, &who.user, op).await),
        (Task::Claim { scope, name }, who) => {
            Done::answer(id, claim(node, scope, &who.user, &Wish::Name(name)).await)
        }
    }
}

/// The largest event, whatever the limit on frames: every node has to read it again from Redis.
const MAX_EVENT: usize = 1024 * 1024;

/// Publishes for a user or a back end.
pub(crate) async fn publish(node: &Node, rules: &Rules, publication: Publication) -> Result<Answer, Failure> {
    let publication = admissible(node, rules, publication)?;
    let mut answers = publish_all(node, slice::from_ref(&publication)).await;
    answers.pop().unwrap_or_else(|| Err(Failure::new(ErrorCode::Internal, "internal error")))
}

/// Publishes what is [`admissible`], in its order and with one answer each. Events of one room are published in one
/// step, or in a few where only some of them have keys.
pub(crate) async fn publish_all(node: &Node, publications: &[Publication]) -> Vec<Result<Answer, Failure>> {
    let mut answers = Vec::with_capacity(publications.len());
    // What a lost answer means depends on the key, so those with keys and those without go by themselves.
    let alike = |a: &Publication, b: &Publication| a.room == b.room && a.key.is_some() == b.key.is_some();
    for some in publications.chunk_by(alike) {
        let [first, ..] = some else { continue };
        let repeat = if first.key.is_some() { Repeat::Harmless } else { Repeat::Harmful };
        let at = node.backend.at(first.room.as_str());
        let published = at.call(repeat, node.backend.broker.publish_all(some)).await;
        let mut outcomes = published.map(Vec::into_iter);
        for publication in some {
            let outcome = match &mut outcomes {
                Ok(outcomes) => outcomes
                    .next()
                    .unwrap_or(Err(BrokerError::Internal("fewer answers than events".into())))
                    .map_err(|fault| fault.into_failure(repeat)),
                Err(failure) => Err(failure.clone()),
            };
            if outcome.as_ref().is_ok_and(|published| !published.duplicate)
                && publication.event.starts_with(ADMIN_EVENTS)
            {
                // Seldom and large: on the heap, so that whoever publishes anything else stays small.
                Box::pin(record_notification(node, publication)).await;
            }
            answers.push(outcome.map(|Published { position: Position { epoch, offset }, duplicate }| {
                Answer::Published { epoch, offset, duplicate }
            }));
        }
    }
    answers
}

/// What may be published, with its key as it is kept.
pub(crate) fn admissible(
    node: &Node,
    rules: &Rules,
    mut publication: Publication,
) -> Result<Publication, Failure> {
    let most = node.terms.limits.frame_bytes.or_max().min(MAX_EVENT);
    if publication.data.as_str().len() > most {
        return Err(Failure::new(ErrorCode::TooLarge, format!("data is larger than {most} bytes")));
    }
    // Users can't take a back end's keys before it uses them.
    if publication.from.is_some() {
        publication.key = publication.key.map(|key| format!("user:{key}"));
    }
    if rules.moderated && publication.event == "comment" {
        let message = "in a moderated namespace only the comment operation makes comments";
        return Err(Failure::new(ErrorCode::Forbidden, message));
    }
    Ok(publication)
}

/// Writes down who notified whom.
async fn record_notification(node: &Node, publication: &Publication) {
    let by = publication.from.as_deref().unwrap_or("api");
    let title = publication.data.to::<Titled>().ok().map(|data| data.title);
    let deed = Deed::new(by, Act::Notify).on(publication.room.as_str());
    audit::record(node, deed.detail(title.as_deref().unwrap_or(&publication.event))).await;
}

/// What the audit log tells of a notification.
#[derive(serde::Deserialize)]
struct Titled {
    title: String,
}

async fn signal(
    node: &Node,
    room: &RoomName,
    event: &str,
    data: &Data,
    who: &Identity,
) -> Result<Answer, Failure> {
    let sent = node.backend.broker.signal(room, event, data, Some(&who.user));
    node.backend.at(room.as_str()).call(Repeat::Harmless, sent).await?;
    Ok(Answer::Empty {})
}

/// The part of the past that was asked for.
pub(crate) fn range(since: Option<Position>, before: Option<u64>, limit: usize) -> Range {
    match (since, before) {
        (Some(since), _) => Range::Since(since, limit),
        (None, Some(before)) => Range::Before(before, limit),
        (None, None) => Range::Recent(limit),
    }
}

/// Reads the past for a back end.
pub(crate) async fn history(
    node: &Node,
    room: &RoomName,
    rules: &Rules,
    range: Range,
) -> Result<Answer, Failure> {
    past(node, room, rules, range, MAX_PAST).await
}

/// What one answer may hold of a room's past: as much as may wait for a socket.
fn most_bytes(node: &Node) -> usize {
    node.terms.limits.outbound_bytes.or_max().min(MAX_PAST)
}

async fn past(
    node: &Node,
    room: &RoomName,
    rules: &Rules,
    range: Range,
    bytes: usize,
) -> Result<Answer, Failure> {
    let page = Past::of(node, room, rules).read(range, bytes).await?;
    Ok(Answer::History { epoch: page.tail.epoch, offset: page.tail.offset, events: page.events })
}

/// Reads who is there, for a user or a back end.
pub(crate) async fn presence(
    node: &Node,
    room: &RoomName,
    cursor: Option<&str>,
    limit: usize,
) -> Result<Answer, Failure> {
    let read = node.backend.broker.presence_members(room, cursor, limit);
    let page = node.backend.at(room.as_str()).read(read).await?;
    Ok(Answer::Presence {
        connections: page.count.connections,
        users: page.count.users,
        members: page.members,
        cursor: page.cursor,
    })
}

/// Refuses what a muted or banned user may not do.
fn restricted(node: &Node, conn: &Conn, who: &Identity, task: &Task) -> Result<(), Failure> {
    let (room, speaks) = match task {
        Task::Authenticate(_) | Task::Refresh { .. } | Task::Leave { .. } => return Ok(()),
        Task::Join { room, .. } | Task::History { room, .. } | Task::Presence { room, .. } => {
            (Some(room), Speaks::No)
        }
        Task::Publish { room, .. } | Task::Signal { room, .. } => (Some(room), Speaks::Yes),
        Task::Counter { room, op, .. } => {
            // What is held can be settled, and a document read.
            let quiet = matches!(op, Op::Confirm(_) | Op::Release(_) | Op::Get(_));
            (Some(room), if quiet { Speaks::No } else { Speaks::Yes })
        }
        Task::Claim { .. } => (None, Speaks::Yes),
        Task::Operate(_) => (None, Speaks::No),
    };
    node.restrictions.admit(&who.user, Some(conn.ip), room.map(RoomName::as_str), speaks, unix_ms())
}
