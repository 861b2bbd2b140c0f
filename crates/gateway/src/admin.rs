//! What only admins ask, from a dashboard over the hub's own protocol: figures of the cluster, comments that wait, the
//! audit log; and to drain, to shed, to disconnect. Whether somebody may has been decided in `core`, at each use.
//!
//! Orders to another node go over the control channel. Each node obeys those that name it, one after the other.

pub mod audit;
pub(crate) mod queue;

use std::{
    net::IpAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use roomcast_protocol::{
    ClusterStats, Data, Disconnect, ErrorCode, Failure, Ok as Answer, Op, RoomName, Shed,
};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use self::audit::{Act, Deed};
use crate::{
    backend::{NODES, Repeat},
    broker::{Control, Want},
    cluster,
    moves::{self, Wanted},
    node::{Node, unix_ms},
};

/// Longer than the name of any node, user or session.
const MAX_NAME: usize = 256;

/// The room in which admins are told.
static ROOM: LazyLock<Option<RoomName>> = LazyLock::new(|| RoomName::parse("admin").ok());

/// What admins have asked of this node, and whether it sums up for all.
#[derive(Debug)]
pub struct Admin {
    leads: AtomicBool,
    orders: mpsc::UnboundedSender<Control>,
    told: queue::Told,
}

impl Admin {
    /// Orders go there, to [`obey`].
    pub fn new(orders: mpsc::UnboundedSender<Control>) -> Self {
        Self { leads: AtomicBool::new(false), orders, told: queue::Told::default() }
    }

    /// Whether this node sums up for all.
    pub fn leads(&self) -> bool {
        self.leads.load(Relaxed)
    }

    /// From now on it does, or no longer.
    pub fn lead(&self, leads: bool) {
        self.leads.store(leads, Relaxed);
    }

    /// An order for one of the nodes has come.
    pub fn take(&self, order: &Control) {
        // Without a receiver the node is stopping.
        let _stopping = self.orders.send(order.clone());
    }
}

/// Carries out what was ordered of this node.
pub async fn obey(node: Arc<Node>, mut orders: mpsc::UnboundedReceiver<Control>) {
    while let Some(order) = orders.recv().await {
        match order {
            Control::Drain { node: name, by } if name == node.config.node => {
                moves::drain(&node, &by).await;
            }
            Control::Shed { node: name, share, count, spread_ms, by } if name == node.config.node => {
                if let Err(refused) = moves::shed(&node, Wanted { share, count, spread_ms }, &by).await {
                    let why = format!("refused: {}", refused.message);
                    audit::record(&node, Deed::new(&by, Act::Shed).on(&name).detail(&why)).await;
                }
            }
            Control::Drain { .. }
            | Control::Shed { .. }
            | Control::Disconnect { .. }
            | Control::Restrictions
            | Control::NodesChanged => {}
        }
    }
}

/// Carries out an operation that only admins may ask for.
pub(crate) async fn operate(node: &Node, by: &str, op: Op) -> Result<Answer, Failure> {
    match op {
        Op::Stats(_) => stats(node).await,
        Op::Queue(op) => queue::read(node, op).await,
        Op::Audit(op) => audit::read(node, op.before, op.limit).await,
        Op::Drain(op) => {
            let control = Control::Drain { node: op.node.clone(), by: by.to_owned() };
            order(node, &op.node, control).await?;
            Ok(Answer::Empty {})
        }
        Op::Shed(Shed { node: name, share, count, spread_ms }) => {
            Wanted { share, count, spread_ms }.check()?;
            let control = Control::Shed { node: name.clone(), share, count, spread_ms, by: by.to_owned() };
            order(node, &name, control).await?;
            Ok(Answer::Empty {})
        }
        Op::Disconnect(Disconnect { user, session, ip }) => {
            let bad = |_| Failure::new(ErrorCode::BadFrame, "disconnect: ip is no address");
            let ip = ip.map(|ip| ip.parse::<IpAddr>().map_err(bad)).transpose()?;
            disconnect(node, by, user, session, ip).await?;
            Ok(Answer::Empty {})
        }
        op => Err(Failure::new(ErrorCode::UnknownOp, format!("{} is not offered", op.kind().as_str()))),
    }
}

/// Every live node's own report, read in one step, and what they add up to.
pub(crate) async fn cluster_picture(node: &Node) -> Result<Map<String, Value>, Failure> {
    let own = node.full_report();
    let asked = node.backend.broker.figures(&own, Want::All);
    let reports = node.backend.at(NODES).call(Repeat::Harmless, asked).await?;
    Ok(cluster::picture(unix_ms(), reports))
}

/// The same; where the others can't be asked, this node alone: the one moment in which a dashboard is needed most.
async fn stats(node: &Node) -> Result<Answer, Failure> {
    let (mut picture, partial) = match cluster_picture(node).await {
        Ok(picture) => (picture, false),
        Err(_) => (cluster::picture(unix_ms(), vec![node.full_report()]), true),
    };
    let mut part = |name: &str| {
        let value = picture.remove(name).unwrap_or_default();
        Data::of(&value).map_err(|_| Failure::new(ErrorCode::Internal, "internal error"))
    };
    let (total, nodes, rooms) = (part("total")?, part("nodes")?, part("rooms")?);
    let at = picture.get("at").and_then(Value::as_u64).unwrap_or_default();
    Ok(Answer::Stats(Box::new(ClusterStats { at, total, nodes, rooms, partial })))
}

/// Tells a node by way of all, if it lives.
pub(crate) async fn order(node: &Node, name: &str, order: Control) -> Result<(), Failure> {
    let own = node.full_report();
    let asked = node.backend.broker.figures(&own, Want::All);
    let live = node.backend.at(NODES).call(Repeat::Harmless, asked).await?;
    // A node that has just started is known by its lease, and told nothing of itself yet.
    let is_it = |told: &Value| told.get("node").and_then(Value::as_str) == Some(name);
    if name.len() > MAX_NAME || !live.iter().any(|live| is_it(&live.stats)) {
        return Err(Failure::new(ErrorCode::NotFound, "no such node lives"));
    }
    node.backend.at(NODES).call(Repeat::Harmless, node.backend.broker.control(&order)).await
}

/// Every node closes what matches with 4503; the answer comes when all have been told.
pub(crate) async fn disconnect(
    node: &Node,
    by: &str,
    user: Option<String>,
    session: Option<String>,
    ip: Option<IpAddr>,
) -> Result<(), Failure> {
    let ip = ip.map(|ip| ip.to_canonical());
    let named =
        [("user", user.clone()), ("session", session.clone()), ("address", ip.map(|ip| ip.to_string()))];
    let named: Vec<String> =
        named.into_iter().filter_map(|(what, whom)| Some(format!("{what} {}", whom?))).collect();
    if named.is_empty() {
        return Err(Failure::new(ErrorCode::BadFrame, "name a user, a session or an ip"));
    }
    if user.as_ref().or(session.as_ref()).is_some_and(|name| name.len() > MAX_NAME) {
        return Err(Failure::new(ErrorCode::BadFrame, "no user or session is called like that"));
    }
    let control = Control::Disconnect { user, session, ip };
    node.backend.at(NODES).call(Repeat::Harmless, node.backend.broker.control(&control)).await?;
    audit::record(node, Deed::new(by, Act::Disconnect).on(&named.join(", "))).await;
    Ok(())
}

/// Tells whoever is in the room `admin`. Fleeting: who needs more than this moment asks.
pub(crate) async fn tell(node: &Node, event: &str, what: &impl Serialize) {
    let (Some(room), Ok(data)) = (&*ROOM, Data::of(what)) else { return };
    if let Err(error) = node.backend.broker.signal(room, event, &data, None).await {
        tracing::debug!(%error, "the dashboard could not be told");
    }
}
