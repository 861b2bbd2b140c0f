//! The commands of one connection: what waits to be written, what was written and waits for its answer, and the order of
//! both.
//!
//! A server that has forgotten its scripts refuses calls that were sent by hash, one by one, while more are on their way
//! to it. From the first refusal on nothing is written until all that was under way is answered; then what was refused
//! goes out again, in its order, and before all that was not written yet. Nobody has to be asked for that: whoever waits
//! for the answer waits on. So calls keep their order there, too, where no other client brings the script back between two
//! of them.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use fred::{
    error::{Error, ErrorKind},
    types::Resp3Frame,
};
use tokio::sync::{Notify, oneshot};

use super::{fault, resp};

/// What one write takes along at most, but for a single command that is larger.
pub(super) const MAX_WRITE: usize = 256 * 1024;

/// What became of a command; none came where the connection ended.
pub(super) type Answer = Result<Resp3Frame, Error>;

/// A command as it goes over the wire.
pub(super) struct Command {
    bytes: Vec<u8>,
    /// Commands in these bytes whose answers nobody wants, before the one whose answer is wanted.
    before: usize,
    by_hash: Option<ByHash>,
}

/// What to do where the server does not know the script.
struct ByHash {
    /// Where the words `EVALSHA` and the hash stand; in full it is `EVAL` and the script.
    at: Range<usize>,
    script: Bytes,
    refused: bool,
}

impl Command {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, before: 0, by_hash: None }
    }

    /// A call of a script by its hash; the words that say so stand at `at`.
    pub(super) fn by_hash(bytes: Vec<u8>, at: Range<usize>, script: Bytes) -> Self {
        Self { by_hash: Some(ByHash { at, script, refused: false }), ..Self::new(bytes) }
    }

    /// Right behind an `ASKING`, as a server wants it that is just being given the slot.
    pub(super) fn asking(self) -> Result<Self, Error> {
        let asking = resp::command("ASKING", &[])?;
        let by = asking.len();
        let by_hash = self.by_hash.map(|call| ByHash { at: call.at.start + by..call.at.end + by, ..call });
        Ok(Self { bytes: [asking, self.bytes].concat(), before: self.before + 1, by_hash })
    }

    /// Once more after a refusal: the first of its script in full, so that the server knows it for the others; and in
    /// full whatever is refused a second time. `brought` are the words by which those scripts are called.
    fn again(mut self, brought: &mut HashSet<Vec<u8>>) -> Self {
        let Some(call) = &mut self.by_hash else { return self };
        let by = &self.bytes[call.at.clone()];
        if call.refused || !brought.contains(by) {
            brought.insert(by.to_vec());
            return self.in_full();
        }
        call.refused = true;
        self
    }

    /// With the whole script.
    pub(super) fn in_full(mut self) -> Self {
        if let Some(ByHash { at, script, .. }) = self.by_hash.take() {
            let mut words = Vec::with_capacity(script.len() + 32);
            resp::bulk(&mut words, b"EVAL");
            resp::bulk(&mut words, &script);
            self.bytes.splice(at, words);
        }
        self
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}

impl fmt::Debug for Command {
    /// Without its words: they may be nobody's business, and once a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct CommandQueue {
    lines: Mutex<Lines>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    unsent: VecDeque<(Command, Asker)>,
    /// In the order of the commands; none where nobody wants to know.
    unanswered: VecDeque<Option<(Sent, Asker)>>,
    /// What the server refused because it has forgotten the script. Where there is any, nothing is written before all
    /// that was is answered.
    refused: Vec<(Command, Asker)>,
    closed: Option<String>,
}

type Asker = oneshot::Sender<Answer>;

/// What is kept of a command that was written.
#[derive(Debug)]
enum Sent {
    ForGood,
    /// It is written again if the server does not know its script.
    ByHash(Command),
}

impl CommandQueue {
    /// Takes a command in.
    pub(super) fn put(&self, command: Command) -> Result<oneshot::Receiver<Answer>, Error> {
        let (asker, answer) = oneshot::channel();
        let mut lines = self.lock();
        if let Some(why) = &lines.closed {
            return Err(fault::not_sent(why.clone()));
        }
        lines.unsent.push_back((command, asker));
        let is_first = lines.unsent.len() == 1;
        drop(lines);
        if is_first {
            self.bell.notify_one();
        }
        Ok(answer)
    }

