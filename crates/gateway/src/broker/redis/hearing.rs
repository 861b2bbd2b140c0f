//! The connection for subscriptions. What is published is handed on where it was read; everything else answers the one
//! question that may be under way.
//!
//! A SUBSCRIBE is answered by a push, and refused by an error in the place of an answer; a cluster takes subscriptions
//! away unasked. So answers are not counted: a question ends with an ECHO of a fresh token, and all that comes before the
//! token comes back belongs to it. (ECHO and not PING, which Redis refuses while it can't write to its disk.)

use std::{
    collections::HashSet,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use fred::{
    error::{Error, ErrorKind},
    types::{Resp3Frame, Value},
};
use redis_protocol::resp3::types::Resp3Frame as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::{fault, resp};

/// Room for what one read brings, at least.
const MIN_READ: usize = 64 * 1024;
/// A buffer that grew beyond this is given back.
const MAX_KEPT: usize = 1024 * 1024;
/// More refusals than any question here can have.
const MAX_REFUSALS: usize = 16 * 1024;

/// An open connection. It closes when this is dropped, whatever was under way.
#[derive(Debug)]
pub(super) struct Hearing {
    task: JoinHandle<String>,
}

/// Asks over the connection, one question at a time.
#[derive(Debug)]
pub(super) struct Asker {
    questions: mpsc::Sender<Question>,
    timeout: Duration,
    token: u64,
}

struct Question {
    bytes: Vec<u8>,
    asked: Asked,
}

/// A question on its way.
#[derive(Debug)]
struct Asked {
    token: String,
    /// Channels to be left.
    leaving: HashSet<String>,
    answers: Answers,
    /// None where it was told already that nothing will come of it.
    asker: Option<oneshot::Sender<Result<Answers, Error>>>,
}

/// What came of a question.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Channels that are subscribed now.
    pub(super) subscribed: HashSet<String>,
    /// Why others are not, in the order of the commands that were refused.
    pub(super) refusals: Vec<Error>,
}

/// Who hears. It must not wait.
pub(super) trait Ear: Send + 'static {
    /// A message was published on this channel.
    fn message(&mut self, channel: &[u8], payload: &[u8]);
    /// The server has ended a channel's subscription, and the question under way did not ask for that.
    fn ended(&mut self, channel: &str);
}

/// The question that was written last, until all of its answers are there.
#[derive(Debug, Default)]
struct UnderWay(Mutex<Option<Asked>>);

impl Hearing {
    /// Takes over a stream on which nothing is under way. `timeout` is for each question.
    pub(super) fn start(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        timeout: Duration,
        tasks: &TaskTracker,
        ear: impl Ear,
    ) -> (Self, Asker) {
        let (questions, asked) = mpsc::channel(1);
        let task = tasks.spawn(run(stream, asked, ear));
        (Self { task }, Asker { questions, timeout, token: 0 })
    }

    /// Waits until the connection is lost, and says why. To be called once; cancel safe.
    pub(super) async fn ended(&mut self) -> String {
        (&mut self.task).await.unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Asker {
    /// Sends commands that subscribe, and that leave these channels, all in one go, and waits until the server has gone
    /// through them.
    pub(super) async fn ask(
        &mut self,
        commands: impl IntoIterator<Item = Result<Vec<u8>, Error>>,
        leaving: &[String],
    ) -> Result<Answers, Error> {
        self.token += 1;
        let token = self.token.to_string();
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend_from_slice(&command?);
        }
        bytes.extend_from_slice(&resp::command("ECHO", &[Value::from(token.as_str())])?);
        let (asker, answers) = oneshot::channel();
        let leaving = leaving.iter().cloned().collect();
        let asked = Asked { token, leaving, answers: Answers::default(), asker: Some(asker) };
        let question = Question { bytes, asked };
        let closed = || fault::not_sent("the connection was closed");
        let asked = async {
            self.questions.send(question).await.map_err(|_| closed())?;
            answers.await.map_err(|_| closed())?
        };
        let late = || Error::new(ErrorKind::Timeout, "Redis did not answer in time");
        timeout(self.timeout, asked).await.unwrap_or_else(|_| Err(late()))
    }
}

impl UnderWay {
    fn begin(&self, asked: Asked) {
        *self.lock() = Some(asked);
    }

