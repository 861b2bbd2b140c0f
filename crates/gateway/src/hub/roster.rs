//! The connections of one worker, in no order: a row, and each knows its place in it. So each costs a pointer here, and
//! neither a key nor a hash.

use std::rc::Rc;

use crate::conn::Conn;

/// Below this many, memory is not given back: it would be asked for again.
const SHRINK_FLOOR: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Roster(Vec<Rc<Conn>>);

impl Roster {
    /// Adds a connection that is in no roster.
    pub(super) fn add(&mut self, conn: &Rc<Conn>) {
        conn.listed_at.set(Some(self.0.len()));
        self.0.push(conn.clone());
    }

    /// Takes a connection out, if it is in.
    pub(super) fn remove(&mut self, conn: &Conn) {
        let Some(at) = conn.listed_at.take() else { return };
        self.0.swap_remove(at);
        if let Some(moved) = self.0.get(at) {
            moved.listed_at.set(Some(at));
        }
        if self.0.capacity() > SHRINK_FLOOR && self.0.len() * 4 < self.0.capacity() {
            self.0.shrink_to(self.0.len() * 2);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Conn>> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use roomcast_protocol::Codec;

    use super::*;
    use crate::{conn::fixture::pair, outbox::OutboxCaps};

    fn ids(roster: &Roster) -> Vec<String> {
        let mut ids: Vec<_> = roster.iter().map(|conn| conn.id.to_string()).collect();
        ids.sort();
        ids
    }

    #[tokio::test]
    async fn whoever_goes_the_others_stay_and_memory_goes_back() {
        let caps = OutboxCaps { bytes: 1_024, frames: 8 };
        let mut roster = Roster::default();
        let mut conns = Vec::new();
        for _ in 0..100 {
            let (conn, _far) = pair(caps, Codec::json()).await;
            roster.add(&conn);
            conns.push(conn);
        }
        while !conns.is_empty() {
            // From the middle, the front and the end by turns.
            let gone = conns.swap_remove(conns.len() * (conns.len() % 3) / 3);
            roster.remove(&gone);
            roster.remove(&gone);
            let mut stay: Vec<_> = conns.iter().map(|conn| conn.id.to_string()).collect();
            stay.sort();
            assert_eq!(ids(&roster), stay);
        }
        assert!(roster.0.capacity() <= SHRINK_FLOOR, "{}", roster.0.capacity());
    }
}
