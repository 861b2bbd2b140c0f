//! Reads what arrives on the subscription connection. It never waits for anyone and never panics: what can't be read
//! or handed on is counted and dropped, and the loss is marked in the feed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fred::types::{Message, config::Server};
use roomcast_counter::PublishMode;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{
    SharedFeed, health::HealthCell, keys::Keys, nodes::Nodes, routes::Routes, shard::Shard,
    witness::Witnesses,
};
use crate::broker::{
    Control, Delivery, Feed,
    feed::Dropped,
    payload::{self, MAX_PAYLOAD},
};

/// Two numbers of 64 bits and the dash between them.
const MAX_ORDER_ID: usize = 41;
/// At most one warning about malformed payloads in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Reader {
    /// The server at the other end.
    pub(super) server: Server,
    pub(super) keys: Keys,
    pub(super) control: String,
    pub(super) own: String,
    pub(super) feed: SharedFeed,
    pub(super) health: Arc<HealthCell>,
    pub(super) shard: Arc<Shard>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) routes: Arc<Routes>,
    pub(super) mode: PublishMode,
    pub(super) witnesses: Arc<Witnesses>,
    pub(super) warned: Option<Instant>,
}

impl Reader {
    pub(super) async fn run(mut self, mut messages: broadcast::Receiver<Message>, cancel: CancellationToken) {
        while let Some(message) = cancel.run_until_cancelled(messages.recv()).await {
            match message {
                Ok(message) => self.take(&message),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    Dropped::ClientLagged.count(lost);
                    tracing::warn!(lost, "the reader fell behind the subscription connection");
                    self.feed.lock().interrupt(self.routes.scope(self.mode, &self.shard));
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn take(&mut self, message: &Message) {
        let channel: &str = &message.channel;
        let Some(payload) = message.value.as_bytes() else {
            return self.malformed(channel, "it is no text");
        };
        if channel == self.own {
            let number = std::str::from_utf8(payload).ok();
            let sent = payload::number(number)
                .ok()
                .and_then(|number| self.shard.probe.heard(number, Instant::now()));
            if let Some(sent) = sent {
                self.health.heard(&self.server, sent);
            }
        } else if channel == self.control {
            match parse_control(payload) {
                Some(News::Nodes) => self.nodes.look_again(),
                Some(News::Order(id, control)) => self.nodes.take_order(id, control),
                None => self.malformed(channel, "it is no control"),
            }
        } else if let Some(room) = self.keys.room(channel) {
            match payload::parse(payload) {
                Ok(delivery) => {
                    match &delivery {
                        Delivery::Event(epoch, event) => {
                            self.witnesses.note(&room, epoch, event.offset, event.at, Instant::now());
                        }
                        Delivery::Count(value) => self.witnesses.note_count(&room, value, Instant::now()),
                        Delivery::Signal { .. } | Delivery::Presence(_) | Delivery::Ended(..) => {}
                    }
                    self.feed.lock().push(Feed::Delivery(room, delivery));
                }
                Err(error) => self.malformed(channel, &error.to_string()),
            }
        }
    }

    fn malformed(&mut self, channel: &str, why: &str) {
        Dropped::Malformed.count(1);
        let now = Instant::now();
        if self.warned.is_none_or(|warned| now - warned >= WARN_INTERVAL) {
            self.warned = Some(now);
            tracing::warn!(channel, why, "dropped a payload that roomcast did not write");
        }
    }
}

#[derive(Debug, PartialEq)]
enum News<'a> {
    Nodes,
    Order(&'a str, Control),
}

/// The body of an order.
pub(super) fn order_body(control: &Control) -> Result<String, serde_json::Error> {
    serde_json::to_string(control)
}

/// The order of a body.
pub(super) fn parse_order(body: &str) -> Option<Control> {
    match serde_json::from_str(body).ok()? {
        // Each node finds this out for itself.
        Control::NodesChanged => None,
        control @ (Control::Disconnect { .. }
        | Control::Drain { .. }
        | Control::Shed { .. }
        | Control::Restrictions) => Some(control),
    }
}

fn parse_control(payload: &[u8]) -> Option<News<'_>> {
    let text = std::str::from_utf8(payload).ok().filter(|text| text.len() <= MAX_PAYLOAD)?;
    let (header, body) = text.split_once('\n')?;
    if header == "N" {
        return Some(News::Nodes);
    }
    let id = header.strip_prefix("O ").filter(|id| id.len() <= MAX_ORDER_ID)?;
    Some(News::Order(id, parse_order(body)?))
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroUsize, sync::Mutex};

    use fred::types::MessageKind;
    use proptest::prelude::*;
    use roomcast_protocol::{PresenceCount, RoomName};

    use super::*;
    use crate::{
        broker::{
            Scope, feed,
            redis::{commands::Commands, scripts::Scripts},
        },
        config::{Redis, Secret},
    };

    /// A reader whose clients are connected to nothing.
    fn reader(feed: SharedFeed) -> Reader {
        let keys = Keys::new("rc");
        let settings = Redis {
            url: Secret::new("redis://127.0.0.1"),
            ca_file: None,
            prefix: "rc".to_owned(),
            ready_grace: Duration::ZERO,
            connect_attempts: 1,
            command_timeout: Duration::from_secs(1),
            max_in_flight: NonZeroUsize::MIN,
            changes: 0,
        };
        let routes = Arc::new(Routes::new());
        let commands = Commands::new(routes.clone(), PublishMode::Plain, &settings);
        let scripts = Arc::new(Scripts::new(PublishMode::Plain, &roomcast_counter::ChangeTarget::Off));
        let nodes = Nodes::new("a", Duration::ZERO, keys.clone(), commands, scripts, feed.clone());
        let keys_probe = keys.probe("a");
        Reader {
            server: Server::new("127.0.0.1", 1),
            control: keys.control(),
            own: keys_probe.clone(),
            keys,
            feed,
            health: Arc::new(HealthCell::new()),
            shard: Shard::new(Server::new("127.0.0.1", 1), keys_probe, CancellationToken::new()).0,
            nodes: Arc::new(nodes),
            routes,
            mode: PublishMode::Plain,
            witnesses: Arc::new(Witnesses::new(Instant::now())),
            warned: None,
        }
    }

    #[tokio::test]
    async fn falling_behind_the_client_is_an_interruption_and_not_the_end() {
        let (sender, mut feed) = feed::channel(100);
        let reader = reader(SharedFeed(Arc::new(Mutex::new(sender))));
        let (client, messages) = broadcast::channel(4);
        for users in 0..10 {
            client
                .send(Message {
                    channel: "rc:{event:wall}:ch".into(),
                    value: format!("P\n{{\"connections\":{users},\"users\":{users}}}").into(),
                    kind: MessageKind::Message,
                    server: Server::new("127.0.0.1", 1),
                })
                .unwrap();
        }
        drop(client);
        reader.run(messages, CancellationToken::new()).await;
        assert!(matches!(feed.try_recv(), Ok(Feed::Interrupted(Scope::All))));
        for users in 6..10 {
            let Ok(Feed::Delivery(room, Delivery::Presence(count))) = feed.try_recv() else { panic!("none") };
            assert_eq!(room, RoomName::parse("event:wall").unwrap());
            assert_eq!(count, PresenceCount { connections: users, users });
        }
    }

    #[test]
    fn an_order_comes_back_as_it_went() {
        let control = Control::Disconnect {
            user: Some("eve\n".into()),
            session: None,
            ip: Some([127, 0, 0, 1].into()),
        };
        let payload = format!("O 12-3\n{}", order_body(&control).unwrap());
        assert_eq!(parse_control(payload.as_bytes()), Some(News::Order("12-3", control)));
        let made_here = format!("O 12-3\n{}", order_body(&Control::NodesChanged).unwrap());
        assert_eq!(parse_control(made_here.as_bytes()), None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _refused_or_not = parse_control(&bytes);
        }
    }
}
