//! Who may hold one more connection: by the node's own permits first, and then, by one question to the broker, over
//! all nodes. Where the broker does not answer at once, the node's own cap alone decides: a lost Redis shuts nobody
//! out.

use std::{sync::Arc, time::Duration};

use roomcast_core::{
    breaker::BreakerState,
    limits::Cap,
    permission::{Identity, Role},
    permits::IpPermit,
};
use tokio::time::timeout;

use crate::{
    broker::{Broker, Claim},
    metrics::{self, Claimed},
    node::Node,
};

/// How long the broker may take: a healthy one needs a millisecond or two, and a person who connects feels more.
const CLAIM_TIMEOUT: Duration = Duration::from_millis(100);

/// One connection counted under an address or a user; no longer so once dropped.
#[derive(Debug)]
pub struct Place {
    broker: Broker,
    key: Arc<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.broker.release_address(&self.key);
    }
}

/// The cap is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What a connection holds from its upgrade to its end.
#[derive(Debug)]
#[must_use = "dropping it gives the places back"]
pub struct Admission {
    _permit: IpPermit,
    _place: Option<Place>,
}

/// Asks for a place of a permitted address over all nodes.
pub async fn of_address(node: &Node, permit: IpPermit) -> Result<Admission, Full> {
    let place = match permit.cap().get() {
        Some(cap) => Some(claim(node, &format!("ip/{}", permit.group()), cap).await?),
        None => None,
    };
    Ok(Admission { _permit: permit, _place: place })
}

/// Asks for a place of a user over all nodes; none is needed without a cap, nor by a service.
pub async fn of_user(node: &Node, who: &Identity) -> Result<Option<Place>, Full> {
    let cap: Cap = node.terms.limits.connections_per_user;
    match cap.get() {
        Some(cap) if who.role != Role::Service => {
            claim(node, &format!("user/{}", who.user), cap).await.map(Some)
        }
        _ => Ok(None),
    }
}

async fn claim(node: &Node, key: &str, cap: u64) -> Result<Place, Full> {
    let broker = &node.backend.broker;
    let place = Place { broker: broker.clone(), key: key.into() };
    let here = broker.hold_address(&place.key);
    if here > cap {
        return Err(Full);
    }
    // The breaker is asked how it is, but not told: a claim that came late says little of a Redis that is busy.
    // Its hash tag, as long as the key is plain; of an odd one another server's breaker may be asked, which does no harm.
    let tag = format!("@{key}");
    if !broker.health().usable || node.backend.state_at(&tag) != BreakerState::Closed {
        metrics::claimed(Claimed::Unasked);
        return Ok(place);
    }
    match timeout(CLAIM_TIMEOUT, broker.claim_address(&place.key, cap)).await {
        Ok(Ok(Claim::Admitted)) => {
            metrics::claimed(Claimed::Admitted);
            Ok(place)
        }
        Ok(Ok(Claim::Full)) => {
            metrics::claimed(Claimed::Full);
            Err(Full)
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "a claim failed: this node's own cap decides");
            metrics::claimed(Claimed::Unanswered);
            Ok(place)
        }
        Err(_late) => {
            metrics::claimed(Claimed::Unanswered);
            Ok(place)
        }
    }
}
