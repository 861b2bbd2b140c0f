//! Opening a connection: TCP, TLS where it is asked for, and the greeting.

use std::time::Duration;

use bytes::BytesMut;
use fred::{
    error::{Error, ErrorKind},
    rustls::pki_types::ServerName,
    types::{
        Value,
        config::{Config, Server, TlsConnector},
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    hearing::{Asker, Ear, Hearing},
    multiplexed::Connection,
    resp,
    shard::Context,
};

/// How long one TCP connect may take: a reachable Redis answers in far less.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long TLS and the greeting may take, in all.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection for commands to this server. Cancel safe.
pub(super) async fn dial(context: &Context, server: &Server) -> Result<Connection, Error> {
    commands(context, &context.plan.data(server), server).await
}

/// Opens a connection for commands to this sentinel. Cancel safe.
pub(super) async fn dial_sentinel(context: &Context, server: &Server) -> Result<Connection, Error> {
    commands(context, &context.plan.sentinel(server), server).await
}

/// Opens a connection for subscriptions to this server. Cancel safe.
pub(super) async fn dial_hearing(
    context: &Context,
    server: &Server,
    ear: impl Ear,
) -> Result<(Hearing, Asker), Error> {
    let Context { plan, tasks, .. } = context;
    let stream = open(&plan.data(server), server).await?;
    Ok(Hearing::start(stream, plan.settings.command_timeout, tasks, ear))
}

async fn commands(context: &Context, config: &Config, server: &Server) -> Result<Connection, Error> {
    let stream = open(config, server).await?;
    Ok(Connection::start(stream, context.plan.settings.command_timeout, &context.tasks))
}

/// A connection on which all is said before the first command.
async fn open(config: &Config, server: &Server) -> Result<Box<dyn Stream>, Error> {
    let opening = TcpStream::connect((host(server), server.port));
    let opened =
        timeout(TCP_TIMEOUT, opening).await.map_err(|_| late(&format!("{server} could be reached")))?;
    let tcp = opened.map_err(|error| Error::new(ErrorKind::IO, format!("{server}: {error}")))?;
    // What waits is gathered here already.
    tcp.set_nodelay(true)?;
    let greeted = async {
        let mut stream = encrypted(config, server, tcp).await?;
        greet(config, &mut stream).await?;
        Ok(stream)
    };
    timeout(GREETING_TIMEOUT, greeted).await.unwrap_or_else(|_| Err(late(&format!("{server} has greeted"))))
}

async fn encrypted(config: &Config, server: &Server, tcp: TcpStream) -> Result<Box<dyn Stream>, Error> {
    let Some(tls) = &config.tls else { return Ok(Box::new(tcp)) };
    let TlsConnector::Rustls(connector) = &tls.connector;
    let name = server.tls_server_name.as_deref().unwrap_or_else(|| host(server));
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| Error::new(ErrorKind::Tls, format!("{server} has no name for TLS: {error}")))?;
    let stream =
        connector.connect(name, tcp).await.map_err(|error| Error::new(ErrorKind::Tls, error.to_string()))?;
    Ok(Box::new(stream))
}

/// RESP3: with RESP2 an answer's kind is ambiguous. Who we are goes in the same word.
async fn greet(config: &Config, stream: &mut Box<dyn Stream>) -> Result<(), Error> {
    let mut words: Vec<Value> = vec!["3".into()];
    if let Some(password) = &config.password {
        let user = config.username.as_deref().unwrap_or("default");
        words.extend(["AUTH".into(), user.into(), password.as_str().into()]);
    }
    exchange(stream, "HELLO", &words).await.map_err(without_words)?;
    if let Some(database) = config.database {
        exchange(stream, "SELECT", &[database.to_string().into()]).await?;
    }
    Ok(())
}

/// One command and its answer, on a connection that has nothing else to do.
async fn exchange(stream: &mut Box<dyn Stream>, name: &str, words: &[Value]) -> Result<Value, Error> {
    stream.write_all(&resp::command(name, words)?).await?;
    stream.flush().await?;
    let mut answer = BytesMut::new();
    loop {
        if let Some(frame) = resp::frame(&mut answer)? {
            return frame.try_into();
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(Error::new(ErrorKind::IO, "the connection was closed"));
        }
    }
}

/// An address in version 6 stands in brackets in a URL, and nowhere else.
fn host(server: &Server) -> &str {
    let host = &*server.host;
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// A server that does not know HELLO quotes its words, and the password is one of them. No other refusal does, and what
/// may pass, as too many clients, has to stay what it is.
fn without_words(error: Error) -> Error {
    if error.details().starts_with("ERR unknown command") {
        return Error::new(ErrorKind::Config, "the server refuses HELLO 3: Redis 6.0 or later is needed");
    }
    error
}

fn late(what: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("it took too long until {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_version_6_goes_without_its_brackets() {
        for (written, meant) in
            [("[::1]", "::1"), ("::1", "::1"), ("redis.example", "redis.example"), ("10.0.0.1", "10.0.0.1")]
        {
            assert_eq!(host(&Server::new(written, 6379)), meant);
        }
    }

    #[test]
    fn a_password_that_the_server_quotes_is_not_told() {
        let quoted = "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'default' 'secret'";
        let error = without_words(Error::new(ErrorKind::Unknown, quoted));
        assert!(!error.to_string().contains("secret"), "{error}");
        let wrong = without_words(Error::new(ErrorKind::Auth, "WRONGPASS invalid username-password pair"));
        assert!(wrong.to_string().contains("WRONGPASS"), "{wrong}");
        let full = without_words(Error::new(ErrorKind::Unknown, "ERR max number of clients reached"));
        assert!(full.to_string().contains("max number of clients"), "{full}");
    }
}
