//! The connection for commands: one, shared by all tasks, each of which waits for its own answer.
//!
//! What waits is written in one go, in the order in which it was given: a system call costs more than most commands
//! (see `docs/decisions/0019`). The writing and the reading wait for nobody: a send buffer that is full stops neither
//! the answers nor the end.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use fred::{
    error::{Error, ErrorKind},
    types::{FromValue, Resp3Frame, Value},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{fault, resp};

/// What one write takes along at most, but for a single command that is larger.
const MAX_WRITE: usize = 256 * 1024;
/// Room for what one read brings, at least.
const MIN_READ: usize = 16 * 1024;
/// A buffer that grew beyond this is given back.
const MAX_KEPT: usize = 1024 * 1024;

type Answer = Result<Resp3Frame, Error>;

/// Sends commands; cheap to clone. All fail once the connection is closed.
#[derive(Debug, Clone)]
pub(super) struct Multiplexed {
    desk: Arc<Desk>,
    timeout: Duration,
}

/// An open connection. It closes when this is dropped, whatever was under way.
#[derive(Debug)]
pub(super) struct Connection {
    commands: Multiplexed,
    task: JoinHandle<String>,
}

/// What waits to be written, and what was written and waits for its answer.
#[derive(Debug, Default)]
struct Desk {
    lines: Mutex<Lines>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Lines {
    unsent: VecDeque<Unsent>,
    /// In the order of the commands; none where nobody wants to know.
    unanswered: VecDeque<Option<oneshot::Sender<Answer>>>,
    closed: Option<String>,
}

struct Unsent {
    bytes: Vec<u8>,
    /// Commands in these bytes whose answers nobody wants, before the one whose answer is wanted.
    before: usize,
    asker: oneshot::Sender<Answer>,
}

impl fmt::Debug for Unsent {
    /// Without the command: it may hold what is nobody's business, and once a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes over a stream on which nothing is under way. `timeout` is for each command.
    pub(super) fn start(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        timeout: Duration,
        tasks: &TaskTracker,
    ) -> Self {
        let desk = Arc::new(Desk::default());
        let commands = Multiplexed { desk: desk.clone(), timeout };
        Self { commands, task: tasks.spawn(run(stream, Closing(desk))) }
    }

    pub(super) fn commands(&self) -> &Multiplexed {
        &self.commands
    }

    /// Waits until the connection is lost, and says why. To be called once; cancel safe.
    pub(super) async fn ended(&mut self) -> String {
        (&mut self.task).await.unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
        self.commands.desk.close("the connection was given up");
    }
}

impl Multiplexed {
    /// Sends one command and waits for its answer. What is given up before it was written is never written.
    pub(super) async fn send<R: FromValue>(&self, name: &str, words: &[Value]) -> Result<R, Error> {
        self.send_written(resp::command(name, words)?).await?.convert()
    }

    /// The same with a command as it goes over the wire.
    pub(super) async fn send_written(&self, command: Vec<u8>) -> Result<Value, Error> {
        self.exchange(command, 0).await
    }

    /// The same right behind an `ASKING`, as a server wants it that is just being given the slot.
    pub(super) async fn send_asking(&self, command: Vec<u8>) -> Result<Value, Error> {
        let both = [resp::command("ASKING", &[])?, command].concat();
        self.exchange(both, 1).await
    }

    async fn exchange(&self, bytes: Vec<u8>, before: usize) -> Result<Value, Error> {
        let answer = self.desk.put(bytes, before)?;
        match timeout(self.timeout, answer).await {
            Ok(Ok(frame)) => frame?.try_into(),
            Ok(Err(_closed)) => Err(lost("the connection was closed")),
            Err(_late) => Err(Error::new(ErrorKind::Timeout, "Redis did not answer in time")),
        }
    }
}

impl Desk {
    fn put(&self, bytes: Vec<u8>, before: usize) -> Result<oneshot::Receiver<Answer>, Error> {
        let (asker, answer) = oneshot::channel();
        let mut lines = self.lock();
        if let Some(why) = &lines.closed {
            return Err(fault::not_sent(why.clone()));
        }
        lines.unsent.push_back(Unsent { bytes, before, asker });
        let is_first = lines.unsent.len() == 1;
        drop(lines);
        if is_first {
            self.bell.notify_one();
        }
        Ok(answer)
    }