    /// Waits for something to be taken.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Moves what waits into the buffer, as much as one write takes. Whoever gave up is left out.
    pub(super) fn take(&self, buffer: &mut BytesMut) {
        let mut lines = self.lock();
        if !lines.refused.is_empty() {
            return;
        }
        let Lines { unsent, unanswered, .. } = &mut *lines;
        while let Some((next, _)) = unsent.front() {
            if !buffer.is_empty() && buffer.len() + next.bytes.len() > MAX_WRITE {
                break;
            }
            let Some((command, asker)) = unsent.pop_front() else { break };
            if !asker.is_closed() {
                buffer.extend_from_slice(&command.bytes);
                unanswered.extend(std::iter::repeat_with(|| None).take(command.before));
                let sent = if command.by_hash.is_some() { Sent::ByHash(command) } else { Sent::ForGood };
                unanswered.push_back(Some((sent, asker)));
            }
        }
    }

    /// Hands frames to those who asked for them, in order.
    pub(super) fn answer(&self, frames: &mut Vec<Resp3Frame>) -> Result<(), Error> {
        let mut lines = self.lock();
        if frames.len() > lines.unanswered.len() {
            return Err(Error::new(ErrorKind::Protocol, "Redis answers what was not asked"));
        }
        let Lines { unanswered, refused, .. } = &mut *lines;
        let asked: Vec<_> = unanswered.drain(..frames.len()).collect();
        let mut told = Vec::with_capacity(frames.len());
        for (frame, asked) in frames.drain(..).zip(asked) {
            match asked {
                Some((Sent::ByHash(command), asker)) if resp::is_unknown_script(&frame) => {
                    refused.push((command, asker));
                }
                Some((_, asker)) => told.push((frame, asker)),
                None => {}
            }
        }
        let again = lines.send_again();
        drop(lines);
        for (frame, asker) in told {
            // Whoever gave up waits no more.
            let _told = asker.send(Ok(frame));
        }
        if let Some(calls) = again {
            tracing::debug!(calls, "the server did not know the scripts of these calls: they are sent again");
            self.bell.notify_one();
        }
        Ok(())
    }

    /// Nothing is taken any more. What was not written is told apart from what may have been.
    pub(super) fn close(&self, why: &str) {
        let mut lines = self.lock();
        lines.closed.get_or_insert_with(|| why.to_owned());
        let (unsent, unanswered) = (std::mem::take(&mut lines.unsent), std::mem::take(&mut lines.unanswered));
        let refused = std::mem::take(&mut lines.refused);
        drop(lines);
        for (_, asker) in refused.into_iter().chain(unsent) {
            let _told = asker.send(Err(fault::not_sent(why)));
        }
        for (_, asker) in unanswered.into_iter().flatten() {
            let _told = asker.send(Err(lost(why)));
        }
    }

    /// Commands that wait to be written, and those that wait for their answers.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        let lines = self.lock();
        (lines.unsent.len(), lines.unanswered.len())
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    /// Puts what was refused before all that waits, once everything is answered, and says how much that is.
    fn send_again(&mut self) -> Option<usize> {
        if self.refused.is_empty() || !self.unanswered.is_empty() {
            return None;
        }
        let mut brought = HashSet::new();
        let refused = std::mem::take(&mut self.refused).into_iter().filter(|(_, asker)| !asker.is_closed());
        let again: Vec<_> = refused.map(|(command, asker)| (command.again(&mut brought), asker)).collect();
        let calls = again.len();
        for command in again.into_iter().rev() {
            self.unsent.push_front(command);
        }
        Some(calls)
    }
}

