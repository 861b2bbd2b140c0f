//! Opening a connection for commands: TCP, TLS where it is asked for, and the greeting.

use std::time::Duration;

use fred::{
    error::{Error, ErrorKind},
    rustls::pki_types::ServerName,
    types::{
        Value,
        config::{Config, Server, TlsConnector},
    },
};
use tokio::{net::TcpStream, time::timeout};

use super::{
    multiplexed::{Connection, Multiplexed},
    shard::Context,
};

/// How long one TCP connect may take: a reachable Redis answers in far less.
const TCP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long TLS and the greeting may take, in all.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens a connection for commands to this server. Cancel safe.
pub(super) async fn dial(context: &Context, server: &Server) -> Result<Connection, Error> {
    let config = context.plan.data(server);
    let opening = TcpStream::connect((host(server), server.port));
    let tcp = timeout(TCP_TIMEOUT, opening).await.map_err(|_| late("could be reached"))??;
    // What waits is gathered here already.
    tcp.set_nodelay(true)?;
    let greeted = async {
        let connection = start(context, &config, server, tcp).await?;
        greet(&config, connection.commands()).await?;
        Ok(connection)
    };
    timeout(GREETING_TIMEOUT, greeted).await.unwrap_or_else(|_| Err(late("has greeted")))
}

async fn start(
    context: &Context,
    config: &Config,
    server: &Server,
    tcp: TcpStream,
) -> Result<Connection, Error> {
    let Context { plan, tasks, .. } = context;
    let command_timeout = plan.settings.command_timeout;
    let Some(tls) = &config.tls else { return Ok(Connection::start(tcp, command_timeout, tasks)) };
    let TlsConnector::Rustls(connector) = &tls.connector;
    let name = server.tls_server_name.as_deref().unwrap_or_else(|| host(server));
    let name = ServerName::try_from(name.to_owned())
        .map_err(|error| Error::new(ErrorKind::Tls, format!("{server} has no name for TLS: {error}")))?;
    let stream =
        connector.connect(name, tcp).await.map_err(|error| Error::new(ErrorKind::Tls, error.to_string()))?;
    Ok(Connection::start(stream, command_timeout, tasks))
}

/// RESP3: with RESP2 an answer's kind is ambiguous. Who we are goes in the same word.
async fn greet(config: &Config, commands: &Multiplexed) -> Result<(), Error> {
    let mut words: Vec<Value> = vec!["3".into()];
    if let Some(password) = &config.password {
        let user = config.username.as_deref().unwrap_or("default");
        words.extend(["AUTH".into(), user.into(), password.as_str().into()]);
    }
    commands.send::<Value>("HELLO", &words).await.map_err(without_words)?;
    if let Some(database) = config.database {
        commands.send::<Value>("SELECT", &[database.to_string().into()]).await?;
    }
    Ok(())
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
    Error::new(ErrorKind::Timeout, format!("it took too long until the server {what}"))
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
