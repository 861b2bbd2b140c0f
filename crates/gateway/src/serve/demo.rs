//! What the demo wall needs on the hub's side, in development only: something to sell. It uses what back ends use, so
//! nodes that share a Redis may all do it: what stands already stays as it is.

use std::time::Duration;

use roomcast_counter::Op;
use roomcast_protocol::{ErrorCode, Failure, RoomName};
use serde_json::json;

use crate::{backend::Repeat, config::defaults::DEMO_NAMESPACE, node::Node, session::tasks};

/// The wall's own room, which its page opens unless told otherwise.
const ROOM: &str = "summer-night";
const ITEM: &str = "print-a3";
const STOCK: u64 = 10;
const PER_USER: u64 = 2;
/// Long enough to decide, short enough to see one come back.
const HOLD: Duration = Duration::from_secs(60);
/// Who sells, as far as the store is told.
const SELLER: &str = "demo";

/// Offers ten prints in the wall's room, and says what they are in its document `sale`.
pub(super) async fn open_sale(node: &Node) {
    let Ok(room) = RoomName::parse(&format!("{DEMO_NAMESPACE}:{ROOM}")) else { return };
    let words = json!({
        "item": ITEM, "title": "Signed A3 print", "price": "€ 15",
        "stock": STOCK, "per_user": PER_USER, "hold_s": HOLD.as_secs(),
    });
    let ops = [
        Op::Stock { item: ITEM.to_owned(), stock: STOCK, per_user: PER_USER, hold: HOLD },
        Op::Put { doc: "sale".to_owned(), value: words.to_string(), version: 0 },
    ];
    for op in ops {
        match sell(node, &room, op).await {
            // Another node was here before, or a host has offered more since.
            Ok(()) | Err(Failure { code: ErrorCode::Conflict, .. }) => {}
            Err(failure) => {
                tracing::warn!(%room, error = %failure.message, "the demo wall has nothing to sell");
            }
        }
    }
}

async fn sell(node: &Node, room: &RoomName, op: Op) -> Result<(), Failure> {
    let Some(rules) = node.terms.namespaces.rules(room).filter(|rules| rules.stock) else {
        return Ok(());
    };
    tasks::apply(node, room, rules, SELLER, op, Repeat::Harmless).await.map(drop)
}