/// Nobody knows whether the command ran.
pub(super) fn lost(why: &str) -> Error {
    Error::new(ErrorKind::IO, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: &str = "-NOSCRIPT No matching script.\r\n";

    /// A call of a script by its hash, and how it goes in full.
    fn call(name: &str, script: &'static str) -> Command {
        let bytes = format!("hash-of-{script} {name};").into_bytes();
        Command::by_hash(bytes, 0.."hash-of-".len() + script.len(), Bytes::from_static(script.as_bytes()))
    }

    fn in_full(name: &str, script: &'static str) -> String {
        call(name, script).in_full().text().to_owned()
    }

    fn plain(name: &str) -> Command {
        Command::new(format!("{name};").into_bytes())
    }

    fn written(queue: &CommandQueue) -> String {
        let mut buffer = BytesMut::new();
        queue.take(&mut buffer);
        String::from_utf8(buffer.to_vec()).unwrap()
    }

    fn answer(queue: &CommandQueue, text: &str) {
        let mut bytes = BytesMut::from(text);
        let mut frames = std::iter::from_fn(|| resp::frame(&mut bytes).unwrap()).collect();
        queue.answer(&mut frames).unwrap();
    }

    fn text(answer: &mut oneshot::Receiver<Answer>) -> String {
        let value: fred::types::Value = answer.try_recv().unwrap().unwrap().try_into().unwrap();
        value.as_string().unwrap()
    }

    #[test]
    fn what_a_server_refused_goes_out_again_in_its_order_and_before_all_else() {
        let queue = CommandQueue::default();
        let mut first = [("a", "one"), ("b", "two"), ("c", "one"), ("d", "one")]
            .map(|(name, script)| queue.put(call(name, script)).unwrap());
        assert_eq!(written(&queue), "hash-of-one a;hash-of-two b;hash-of-one c;hash-of-one d;");
        answer(&queue, &format!("{UNKNOWN}{UNKNOWN}+c\r\n"));
        assert_eq!(text(&mut first[2]), "c");
        // The last is not answered yet: it may be refused, too.
        let mut later = queue.put(plain("later")).unwrap();
        assert_eq!(written(&queue), "");
        answer(&queue, UNKNOWN);
        let brought = in_full("a", "one") + &in_full("b", "two");
        assert_eq!(written(&queue), brought + "hash-of-one d;later;");
        answer(&queue, "+a\r\n+b\r\n+d\r\n+later\r\n");
        let [a, b, _, d] = &mut first;
        assert_eq!([a, b, d, &mut later].map(text), ["a", "b", "d", "later"]);
    }

    #[test]
    fn the_writer_is_rung_when_it_may_go_on() {
        let queue = CommandQueue::default();
        let _first = [queue.put(call("a", "one")).unwrap(), queue.put(call("b", "one")).unwrap()];
        written(&queue);
        let rung = || {
            let mut rung = std::pin::pin!(queue.rung());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            rung.as_mut().poll(&mut cx).is_ready()
        };
        assert!(rung() && !rung());
        answer(&queue, UNKNOWN);
        assert!(!rung());
        answer(&queue, "+b\r\n");
        assert!(rung());
    }

    /// The one before it that went in full came to nothing, say for want of memory.
    #[test]
    fn what_is_refused_twice_goes_in_full_and_a_third_time_it_fails() {
        let queue = CommandQueue::default();
        let mut calls = ["a", "b"].map(|name| queue.put(call(name, "one")).unwrap());
        written(&queue);
        answer(&queue, &UNKNOWN.repeat(2));
        assert_eq!(written(&queue), format!("{}hash-of-one b;", in_full("a", "one")));
        answer(&queue, &format!("-OOM\r\n{UNKNOWN}"));
        assert_eq!(written(&queue), in_full("b", "one"));
        answer(&queue, UNKNOWN);
        assert!(calls[1].try_recv().unwrap().is_ok_and(|frame| resp::is_unknown_script(&frame)));
        assert!(calls[0].try_recv().is_ok());
    }

    #[test]
    fn who_gave_up_meanwhile_is_left_out() {
        let queue = CommandQueue::default();
        let given_up = queue.put(call("a", "one")).unwrap();
        let _other = queue.put(call("b", "one")).unwrap();
        written(&queue);
        answer(&queue, UNKNOWN);
        drop(given_up);
        answer(&queue, UNKNOWN);
        assert_eq!(written(&queue), in_full("b", "one"));
    }

    #[test]
    fn a_redirected_call_is_sent_again_behind_its_asking() {
        let queue = CommandQueue::default();
        let mut asked = queue.put(call("a", "one").asking().unwrap()).unwrap();
        assert_eq!(written(&queue), "*1\r\n$6\r\nASKING\r\nhash-of-one a;");
        answer(&queue, &format!("+OK\r\n{UNKNOWN}"));
        assert_eq!(written(&queue), format!("*1\r\n$6\r\nASKING\r\n{}", in_full("a", "one")));
        answer(&queue, "+OK\r\n+a\r\n");
        assert_eq!(text(&mut asked), "a");
    }

    #[test]
    fn a_loss_tells_that_what_was_refused_did_not_run() {
        let queue = CommandQueue::default();
        let mut calls = ["a", "b"].map(|name| queue.put(call(name, "one")).unwrap());
        written(&queue);
        answer(&queue, UNKNOWN);
        let mut later = queue.put(plain("later")).unwrap();
        queue.close("lost");
        let kind =
            |answer: &mut oneshot::Receiver<Answer>| answer.try_recv().unwrap().unwrap_err().kind().clone();
        assert_eq!(calls.each_mut().map(kind), [ErrorKind::Routing, ErrorKind::IO]);
        assert_eq!(kind(&mut later), ErrorKind::Routing);
        assert!(queue.put(plain("after")).is_err());
    }
}
