//! What a connection asked for and what is being done about it. One thing at a time, and the next frame is read when it
//! is done; only publishes follow one another without waiting for answers, because a broker takes them in the order in
//! which they were begun. Answers come in the order of the frames all the same.

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll},
};

use roomcast_protocol::{ClientFrame, ServerFrame};

use super::tasks::{Done, Work};

/// Publishes under way for one connection. More would hold more in memory for a client that is not in a hurry to read
/// its answers, and gain little.
const MOST: usize = 16;

/// Tasks in the order of their frames. Nearly all connections wait, and then it is nothing.
#[derive(Default)]
pub(super) struct Pipeline(Option<Box<UnderWay>>);

#[derive(Default)]
struct UnderWay {
    entries: VecDeque<Entry>,
    /// The frame that has to wait for all of them.
    held: Option<ClientFrame>,
    /// Something that nothing may follow.
    alone: bool,
}

enum Entry {
    Work(Work),
    Done(Box<Done>),
    /// A refusal that was known at once, in its place among the answers.
    Answer(Box<ServerFrame>),
}

/// Whether a task may have others behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// A publish, behind which other publishes may go.
    Welcome,
    Unwelcome,
}

/// What is next.
pub(super) enum Next {
    Done(Box<Done>),
    Answer(Box<ServerFrame>),
}

impl Pipeline {
    pub(super) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|under_way| under_way.entries.is_empty())
    }

    /// Whether another frame is to be read.
    pub(super) fn takes_more(&self) -> bool {
        self.0.as_deref().is_none_or(|UnderWay { entries, held, alone }| {
            held.is_none() && (entries.is_empty() || !alone && entries.len() < MOST)
        })
    }

    fn under_way(&mut self) -> &mut UnderWay {
        self.0.get_or_insert_default()
    }

    /// Begins a task behind the others.
    pub(super) fn begin(&mut self, work: Work, company: Company) {
        let under_way = self.under_way();
        under_way.alone = company == Company::Unwelcome;
        under_way.entries.push_back(Entry::Work(work));
    }

    /// What follows from a task, before anything else.
    pub(super) fn go_on(&mut self, work: Work) {
        let under_way = self.under_way();
        under_way.alone = true;
        under_way.entries.push_front(Entry::Work(work));
    }

    /// Answers when its turn has come.
    pub(super) fn answer(&mut self, answer: ServerFrame) {
        self.under_way().entries.push_back(Entry::Answer(Box::new(answer)));
    }

    /// Keeps a frame until everything before it is done.
    pub(super) fn hold(&mut self, frame: ClientFrame) {
        self.under_way().held = Some(frame);
    }

    /// The frame whose turn has come.
    pub(super) fn release(&mut self) -> Option<ClientFrame> {
        if self.is_empty() { self.0.take()?.held } else { None }
    }

    /// Waits for [`Pipeline::poll_next`].
    pub(super) async fn next(&mut self) -> Next {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// What is done next, in the order of the frames; never where nothing is under way. [`Pipeline::release`] comes
    /// behind it. Nothing is taken before it is returned.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let Some(UnderWay { entries, .. }) = self.0.as_deref_mut() else { return Poll::Pending };
        // All of them, in order: those that were never polled have not been begun.
        for entry in entries.iter_mut() {
            if let Entry::Work(work) = entry
                && let Poll::Ready(done) = work.as_mut().poll(cx)
            {
                *entry = Entry::Done(Box::new(done));
            }
        }
        match entries.pop_front() {
            Some(Entry::Done(done)) => Poll::Ready(Next::Done(done)),
            Some(Entry::Answer(answer)) => Poll::Ready(Next::Answer(answer)),
            Some(waiting @ Entry::Work(_)) => {
                entries.push_front(waiting);
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future, sync::Arc};

    use futures_util::FutureExt;
    use roomcast_protocol::{Codec, ErrorCode, Failure, Message};
    use tokio::sync::{Mutex, oneshot};

    use super::*;

    fn refused(id: u64) -> ServerFrame {
        ServerFrame::Error { id: Some(id), error: Failure::new(ErrorCode::Forbidden, "no") }
    }

    fn ping() -> ClientFrame {
        Codec::json().decode(Message::Text(r#"{"id":1,"op":"ping"}"#)).unwrap()
    }

    fn id(next: &Next) -> Option<u64> {
        let answer = match next {
            Next::Done(done) => done.answer.as_ref(),
            Next::Answer(answer) => Some(&**answer),
        };
        match answer {
            Some(ServerFrame::Error { id, .. }) => *id,
            _ => None,
        }
    }

    /// A task that notes when it is begun, and is done when it is told.
    fn task(number: u64, begun: &Arc<Mutex<Vec<u64>>>) -> (Work, oneshot::Sender<()>) {
        let (end, ended) = oneshot::channel();
        let begun = begun.clone();
        let work = async move {
            begun.lock().await.push(number);
            let _told = ended.await;
            Done::with_answer(refused(number))
        };
        (Box::pin(work), end)
    }

    #[tokio::test]
    async fn publishes_are_begun_in_order_and_answered_in_order_whichever_is_done_first() {
        let (begun, mut pipeline) = (Arc::default(), Pipeline::default());
        let (works, mut ends): (Vec<_>, Vec<_>) = (1..=3).map(|number| task(number, &begun)).unzip();
        for work in works {
            assert!(pipeline.takes_more());
            pipeline.begin(work, Company::Welcome);
        }
        pipeline.answer(refused(4));
        assert!(pipeline.next().now_or_never().is_none());
        assert_eq!(*begun.lock().await, [1, 2, 3]);
        for end in ends.drain(1..).rev() {
            end.send(()).unwrap();
        }
        assert!(pipeline.next().now_or_never().is_none(), "the first is not done");
        pipeline.hold(ping());
        assert!(!pipeline.takes_more());
        ends.remove(0).send(()).unwrap();
        for number in 1..=4 {
            assert!(pipeline.release().is_none(), "what is held waits for all of them");
            assert_eq!(id(&pipeline.next().await), Some(number));
        }
        assert!(pipeline.is_empty() && !pipeline.takes_more());
        assert!(pipeline.release().is_some());
        assert!(pipeline.takes_more() && pipeline.0.is_none());
    }

    #[tokio::test]
    async fn so_many_and_no_more_and_nothing_behind_what_is_no_publish() {
        let mut pipeline = Pipeline::default();
        for _ in 0..MOST {
            assert!(pipeline.takes_more());
            pipeline.begin(Box::pin(future::pending()), Company::Welcome);
        }
        assert!(!pipeline.takes_more());
        let mut pipeline = Pipeline::default();
        pipeline.begin(Box::pin(future::ready(Done::with_answer(refused(1)))), Company::Unwelcome);
        assert!(!pipeline.takes_more());
        let Next::Done(_) = pipeline.next().await else { panic!("it is done") };
        pipeline.go_on(Box::pin(future::pending()));
        assert!(!pipeline.takes_more(), "what follows from it comes first");
        assert!(pipeline.release().is_none());
    }
}