    /// Moves what waits into the buffer, as much as one write takes. Whoever gave up is left out.
    fn take(&self, buffer: &mut BytesMut) {
        let mut lines = self.lock();
        let Lines { unsent, unanswered, .. } = &mut *lines;
        while let Some(next) = unsent.front() {
            if !buffer.is_empty() && buffer.len() + next.bytes.len() > MAX_WRITE {
                break;
            }
            let Some(Unsent { bytes, before, asker }) = unsent.pop_front() else { break };
            if !asker.is_closed() {
                buffer.extend_from_slice(&bytes);
                unanswered.extend(std::iter::repeat_with(|| None).take(before));
                unanswered.push_back(Some(asker));
            }
        }
    }

    /// Hands frames to those who asked for them, in order.
    fn answer(&self, frames: &mut Vec<Resp3Frame>) -> Result<(), Error> {
        let mut lines = self.lock();
        if frames.len() > lines.unanswered.len() {
            return Err(Error::new(ErrorKind::Protocol, "Redis answers what was not asked"));
        }
        let askers: Vec<_> = lines.unanswered.drain(..frames.len()).collect();
        drop(lines);
        for (frame, asker) in frames.drain(..).zip(askers) {
            // Whoever gave up waits no more.
            let _told = asker.map(|asker| asker.send(Ok(frame)));
        }
        Ok(())
    }

