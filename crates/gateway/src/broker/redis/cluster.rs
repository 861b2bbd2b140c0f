//! Who owns the slots? Every server that is connected is asked, or else whoever can be reached, and each slot belongs
//! to the claim with the highest configuration epoch, as among the servers themselves: a master that was cut off still
//! names itself, and who has not heard of a failover yet does not lead back.

use std::time::Duration;

use fred::{
    error::{Error, ErrorKind},
    types::config::Server,
};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::{
    dial::dial,
    fault::{self, Effect},
    lookout::Layout,
    multiplexed::Multiplexed,
    routes::LAST_SLOT,
    shard::Context,
};
use crate::broker::BrokerError;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_millis(400);
/// Looks in a row that contradict what is believed, after which they are: the cluster was set up anew.
const DISSENT: u32 = 10;

/// Slots in a row, whose they are said to be, and since which configuration epoch.
type Claim = (u64, u16, u16, Server);

/// What is believed of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<Server>,
    owners: Vec<Option<(u64, Server)>>,
    dissent: u32,
}

impl Cluster {
    pub(super) fn new(seeds: &[Server]) -> Self {
        Self { seeds: seeds.to_vec(), owners: nobody(), dissent: 0 }
    }

    pub(super) async fn look(&mut self, context: &Context) -> Result<Layout, BrokerError> {
        let shards = context.routes.shards();
        let connected: Vec<_> =
            shards.iter().filter_map(|shard| Some((shard.server.clone(), shard.commands()?))).collect();
        let asked = connected.iter().map(|(server, commands)| hear(context, server, commands));
        let mut claims: Vec<Claim> = join_all(asked).await.into_iter().flatten().flatten().collect();
        let mut failed = Error::new(ErrorKind::Cluster, "no server knows who owns the slots");
        if claims.is_empty() {
            let known = shards.iter().map(|shard| &shard.server);
            for server in self.seeds.iter().chain(known) {
                let reached = timeout(PATIENCE, dial(context, server)).await;
                let heard = match reached {
                    Ok(Ok(connection)) => hear(context, server, connection.commands()).await,
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(Error::new(ErrorKind::Timeout, "a server is silent")),
                };
                match heard {
                    Ok(heard) if !heard.is_empty() => {
                        claims = heard;
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => failed = error,
                }
            }
        }
        if claims.is_empty() {
            return Err(fault::map(&failed, Effect::Harmless));
        }
        self.believe(&claims);
        Ok(self.layout())
    }

    fn believe(&mut self, claims: &[Claim]) {
        let mut said = nobody();
        for (epoch, first, last, server) in claims {
            for owner in &mut said[usize::from(*first)..=usize::from(*last)] {
                if owner.as_ref().is_none_or(|(known, _)| known < epoch) {
                    *owner = Some((*epoch, server.clone()));
                }
            }
        }
        let mut contradicted = false;
        for (known, said) in self.owners.iter_mut().zip(&said) {
            match (&mut *known, said) {
                (_, None) => {}
                (Some(known), Some(said)) if said.0 < known.0 => contradicted |= said.1 != known.1,
                (known, Some(said)) => *known = Some(said.clone()),
            }
        }
        self.dissent = if contradicted { self.dissent + 1 } else { 0 };
        if self.dissent >= DISSENT {
            self.dissent = 0;
            self.owners = said;
        }
    }

    fn layout(&self) -> Layout {
        let mut layout = Layout::new();
        for (slot, owner) in (0..=LAST_SLOT).zip(&self.owners) {
            let Some((_, server)) = owner else { continue };
            match layout.last_mut() {
                Some((last_server, _, last)) if last_server == server && *last + 1 == slot => *last = slot,
                _ => layout.push((server.clone(), slot, slot)),
            }
        }
        layout
    }
}

fn nobody() -> Vec<Option<(u64, Server)>> {
    vec![None; usize::from(LAST_SLOT) + 1]
}

async fn hear(context: &Context, server: &Server, commands: &Multiplexed) -> Result<Vec<Claim>, Error> {
    let text: String = timeout(PATIENCE, commands.send("CLUSTER", &["NODES".into()]))
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "a server is silent")))?;
    Ok(claims(server, context.plan.is_encrypted(), &text))
}

