//! The connection for commands: one, shared by all tasks, each of which waits for its own answer.
//!
//! What waits is written in one go, in the order in which it was given: a system call costs more than most commands
//! (see `docs/decisions/0019`). The writing and the reading wait for nobody: a send buffer that is full stops neither
//! the answers nor the end.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use fred::{
    error::{Error, ErrorKind},
    types::{FromValue, Value},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{
    queue::{Command, CommandQueue, lost},
    resp,
};

/// Room for what one read brings, at least.
const MIN_READ: usize = 16 * 1024;
/// A buffer that grew beyond this is given back.
const MAX_KEPT: usize = 1024 * 1024;

/// Sends commands; cheap to clone. All fail once the connection is closed.
#[derive(Debug, Clone)]
pub(super) struct Multiplexed {
    queue: Arc<CommandQueue>,
    timeout: Duration,
}

/// An open connection. It closes when this is dropped, whatever was under way.
#[derive(Debug)]
pub(super) struct Connection {
    commands: Multiplexed,
    task: JoinHandle<String>,
}

impl Connection {
    /// Takes over a stream on which nothing is under way. `timeout` is for each command.
    pub(super) fn start(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        timeout: Duration,
        tasks: &TaskTracker,
    ) -> Self {
        let queue = Arc::new(CommandQueue::default());
        let commands = Multiplexed { queue: queue.clone(), timeout };
        Self { commands, task: tasks.spawn(run(stream, Closing(queue))) }
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
        self.commands.queue.close("the connection was given up");
    }
}

impl Multiplexed {
    /// Sends one command and waits for its answer. What is given up before it was written is never written.
    pub(super) async fn send<R: FromValue>(&self, name: &str, words: &[Value]) -> Result<R, Error> {
        self.send_written(Command::new(resp::command(name, words)?)).await?.convert()
    }

    /// The same with a command as it goes over the wire.
    pub(super) async fn send_written(&self, command: Command) -> Result<Value, Error> {
        let answer = self.queue.put(command)?;
        match timeout(self.timeout, answer).await {
            Ok(Ok(frame)) => frame?.try_into(),
            Ok(Err(_closed)) => Err(lost("the connection was closed")),
            Err(_late) => Err(Error::new(ErrorKind::Timeout, "Redis did not answer in time")),
        }
    }
}

/// Closes the queue also where the task is aborted.
struct Closing(Arc<CommandQueue>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close("the connection was closed");
    }
}

async fn run(stream: impl AsyncRead + AsyncWrite + Send + 'static, closing: Closing) -> String {
    let queue = &closing.0;
    let (from, to) = tokio::io::split(stream);
    let ended = tokio::select! {
        ended = read(from, queue) => ended,
        ended = write(to, queue) => ended.map_err(Error::from),
    };
    let why = match ended {
        Ok(()) => "the connection was closed".to_owned(),
        Err(error) => error.to_string(),
    };
    queue.close(&why);
    why
}

async fn write(mut to: impl AsyncWrite + Unpin, queue: &CommandQueue) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        queue.take(&mut buffer);
        if buffer.is_empty() {
            queue.rung().await;
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

async fn read(mut from: impl AsyncRead + Unpin, queue: &CommandQueue) -> Result<(), Error> {
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
        queue.answer(&mut frames)?;
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
        sync::Mutex,
        task::{Context, Poll},
    };

    use futures_util::future::join_all;
    use tokio::io::{DuplexStream, ReadBuf};

    use super::{super::queue::MAX_WRITE, *};

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
        assert_eq!(connection.commands().queue.sizes(), (0, 3));
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
        let get = Command::new(resp::command("GET", &["k".into()]).unwrap()).asking().unwrap();
        let (value, ()) = tokio::join!(connection.commands().send_written(get), server);
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