    /// What came and is no message. Some: a channel that has ended unasked.
    fn hear(&self, frame: Resp3Frame) -> Result<Option<String>, Error> {
        let mut under_way = self.lock();
        if let Resp3Frame::Push { data, .. } = &frame {
            let Some((news, channel)) = news(data) else { return Ok(None) };
            let asked = under_way.as_mut();
            match news {
                News::Message => {
                    return Err(Error::new(ErrorKind::Protocol, "Redis sends a message that can't be read"));
                }
                News::Ended => {
                    let is_asked = asked.is_some_and(|asked| asked.leaving.remove(channel));
                    return Ok((!is_asked).then(|| channel.to_owned()));
                }
                News::Subscribed => {
                    asked.map(|asked| asked.answers.subscribed.insert(channel.to_owned()));
                    return Ok(None);
                }
            }
        }
        let Some(asked) = &mut *under_way else { return Err(unasked()) };
        match frame {
            Resp3Frame::BlobString { data, .. } if *data == *asked.token.as_bytes() => {
                if let Some(Asked { answers, asker: Some(asker), .. }) = under_way.take() {
                    // Whoever gave up waits no more.
                    let _told = asker.send(Ok(answers));
                }
            }
            // The end of a question that was given up: what came so far were its answers.
            Resp3Frame::BlobString { .. } => asked.answers = Answers::default(),
            frame => match Value::try_from(frame) {
                Ok(_) => return Err(unasked()),
                Err(refusal) => asked.refuse(refusal)?,
            },
        }
        Ok(None)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    fn refuse(&mut self, refusal: Error) -> Result<(), Error> {
        if is_for_all(&refusal) {
            // The token will not come back either.
            let _told = self.asker.take().map(|asker| asker.send(Err(refusal)));
            return Ok(());
        }
        if self.answers.refusals.len() == MAX_REFUSALS {
            return Err(unasked());
        }
        self.answers.refusals.push(refusal);
        Ok(())
    }
}

/// Whether the server refuses whatever it is told now, or the echo.
fn is_for_all(refusal: &Error) -> bool {
    let word = refusal.details().split(' ').next().unwrap_or_default();
    matches!(word, "BUSY" | "LOADING" | "MASTERDOWN" | "NOAUTH")
        || refusal.details().to_ascii_lowercase().contains("'echo'")
}

/// What a push says of a channel.
enum News {
    Subscribed,
    Ended,
    Message,
}

fn news(push: &[Resp3Frame]) -> Option<(News, &str)> {
    let [kind, channel, ..] = push else { return None };
    let news = match kind.as_str()? {
        "subscribe" | "ssubscribe" => News::Subscribed,
        "unsubscribe" | "sunsubscribe" => News::Ended,
        "message" | "smessage" => News::Message,
        _ => return None,
    };
    Some((news, channel.as_str()?))
}

fn unasked() -> Error {
    Error::new(ErrorKind::Protocol, "Redis answers what was not asked")
}

async fn run(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    questions: mpsc::Receiver<Question>,
    ear: impl Ear,
) -> String {
    let under_way = UnderWay::default();
    let (from, to) = tokio::io::split(stream);
    // The reading and the writing wait for nobody.
    let ended = tokio::select! {
        ended = read(from, &under_way, ear) => ended,
        ended = write(to, questions, &under_way) => ended.map_err(Error::from),
    };
    match ended {
        Ok(()) => "the connection was closed".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Ends when nobody can ask any more.
async fn write(
    mut to: impl AsyncWrite + Unpin,
    mut questions: mpsc::Receiver<Question>,
    under_way: &UnderWay,
) -> io::Result<()> {
    while let Some(Question { bytes, asked }) = questions.recv().await {
        if asked.asker.as_ref().is_none_or(oneshot::Sender::is_closed) {
            continue;
        }
        under_way.begin(asked);
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
    Ok(())
}

async fn read(
    mut from: impl AsyncRead + Unpin,
    under_way: &UnderWay,
    mut ear: impl Ear,
) -> Result<(), Error> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(MIN_READ);
        let read = from.read_buf(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        loop {
            if let Some(message) = resp::message(&buffer) {
                ear.message(message.channel, message.payload);
                let length = message.length;
                buffer.advance(length);
            } else if let Some(frame) = resp::frame(&mut buffer)? {
                if let Some(channel) = under_way.hear(frame)? {
                    ear.ended(&channel);
                }
            } else {
                break;
            }
        }
        if buffer.is_empty() && buffer.capacity() > MAX_KEPT {
            buffer = BytesMut::new();
        }
        if read >= MIN_READ {
            // There may be far more: who takes it off our hands has to keep up.
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::DuplexStream;

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(250);

    type Heard = Arc<Mutex<Vec<(String, String)>>>;

    /// Messages, and channels that have ended with nothing.
    struct Notes(Heard);

    impl Ear for Notes {
        fn message(&mut self, channel: &[u8], payload: &[u8]) {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            self.0.lock().unwrap().push((text(channel), text(payload)));
        }

        fn ended(&mut self, channel: &str) {
            self.0.lock().unwrap().push((channel.to_owned(), String::new()));
        }
    }

    fn connection() -> (Hearing, Asker, DuplexStream, Heard) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let heard = Heard::default();
        let (hearing, asker) = Hearing::start(ours, TIMEOUT, &TaskTracker::new(), Notes(heard.clone()));
        (hearing, asker, theirs, heard)
    }

    fn subscribe(channel: &str) -> Result<Vec<u8>, Error> {
        resp::command("SUBSCRIBE", &[channel.into()])
    }

    fn echo(token: u64) -> String {
        let token = token.to_string();
        format!("*2\r\n$4\r\nECHO\r\n${}\r\n{token}\r\n", token.len())
    }

    fn details(errors: &[Error]) -> Vec<&str> {
        errors.iter().map(Error::details).collect()
    }

    async fn written(theirs: &mut DuplexStream) -> String {
        let mut bytes = vec![0; 1 << 20];
        let count = theirs.read(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_heard_and_all_else_before_the_token_is_the_answer() {
        let (_hearing, mut asker, mut theirs, heard) = connection();
        let server = async {
            let asked = written(&mut theirs).await;
            assert_eq!(
                asked,
                format!(
                    "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nb\r\n{}",
                    echo(1)
                )
            );
            let answers =
                b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\na\r\n$3\r\none\r\n\
                            -NOPERM no\r\n$1\r\n1\r\n>3\r\n$8\r\nsmessage\r\n$1\r\nb\r\n$3\r\ntwo\r\n";
            // In pieces that cut everything.
            for piece in answers.chunks(7) {
                theirs.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (answers, ()) = tokio::join!(asker.ask([subscribe("a"), subscribe("b")], &[]), server);
        let Answers { subscribed, refusals } = answers.unwrap();
        assert_eq!(subscribed, HashSet::from(["a".to_owned()]));
        assert_eq!(details(&refusals), ["NOPERM no"]);
        tokio::time::sleep(TIMEOUT).await;
        let pair = |channel: &str, payload: &str| (channel.to_owned(), payload.to_owned());
        assert_eq!(*heard.lock().unwrap(), [pair("a", "one"), pair("b", "two")]);
    }

    #[tokio::test(start_paused = true)]
    async fn late_answers_are_not_taken_for_those_of_the_next_question() {
        let (_hearing, mut asker, mut theirs, _heard) = connection();
        let late = asker.ask([subscribe("a")], &[]).await.unwrap_err();
        assert_eq!(*late.kind(), ErrorKind::Timeout);
        let server = async {
            written(&mut theirs).await;
            let told = written(&mut theirs);
            assert_eq!(told.await, format!("*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nb\r\n{}", echo(2)));
            theirs.write_all(b"-NOPERM a\r\n$1\r\n1\r\n-NOPERM b\r\n$1\r\n2\r\n").await.unwrap();
        };
        let (answers, ()) = tokio::join!(asker.ask([subscribe("b")], &[]), server);
        assert_eq!(details(&answers.unwrap().refusals), ["NOPERM b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_channel_that_nobody_asked_for_is_told_and_an_answer_ends_the_connection() {
        let (mut hearing, mut asker, mut theirs, heard) = connection();
        theirs.write_all(b">3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n").await.unwrap();
        tokio::task::yield_now().await;
        let server = async {
            written(&mut theirs).await;
            theirs.write_all(b">3\r\n$12\r\nsunsubscribe\r\n$1\r\nb\r\n:0\r\n$1\r\n1\r\n").await.unwrap();
        };
        let leaving = ["b".to_owned()];
        let (answers, ()) = tokio::join!(asker.ask([], &leaving), server);
        assert!(answers.unwrap().subscribed.is_empty());
        assert_eq!(*heard.lock().unwrap(), [("a".to_owned(), String::new())]);
        theirs.write_all(b"+OK\r\n").await.unwrap();
        assert!(hearing.ended().await.contains("not asked"));
        assert_eq!(*asker.ask([], &["b".to_owned()]).await.unwrap_err().kind(), ErrorKind::Routing);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_everything_is_told_at_once_and_the_next_question_is_not_mixed_up() {
        for refusal in [
            "LOADING Redis is loading",
            "NOPERM User eve has no permissions to run the 'echo' command",
            "ERR unknown command 'ECHO', with args beginning with: '1'",
        ] {
            let (_hearing, mut asker, mut theirs, _heard) = connection();
            let server = async {
                written(&mut theirs).await;
                theirs.write_all(format!("-{refusal}\r\n-{refusal}\r\n").as_bytes()).await.unwrap();
            };
            let (answers, ()) = tokio::join!(asker.ask([subscribe("a")], &[]), server);
            assert_eq!(answers.unwrap_err().details(), refusal);
            let server = async {
                written(&mut theirs).await;
                theirs.write_all(b">3\r\n$10\r\nssubscribe\r\n$1\r\na\r\n:1\r\n$1\r\n2\r\n").await.unwrap();
            };
            let (answers, ()) = tokio::join!(asker.ask([subscribe("a")], &[]), server);
            let Answers { subscribed, refusals } = answers.unwrap();
            assert!(subscribed.contains("a") && refusals.is_empty(), "{refusals:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_is_told_to_whoever_asks() {
        let (mut hearing, mut asker, mut theirs, _heard) = connection();
        let server = async move {
            written(&mut theirs).await;
            drop(theirs);
        };
        let (answers, ()) = tokio::join!(asker.ask([subscribe("a")], &[]), server);
        assert!(answers.is_err());
        assert_eq!(hearing.ended().await, "the connection was closed");
    }
}
