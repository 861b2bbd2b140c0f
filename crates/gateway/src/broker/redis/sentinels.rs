//! Who is the master? Every sentinel is asked, because each learns of a failover in its own time, and the one with the
//! highest configuration epoch is believed.
//!
//! A sentinel raises the epoch at the moment it has promoted a replica, while the old master still takes writes that
//! will be thrown away: seconds, in a planned failover. So the first that knows decides, and those that don't know yet
//! do not lead back.

use std::{collections::HashMap, time::Duration};

use fred::{
    error::{Error, ErrorKind},
    types::{Value, config::Server},
};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    dial::dial_sentinel,
    fault::{self, Effect},
    multiplexed::Connection,
    shard::Context,
};
use crate::broker::BrokerError;

/// How long one sentinel may take.
const PATIENCE: Duration = Duration::from_millis(400);
/// Looks in a row in which all sentinels agree on an older epoch than known, after which they are believed: they were
/// set up anew.
const DISSENT: u32 = 10;

/// A configuration epoch, and the master of then.
type Word = (u64, Server);

#[derive(Debug)]
pub(super) struct Sentinels {
    name: String,
    hosts: Vec<(Server, Option<Connection>)>,
    believed: Option<Word>,
    dissent: u32,
}

impl Sentinels {
    pub(super) fn new(hosts: &[Server], name: &str) -> Self {
        let hosts = hosts.iter().map(|server| (server.clone(), None)).collect();
        Self { name: name.to_owned(), hosts, believed: None, dissent: 0 }
    }

    /// The master.
    pub(super) async fn look(&mut self, context: &Context) -> Result<Server, BrokerError> {
        let name = &self.name;
        let answers = join_all(self.hosts.iter_mut().map(|(server, link)| async move {
            let answer = timeout(PATIENCE, hear(context, server, link, name)).await;
            let answer =
                answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "a sentinel is silent")));
            if answer.is_err() {
                *link = None;
            }
            answer
        }))
        .await;
        let mut words = Vec::new();
        let mut failed = None;
        for answer in answers {
            match answer {
                Ok(word) => words.push(word),
                Err(error) => failed = Some(error),
            }
        }
        self.hear_all(&words);
        match (&self.believed, failed) {
            (Some((_, master)), _) => Ok(master.clone()),
            (None, Some(error)) => Err(fault::map(&error, Effect::Harmless)),
            (None, None) => Err(BrokerError::refused("no sentinel knows the master")),
        }
    }

    fn hear_all(&mut self, words: &[Word]) {
        let Some(newest) = words.iter().max_by_key(|(epoch, _)| *epoch).cloned() else { return };
        let Some((epoch, master)) = &self.believed else {
            self.believed = Some(newest);
            return;
        };
        let all_agree = words.iter().all(|(_, named)| *named == newest.1);
        if newest.0 > *epoch || newest.1 == *master {
            self.dissent = 0;
            if newest.0 >= *epoch {
                self.believed = Some(newest);
            }
        } else if all_agree {
            self.dissent += 1;
            if self.dissent >= DISSENT {
                self.dissent = 0;
                self.believed = Some(newest);
            }
        }
    }
}

/// The epoch first: a change in between then shows the old epoch with the new master, which the next look mends, and
/// never the other way round.
async fn hear(
    context: &Context,
    server: &Server,
    link: &mut Option<Connection>,
    name: &str,
) -> Result<Word, Error> {
    let commands = match link {
        Some(link) => link.commands(),
        None => link.insert(dial_sentinel(context, server).await?).commands(),
    };
    let words: HashMap<String, Value> = commands.send("SENTINEL", &["MASTER".into(), name.into()]).await?;
    let epoch = words.get("config-epoch").and_then(Value::as_u64);
    let nonsense = || Error::new(ErrorKind::Sentinel, "a sentinel answers nonsense");
    let epoch = epoch.ok_or_else(nonsense)?;
    let words = ["GET-MASTER-ADDR-BY-NAME".into(), name.into()];
    match commands.send::<Value>("SENTINEL", &words).await?.convert::<(String, u16)>() {
        Ok((host, port)) => Ok((epoch, Server::new(host, port))),
        Err(_) => Err(nonsense()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> Server {
        Server::new("127.0.0.1", port)
    }

    /// Sentinels that have spoken like this, look by look; the master believed after each.
    fn believed(looks: &[&[(u64, u16)]]) -> Vec<u16> {
        let mut sentinels = Sentinels::new(&[], "main");
        looks
            .iter()
            .map(|words| {
                let words: Vec<_> = words.iter().map(|&(epoch, port)| (epoch, server(port))).collect();
                sentinels.hear_all(&words);
                sentinels.believed.as_ref().map_or(0, |(_, master)| master.port)
            })
            .collect()
    }

    #[test]
    fn the_first_that_knows_decides_and_the_others_do_not_lead_back() {
        let looks: &[&[(u64, u16)]] = &[
            &[(1, 7), (1, 7), (1, 7)],
            &[(1, 7), (2, 8), (1, 7)],
            &[(1, 7), (1, 7)],
            &[(2, 8), (2, 8)],
            &[],
        ];
        assert_eq!(believed(looks), [7, 8, 8, 8, 8]);
    }

    #[test]
    fn an_old_epoch_with_a_new_master_waits_for_the_next_look() {
        assert_eq!(believed(&[&[(1, 7)], &[(1, 8), (1, 7)], &[(2, 8), (1, 7)]]), [7, 7, 8]);
    }

    #[test]
    fn sentinels_that_were_set_up_anew_are_believed_after_a_while() {
        let (before, after): (&[_], &[_]) = (&[(5, 7)], &[(0, 8), (0, 8)]);
        let mut looks = vec![before];
        looks.extend([after; 10]);
        let masters = believed(&looks);
        assert_eq!((masters[9], masters[10]), (7, 8));
    }
}
