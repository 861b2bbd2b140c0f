//! Counter operations: from the words of the wire to those of the counter crate, and back.

use roomcast_core::permission::Rules;
use roomcast_counter::{Command, Decision, History, Op as CounterOp, Outcome, Thing, UploadState, Wish};
use roomcast_protocol::{Data, ErrorCode, Failure, Ok as Answer, Op, OpKind, RoomName};

use crate::{admin::queue, backend::Repeat, node::Node, random};

/// Hands a counter operation to the counter crate, for a user or a back end.
pub(crate) async fn counter(
    node: &Node,
    room: &RoomName,
    rules: &Rules,
    user: &str,
    op: Op,
) -> Result<Answer, Failure> {
    if let Op::Get(get) = &op {
        return doc(node, room, &get.doc).await;
    }
    let asked = op.clone();
    let (op, repeat) = convert(op, rules)?;
    let answer = apply(node, room, rules, user, op, repeat).await?;
    match &asked {
        Op::Comment(said) => queue::waits(node, room, user, said, &answer).await,
        Op::Moderate(asked) => queue::decided(node, room, user, asked, &answer).await,
        _ => {}
    }
    Ok(match answer {
        Outcome::Like { value, on, version } => Answer::Like { value, on, version },
        Outcome::Count { value, version } => Answer::Count { value, version },
        Outcome::Comment { comment, pending, version, at } => {
            Answer::Comment { comment, pending, version, at }
        }
        Outcome::Moderate { state, version } => {
            Answer::Moderated { state: state.as_str().to_owned(), version }
        }
        Outcome::Upload { state, progress } => {
            Answer::Uploaded { state: state.as_str().to_owned(), progress }
        }
        Outcome::Reserve { reservation, remaining, expires_at } => {
            Answer::Reserved { reservation, remaining, expires_at }
        }
        Outcome::Settled { state, remaining } => {
            Answer::Settled { state: state.as_str().to_owned(), remaining }
        }
        Outcome::Put { version } => Answer::Put { version },
        // Only the API asks for these, and reads them itself.
        Outcome::Deleted { .. } | Outcome::Stock(_) => {
            return Err(Failure::new(ErrorCode::Internal, "internal error"));
        }
    })
}

/// Applies an operation with all that belongs to the room.
pub(crate) async fn apply(
    node: &Node,
    room: &RoomName,
    rules: &Rules,
    user: &str,
    op: CounterOp,
    repeat: Repeat,
) -> Result<Outcome, Failure> {
    let command = Command {
        room: room.to_string(),
        user: user.to_owned(),
        history: History { size: rules.history.size, ttl: rules.history.ttl },
        epoch_candidate: random::epoch(),
        op,
    };
    node.backend.at(room.as_str()).call(repeat, node.backend.counter.apply(command)).await
}

/// Claims a name for a user, or a generated one.
pub(crate) async fn claim(node: &Node, scope: String, user: &str, wish: &Wish) -> Result<Answer, Failure> {
    // A generated name without a key might be given twice, of which one is lost.
    let repeat = match wish {
        Wish::Generate { key: None, .. } => Repeat::Harmful,
        Wish::Generate { .. } | Wish::Name(_) => Repeat::Harmless,
    };
    let counter = &node.backend.counter;
    let at = node.backend.at(&counter.place(Thing::Claims));
    let name = at.call(repeat, counter.claim(&scope, user, wish)).await?;
    Ok(Answer::Claimed { scope, name })
}

async fn doc(node: &Node, room: &RoomName, doc: &str) -> Result<Answer, Failure> {
    let read = node.backend.counter.doc(room.as_str(), doc);
    let doc = node.backend.at(room.as_str()).call(Repeat::Harmless, read).await?;
    let doc = doc.ok_or_else(|| Failure::new(ErrorCode::NotFound, "there is no such document"))?;
    let value =
        Data::parse(&doc.value).map_err(|_| Failure::new(ErrorCode::Internal, "the document is damaged"))?;
    Ok(Answer::Doc { value, version: doc.version })
}

/// The operation as the counter crate takes it, and whether sending it again does no harm.
fn convert(op: Op, rules: &Rules) -> Result<(CounterOp, Repeat), Failure> {
    let keyed = |key: &Option<String>| if key.is_some() { Repeat::Harmless } else { Repeat::Harmful };
    let bad = |what: &str| Failure::new(ErrorCode::BadFrame, what);
    let harmless = |op| Ok((op, Repeat::Harmless));
    match op {
        Op::Like(like) => harmless(CounterOp::Like { target: like.target, on: like.on }),
        Op::Count(count) => {
            let repeat = keyed(&count.key);
            let (target, counter) = (count.target, count.counter);
            Ok((CounterOp::Count { target, counter, by: count.by, key: count.key }, repeat))
        }
        Op::Comment(comment) => {
            let repeat = keyed(&comment.key);
            let (target, text, key) = (comment.target, comment.text, comment.key);
            Ok((CounterOp::Comment { target, text, key, moderated: rules.moderated }, repeat))
        }
        Op::Moderate(op) => {
            let decision = Decision::from_name(&op.decision)
                .ok_or_else(|| bad("moderate: decision must be `approve` or `reject`"))?;
            harmless(CounterOp::Moderate { comment: op.comment, decision, version: op.version })
        }
        Op::Upload(op) => {
            let state = UploadState::from_name(&op.state)
                .ok_or_else(|| bad("upload: state must be `started`, `progress`, `complete` or `failed`"))?;
            harmless(CounterOp::Upload { target: op.target, state, progress: op.progress })
        }
        Op::Reserve(op) => harmless(CounterOp::Reserve { item: op.item, quantity: op.quantity, key: op.key }),
        Op::Confirm(op) => harmless(CounterOp::Confirm { reservation: op.reservation }),
        Op::Release(op) => harmless(CounterOp::Release { reservation: op.reservation }),
        Op::Put(op) => {
            let value = op.value.as_str().to_owned();
            harmless(CounterOp::Put { doc: op.doc, value, version: op.version })
        }
        op => Err(not_offered(op.kind())),
    }
}

fn not_offered(kind: OpKind) -> Failure {
    Failure::new(ErrorCode::UnknownOp, format!("{} is not offered", kind.as_str()))
}