/// Reads CLUSTER NODES: `id ip:port@bus[,hostname] flags master ping pong epoch link slots…`. An address that is missing
/// is the one that was asked; the host's name is used with TLS, for its certificate.
fn claims(asked: &Server, by_name: bool, text: &str) -> Vec<Claim> {
    let mut claims = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [_, address, flags, _, _, _, epoch, _, slots @ ..] = &words[..] else { continue };
        if !flags.split(',').any(|flag| flag == "master") {
            continue;
        }
        let (address, name) = address.split_once(',').unwrap_or((address, ""));
        let Some((host, port)) = address.split('@').next().and_then(|address| address.rsplit_once(':'))
        else {
            continue;
        };
        let (Ok(port), Ok(epoch)) = (port.parse(), epoch.parse()) else { continue };
        let name = name.split(',').next().filter(|name| by_name && !name.is_empty());
        let host = name.unwrap_or(if host.is_empty() { &asked.host } else { host });
        for range in slots {
            // `[…]` is a slot on its way elsewhere: the server redirects.
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            if let (Ok(first), Ok(last)) = (first.parse(), last.parse())
                && first <= last
                && last <= LAST_SLOT
            {
                claims.push((epoch, first, last, Server::new(host, port)));
            }
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> Server {
        Server::new("127.0.0.1", port)
    }

    #[test]
    fn the_answer_of_cluster_nodes_is_read() {
        let text = "a1 127.0.0.1:7001@17001 master - 0 1 2 connected 5461-10922\n\
                    a2 :7000@17000,seven.example myself,master - 0 0 1 connected 0-5460 10923 [93->-a1]\n\
                    a3 127.0.0.1:7002@17002 slave a1 0 1 2 connected\n\
                    a4 127.0.0.1:7003@17003 master,fail - 0 1 3 disconnected 10924-16383 99-20000 x-y\n\
                    nonsense\n";
        let asked = Server::new("10.0.0.9", 7000);
        let expected = |host: &str| {
            vec![
                (2, 5_461, 10_922, server(7001)),
                (1, 0, 5_460, Server::new(host, 7000)),
                (1, 10_923, 10_923, Server::new(host, 7000)),
                (3, 10_924, 16_383, server(7003)),
            ]
        };
        assert_eq!(claims(&asked, false, text), expected("10.0.0.9"));
        assert_eq!(claims(&asked, true, text), expected("seven.example"));
    }

    #[test]
    fn the_highest_epoch_decides_and_late_answers_do_not_lead_back() {
        let mut cluster = Cluster::new(&[]);
        let old = [(1, 0, 100, server(1)), (2, 101, LAST_SLOT, server(2))];
        cluster.believe(&old);
        assert_eq!(cluster.layout(), [(server(1), 0, 100), (server(2), 101, LAST_SLOT)]);
        cluster.believe(&[old[0].clone(), (5, 0, 100, server(3)), old[1].clone()]);
        let after = [(server(3), 0, 100), (server(2), 101, LAST_SLOT)];
        assert_eq!(cluster.layout(), after);
        cluster.believe(&old);
        assert_eq!(cluster.layout(), after);
    }

    #[test]
    fn a_cluster_that_was_set_up_anew_is_believed_after_a_while() {
        let mut cluster = Cluster::new(&[]);
        cluster.believe(&[(9, 0, LAST_SLOT, server(1))]);
        for look in 1..=DISSENT {
            cluster.believe(&[(1, 0, LAST_SLOT, server(2))]);
            let owner = if look < DISSENT { 1 } else { 2 };
            assert_eq!(cluster.layout(), [(server(owner), 0, LAST_SLOT)], "look {look}");
        }
    }
}
