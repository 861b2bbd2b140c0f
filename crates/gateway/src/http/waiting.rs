//! Sockets of one worker that are not WebSockets yet, per peer: caps per address begin with the upgrade, and until then
//! one peer must not take every place.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

/// Sockets of one peer that are not upgraded, on one worker. A browser opens six for a page.
const MAX_PER_PEER: u32 = 128;

/// How many of each peer wait.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Rc<RefCell<HashMap<IpAddr, u32>>>);

/// One socket's place; given back by `Drop`.
#[derive(Debug)]
pub struct Place(Waiting, IpAddr);

impl Waiting {
    /// A place for one more socket of this peer, unless it has as many as it may.
    pub fn enter(&self, peer: IpAddr) -> Option<Place> {
        let mut waiting = self.0.borrow_mut();
        let count = waiting.entry(peer).or_default();
        if *count >= MAX_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), peer))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.0.0.borrow_mut();
        if let Some(count) = waiting.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_takes_its_places_and_no_more_and_leaves_no_trace() {
        let waiting = Waiting::default();
        let (greedy, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let places: Vec<_> = (0..MAX_PER_PEER).map(|_| waiting.enter(greedy).unwrap()).collect();
        assert!(waiting.enter(greedy).is_none());
        assert!(waiting.enter(other).is_some());
        drop(places);
        assert!(waiting.0.borrow().is_empty());
    }
}
