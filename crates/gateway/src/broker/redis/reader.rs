//! Reads the messages that arrive on the subscription connection. It never waits for anyone and never panics: what can't
//! be read or handed on is counted and dropped, and the loss is marked in the feed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fred::types::config::Server;

use super::{
    SharedFeed, health::HealthCell, hearing::Ear, keys::Keys, nodes::Nodes, shard::Shard,
    subscriptions::Request, witness::Witnesses,
};
use crate::{
    broker::{
        Control, Delivery, Feed,
        feed::Dropped,
        payload::{self, MAX_PAYLOAD},
    },
    rarely::Rarely,
};

/// Two numbers of 64 bits and the dash between them.
const MAX_ORDER_ID: usize = 41;
/// At most one warning about malformed payloads in this time.
pub(super) const WARN_INTERVAL: Duration = Duration::from_secs(1);

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
    pub(super) witnesses: Arc<Witnesses>,
    pub(super) warned: Rarely,
}

impl Ear for Reader {
    fn message(&mut self, channel: &[u8], payload: &[u8]) {
        let Ok(channel) = std::str::from_utf8(channel) else {
            return self.malformed(&channel.escape_ascii().to_string(), "its channel is no text");
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

    fn ended(&mut self, channel: &str) {
        if self.shard.requests.try_send(Request::Ended(channel.to_owned())).is_err() {
            // Too much is asked already: the next connection has all of it anew.
            self.shard.give_up_subscriptions();
        }
    }
}

impl Reader {
    fn malformed(&mut self, channel: &str, why: &str) {
        Dropped::Malformed.count(1);
        if self.warned.is_due(Instant::now()) {
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
    use proptest::prelude::*;

    use super::*;

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
