//! A room's pushes between two flushes: gathered once, encoded once per codec, written to every member.

use std::{cell::OnceCell, collections::HashMap, ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use roomcast_protocol::{Codec, PushClass, SharedPush};

use crate::{
    conn::Conn,
    metrics,
    outbox::{ConflationKey, Dropped, Item},
};

/// What gathers for the next flush.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pushes: Vec<Arc<SharedPush>>,
    latest: HashMap<ConflationKey, usize>,
    at: Option<u64>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.pushes.is_empty()
    }

    /// Adds a push; a conflated one takes the place of its older self.
    pub(super) fn append(&mut self, push: Arc<SharedPush>, at: Option<u64>) {
        self.at = self.at.or(at);
        if let Some(key) = ConflationKey::of(&push) {
            if let Some(&place) = self.latest.get(&key) {
                self.pushes[place] = push;
                metrics::dropped(Dropped { fleeting: 0, conflated: 1 });
                return;
            }
            self.latest.insert(key, self.pushes.len());
        }
        self.pushes.push(push);
    }

    pub(super) fn seal(self, seq: u64) -> Block {
        Block {
            seq,
            cursor: 0,
            at: self.at,
            pushes: self.pushes,
            json: OnceCell::new(),
            msgpack: OnceCell::new(),
        }
    }
}

/// What one flush writes.
#[derive(Debug)]
pub(super) struct Block {
    /// Rises by one per block of a room.
    pub(super) seq: u64,
    /// The slot of the next member to serve.
    pub(super) cursor: usize,
    /// When its oldest event was stored.
    pub(super) at: Option<u64>,
    pushes: Vec<Arc<SharedPush>>,
    json: OnceCell<Lines>,
    msgpack: OnceCell<Lines>,
}

impl Block {
    pub(super) fn json(&self) -> &Lines {
        self.json.get_or_init(|| Lines::encode(&self.pushes, Codec::json()))
    }

    pub(super) fn msgpack(&self) -> &Lines {
        self.msgpack.get_or_init(|| Lines::encode(&self.pushes, Codec::msgpack()))
    }
}

/// A block in one codec: all frames in a row, and where each begins and ends.
#[derive(Debug)]
pub(super) struct Lines {
    whole: Bytes,
    parts: Vec<(Item, Range<usize>)>,
    classes: [u64; PushClass::ALL.len()],
}

impl Lines {
    fn encode(pushes: &[Arc<SharedPush>], codec: Codec) -> Self {
        let frames: Vec<(Bytes, &Arc<SharedPush>)> =
            pushes.iter().filter_map(|push| Some((frame(push, codec)?, push))).collect();
        let whole = match &frames[..] {
            [(only, _)] => only.clone(),
            frames => {
                let mut whole = BytesMut::with_capacity(frames.iter().map(|(frame, _)| frame.len()).sum());
                for (frame, _) in frames {
                    whole.extend_from_slice(frame);
                }
                whole.freeze()
            }
        };
        let mut classes = [0; PushClass::ALL.len()];
        let mut start = 0;
        let parts = frames
            .iter()
            .map(|(frame, push)| {
                let range = start..start + frame.len();
                start = range.end;
                let class = push.push().class();
                classes[class as usize] += 1;
                // The frame's own bytes, not a slice of the block: what waits in an outbox pins no more than itself.
                (Item::push(frame.clone(), push), range)
            })
            .collect();
        Self { whole, parts, classes }
    }

    pub(super) fn send(&self, conn: &Conn) {
        conn.send_block(&self.whole, self.parts.iter().map(|(item, range)| (item, range.clone())));
        for (&class, &frames) in PushClass::ALL.iter().zip(&self.classes) {
            if frames > 0 {
                metrics::sent(class, frames, 0);
            }
        }
        metrics::sent(PushClass::MustDeliver, 0, self.whole.len());
    }
}

/// The frame of a push; one that can't be encoded is a fault of ours, told in the log.
pub(super) fn frame(push: &SharedPush, codec: Codec) -> Option<Bytes> {
    push.frame(codec).inspect_err(|error| tracing::error!(%error, "a push could not be encoded")).ok()
}