    /// Nothing is taken any more. What was not written is told apart from what may have been.
    fn close(&self, why: &str) {
        let mut lines = self.lock();
        lines.closed.get_or_insert_with(|| why.to_owned());
        let (unsent, unanswered) = (std::mem::take(&mut lines.unsent), std::mem::take(&mut lines.unanswered));
        drop(lines);
        for Unsent { asker, .. } in unsent {
            let _told = asker.send(Err(fault::not_sent(why)));
        }
        for asker in unanswered.into_iter().flatten() {
            let _told = asker.send(Err(lost(why)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody knows whether the command ran.
fn lost(why: &str) -> Error {
    Error::new(ErrorKind::IO, why.to_owned())
}

/// Closes the desk also where the task is aborted.
struct Closing(Arc<Desk>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close("the connection was closed");
    }
}

async fn run(stream: impl AsyncRead + AsyncWrite + Send + 'static, closing: Closing) -> String {
    let desk = &*closing.0;
    let (from, to) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = read(from, desk) => ended,
        ended = write(to, desk) => ended.map_err(Error::from),
    };
    let why = match ended {
        Ok(()) => "the connection was closed".to_owned(),
        Err(error) => error.to_string(),
    };
    desk.close(&why);
    why
}

async fn write(mut to: impl AsyncWrite + Unpin, desk: &Desk) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        desk.take(&mut buffer);
        if buffer.is_empty() {
            desk.bell.notified().await;
            continue;
        }
        to.write_all(&buffer).await?;
        to.flush().await?;
        if buffer.capacity() > MAX_KEPT {
            buffer = BytesMut::new();
        }
        buffer.clear();
    }
}

async fn read(mut from: impl AsyncRead + Unpin, desk: &Desk) -> Result<(), Error> {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    loop {
        buffer.reserve(MIN_READ);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let read = loop {
            match resp::frame(&mut buffer) {
                Ok(Some(frame)) if resp::is_push(&frame) => {}
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        desk.answer(&mut frames)?;
        read?;
        if buffer.is_empty() && buffer.capacity() > MAX_KEPT {
            buffer = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use futures_util::future::join_all;
    use tokio::io::{DuplexStream, ReadBuf};

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(250);

    fn pair() -> (Connection, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        (Connection::start(ours, TIMEOUT, &TaskTracker::new()), theirs)
    }

    async fn ping(commands: &Multiplexed, word: &str) -> Result<String, Error> {
        commands.send("ECHO", &[word.into()]).await
    }

    /// Asks, and goes on meanwhile.
    fn asked(commands: &Multiplexed, word: &'static str) -> JoinHandle<Result<String, Error>> {
        let commands = commands.clone();
        TaskTracker::new().spawn(async move { ping(&commands, word).await })
    }

    fn echo(word: &str) -> String {
        format!("*2\r\n$4\r\nECHO\r\n${}\r\n{word}\r\n", word.len())
    }

    /// What has been written so far, once it stands still.
    async fn written(theirs: &mut DuplexStream) -> String {
        let mut bytes = vec![0; 1 << 20];
        let length = theirs.read(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// Lets everything run that can.
    async fn settle() {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    /// A stream that remembers how much each write brought.
    struct Counted(DuplexStream, Arc<Mutex<Vec<usize>>>);

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            to: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, to)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1.lock().unwrap().push(bytes.len());
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_together_is_written_together_and_answered_in_order() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(Mutex::new(Vec::new()));
        let connection = Connection::start(Counted(ours, writes.clone()), TIMEOUT, &TaskTracker::new());
        let words: Vec<String> = (0..200).map(|number| format!("word {number}")).collect();
        let asked = join_all(words.iter().map(|word| ping(connection.commands(), word)));
        let server = async {
            let text = written(&mut theirs).await;
            assert_eq!(text, words.iter().map(|word| echo(word)).collect::<String>());
            for word in &words {
                theirs.write_all(format!("+{word}\r\n").as_bytes()).await.unwrap();
            }
        };
        let (answers, ()) = tokio::join!(asked, server);
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), words);
        assert_eq!(writes.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_write_is_bounded_but_for_a_single_command() {
        let (connection, mut theirs) = pair();
        let large = "x".repeat(MAX_WRITE + 1);
        let small = "y".repeat(MAX_WRITE / 2);
        let commands = connection.commands().clone();
        let words = [large, small.clone(), small];
        TaskTracker::new()
            .spawn(async move { join_all(words.iter().map(|word| ping(&commands, word))).await });
        let mut seen = 0;
        while seen < 2 * MAX_WRITE {
            seen += written(&mut theirs).await.len();
        }
        let desk = connection.commands().desk.lock();
        assert_eq!((desk.unsent.len(), desk.unanswered.len()), (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_gave_up_leaves_the_answers_of_the_others_in_place() {
        let (connection, mut theirs) = pair();
        let commands = connection.commands();
        let late = ping(commands, "late").await.unwrap_err();
        assert_eq!(*late.kind(), ErrorKind::Timeout);
        assert_eq!(written(&mut theirs).await, echo("late"));
        let server = async {
            assert_eq!(written(&mut theirs).await, echo("next"));
            theirs.write_all(b"+late\r\n>2\r\n+invalidate\r\n+k\r\n$4\r\nne").await.unwrap();
            settle().await;
            theirs.write_all(b"xt\r\n").await.unwrap();
        };
        let (next, ()) = tokio::join!(ping(commands, "next"), server);
        assert_eq!(next.unwrap(), "next");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_up_before_it_was_written_is_never_written() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let connection = Connection::start(ours, TIMEOUT, &TaskTracker::new());
        let commands = connection.commands();
        let ask = |word| asked(commands, word);
        // The first fills the pipe; the second waits behind it until nobody wants it any more.
        let first = ask("first");
        settle().await;
        let second = ask("second");
        assert!(first.await.unwrap().is_err() && second.await.unwrap().is_err());
        let _third = ask("third");
        let mut text = String::new();
        while !text.ends_with("third\r\n") {
            text += &written(&mut theirs).await;
        }
        assert_eq!(text, echo("first") + &echo("third"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_tells_what_was_never_sent_from_what_may_have_run() {
        let (ours, theirs) = tokio::io::duplex(8);
        let mut connection = Connection::start(ours, TIMEOUT, &TaskTracker::new());
        let commands = connection.commands().clone();
        let ask = |word| asked(&commands, word);
        let sent = ask("sent");
        settle().await;
        let unsent = ask("unsent");
        settle().await;
        drop(theirs);
        assert!(!connection.ended().await.is_empty());
        assert_eq!(*sent.await.unwrap().unwrap_err().kind(), ErrorKind::IO);
        assert_eq!(*unsent.await.unwrap().unwrap_err().kind(), ErrorKind::Routing);
        assert_eq!(*ping(&commands, "later").await.unwrap_err().kind(), ErrorKind::Routing);
    }

    #[tokio::test(start_paused = true)]
    async fn giving_a_connection_up_ends_what_is_under_way_at_once() {
        let (connection, _theirs) = pair();
        let commands = connection.commands().clone();
        let under_way = asked(&commands, "x");
        settle().await;
        drop(connection);
        assert!(matches!(under_way.await.unwrap().unwrap_err().kind(), ErrorKind::IO | ErrorKind::Routing));
    }

    #[tokio::test(start_paused = true)]
    async fn asking_goes_right_before_and_its_own_answer_is_nobodys() {
        let (connection, mut theirs) = pair();
        let server = async {
            assert_eq!(written(&mut theirs).await, "*1\r\n$6\r\nASKING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
            theirs.write_all(b"+OK\r\n$1\r\nv\r\n").await.unwrap();
        };
        let get = resp::command("GET", &["k".into()]).unwrap();
        let (value, ()) = tokio::join!(connection.commands().send_asking(get), server);
        assert_eq!(value.unwrap(), "v".into());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_asked_or_is_no_answer_ends_the_connection() {
        for nonsense in ["+OK\r\n", "?\r\n"] {
            let (mut connection, mut theirs) = pair();
            theirs.write_all(nonsense.as_bytes()).await.unwrap();
            assert!(connection.ended().await.contains("Redis answers"), "{nonsense:?}");
        }
    }
}
