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
    let opening = TcpStream::connect((&*server.host, server.port));
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
    let name = server.tls_server_name.as_ref().unwrap_or(&server.host);
    let name = ServerName::try_from(name.to_string())
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
    commands.send::<Value>("HELLO", &words).await?;
    if let Some(database) = config.database {
        commands.send::<Value>("SELECT", &[database.to_string().into()]).await?;
    }
    Ok(())
}

fn late(what: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("it took too long until the server {what}"))
}
