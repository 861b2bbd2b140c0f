//! From the broker to the workers: every push is decoded once, shared by all workers, and every gap is healed here.
//!
//! The pump never blocks on a worker: a lane that is full makes a gap, and a gap is read back from history.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use roomcast_core::{
    continuity::{FeedAction, FeedRules, RoomFeed},
    counts::Counts,
    permission::{HistoryRules, Namespaces},
};
use roomcast_counter::{Counter, CounterError, Update};
use roomcast_protocol::{CounterValue, Epoch, Event, Offset, Position, Push, RoomName, SharedPush};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval, sleep, sleep_until},
};

use crate::{
    broker::{self, Broker, BrokerError, Control, Feed, Page, Range, Scope},
    drain::Shed,
    hub::{Delivery, Place},
    interest::Interest,
    lane::LaneSender,
    metrics,
    outbox::Dropped,
    presence::Presence,
    random::jitter,
};

/// Items of the feed taken in one go: what came together reaches the workers together.
const FEED_BATCH: usize = 256;

/// Events read per repair step.
const REPAIR_PAGE: usize = 500;
/// Rooms repaired at once: a node with 100,000 rooms must not stampede a Redis that has just come back.
const REPAIRS: usize = 32;
/// Before a failed repair is tried again: the connection for it may be a moment behind the one for subscriptions.
const REPAIR_PAUSE: Duration = Duration::from_millis(100);

/// How often rooms in which nothing happens are looked at: a loss without a later event is found within two of these.
const LOOK: Duration = Duration::from_secs(2);
/// Rooms looked at in one call.
const LOOK_CHUNK: usize = 1_000;

/// Before a room's counters are read again: many rooms may want it at once.
const RECOUNT_PAUSE: Duration = Duration::from_millis(50);
/// Counter values told anew per room: as many as a join tells.
const MAX_RECOUNT: usize = 1_000;

/// What a worker is told besides pushes; rare, so its channel is unbounded.
#[derive(Debug, Clone)]
pub enum Word {
    /// A word for every session.
    Control(Control),
    /// The list of mutes and bans changed: hold the connections to it.
    Enforce,
    /// Evict the room that was empty longest: another worker needs its place.
    EvictIdle,
    /// Send a share of the connections to other nodes.
    Shed(Arc<Shed>),
    /// Logs may not be what they were: read them anew for who catches up.
    ForgetPast,
}

/// The way to one worker.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Pushes for the members of its rooms.
    pub deliveries: LaneSender,
    /// Everything else.
    pub words: mpsc::UnboundedSender<Word>,
}

/// What the sessions tell the pump.
#[derive(Debug)]
pub enum Note {
    /// A join read the room's log and found its tail here.
    Tail(RoomName, Position),
    /// The room is not subscribed any more.
    Gone(RoomName),
}

/// The rooms looked at, and where their logs ended.
type Look = (Vec<RoomName>, Result<Vec<Option<Position>>, BrokerError>);

/// A room, and its counters as they stand.
type Recount = (RoomName, Result<Vec<Update>, CounterError>);

/// When a read is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    AtOnce,
    AfterPause,
}

/// One room as the pump knows it.
#[derive(Debug)]
struct Line {
    feed: RoomFeed<Event>,
    /// No event came since the last look at its tail.
    quiet: bool,
}

/// What runs on the control thread between broker and workers.
#[derive(Debug)]
pub struct Pump {
    broker: Broker,
    counter: Counter,
    interest: Interest,
    namespaces: Arc<Namespaces>,
    lanes: Vec<Lane>,
    presence: Presence,
    lines: HashMap<RoomName, Line>,
    counts: Counts,
    waiting: VecDeque<(RoomName, Position, Pace)>,
    repairs: JoinSet<(RoomName, Result<Page, BrokerError>)>,
    looks: JoinSet<Look>,
    /// Rooms whose counters are to be told anew, because a count may have been missed.
    uncounted: VecDeque<RoomName>,
    recounts: JoinSet<Recount>,
}

impl Pump {
    /// A pump that has moved nothing yet.
    pub fn new(
        broker: Broker,
        counter: Counter,
        interest: Interest,
        namespaces: Arc<Namespaces>,
        presence: Presence,
        counts: Counts,
        lanes: Vec<Lane>,
    ) -> Self {
        Self {
            broker,
            counter,
            interest,
            namespaces,
            lanes,
            presence,
            lines: HashMap::new(),
            counts,
            waiting: VecDeque::new(),
            repairs: JoinSet::new(),
            looks: JoinSet::new(),
            uncounted: VecDeque::new(),
            recounts: JoinSet::new(),
        }
    }

    /// Moves until the feed ends.
    pub async fn run(mut self, mut feed: mpsc::Receiver<Feed>, mut notes: mpsc::UnboundedReceiver<Note>) {
        let mut look = interval(LOOK);
        let mut batch = Vec::with_capacity(FEED_BATCH);
        let mut counts_due = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            let due = self.counts.next().map(Instant::from_std);
            if let Some(due) = due.filter(|due| counts_due.deadline() != *due) {
                counts_due.as_mut().reset(due);
            }
            tokio::select! {
                taken = feed.recv_many(&mut batch, FEED_BATCH) => {
                    if taken == 0 {
                        return;
                    }
                    batch.drain(..).for_each(|item| self.take(item));
                }
                () = &mut counts_due, if due.is_some() => self.tell_counts(),
                Some(note) = notes.recv() => match note {
                    Note::Tail(room, tail) => self.seed(&room, &tail),
                    Note::Gone(room) => {
                        if !self.interest.contains(&room) {
                            self.lines.remove(&room);
                        }
                    }
                },
                Some(done) = self.repairs.join_next() => {
                    if let Ok((room, result)) = done {
                        self.repaired(&room, result);
                    }
                }
                Some(done) = self.looks.join_next() => {
                    if let Ok((rooms, Ok(tails))) = done {
                        self.looked(&rooms, &tails);
                    }
                }
                Some(done) = self.recounts.join_next() => {
                    if let Ok((room, result)) = done {
                        self.recounted(&room, result);
                    }
                }
                _ = look.tick() => self.look(),
            }
            self.start_repairs();
            self.start_recounts();
            // Once for all of it, so that a worker that slept finds all of it.
            self.lanes.iter().for_each(|lane| lane.deliveries.ring());
        }
    }

    fn take(&mut self, item: Feed) {
        match item {
            Feed::Delivery(room, delivery) => self.arrived(&room, delivery),
            // Also sent when this node's own share was lost: it tells all of it again.
            Feed::Control(Control::NodesChanged) => self.presence.refresh(),
            Feed::Control(control) => self.tell_all(&Word::Control(control)),
            Feed::Interrupted(scope) => self.interrupted(&scope),
        }
    }

    fn arrived(&mut self, room: &RoomName, delivery: broker::Delivery) {
        if !self.interest.contains(room) {
            return;
        }
        match delivery {
            broker::Delivery::Event(epoch, event) => {
                metrics::event();
                let offset = event.offset;
                let line = self.line(room);
                line.quiet = false;
                let action = line.feed.live(&epoch, offset, event);
                self.act(room, action);
            }
            broker::Delivery::Signal { event, data, from } => {
                self.pass(room, Push::Signal { room: room.clone(), event, data, from });
            }
            broker::Delivery::Count(value) => self.count(room, value),
            broker::Delivery::Presence(count) => {
                self.pass(room, Push::Presence { room: room.clone(), count });
            }
            broker::Delivery::Ended(position, reason) => {
                let action = self.line(room).feed.reset(position, reason);
                self.act(room, action);
                self.counts.forget(room);
                // Its keys are gone, and with them who is in it.
                self.presence.retell(room);
            }
        }
    }

    /// Every room that may have missed something looks at its log; the others are left in peace.
    fn interrupted(&mut self, scope: &Scope) {
        let rooms: Vec<_> =
            self.lines.keys().filter(|room| self.broker.concerns(scope, room)).cloned().collect();
        tracing::warn!(
            rooms = rooms.len(),
            of = self.lines.len(),
            "a subscription of the broker was interrupted: looking for gaps"
        );
        // All workers share what was read.
        if let Some(lane) = self.lanes.first() {
            let _stopping = lane.words.send(Word::ForgetPast);
        }
        self.uncounted.retain(|room| !self.broker.concerns(scope, room));
        for room in &rooms {
            let action = self.line(room).feed.interrupted();
            self.act(room, action);
            if *scope != Scope::All {
                self.presence.retell(room);
            }
        }
        self.uncounted.extend(rooms);
        if *scope == Scope::All {
            self.presence.refresh();
        }
    }

    /// A join read the log; a feed that knows no position yet begins there.
    fn seed(&mut self, room: &RoomName, tail: &Position) {
        if self.interest.contains(room) {
            let action = self.line(room).feed.seed(tail);
            self.act(room, action);
        }
    }

    /// Rooms in which nothing happened for a while are looked at, so that a loss with no later event is found.
    fn look(&mut self) {
        if !self.looks.is_empty() {
            return;
        }
        let mut quiet: Vec<RoomName> = Vec::new();
        for (room, line) in &mut self.lines {
            if line.quiet {
                quiet.push(room.clone());
            }
            line.quiet = true;
        }
        let broker = self.broker.clone();
        if !quiet.is_empty() {
            self.looks.spawn(async move {
                let mut tails = Vec::with_capacity(quiet.len());
                for chunk in quiet.chunks(LOOK_CHUNK) {
                    match broker.tails(chunk).await {
                        Ok(mut some) => tails.append(&mut some),
                        Err(error) => return (quiet, Err(error)),
                    }
                }
                (quiet, Ok(tails))
            });
        }
    }

    fn looked(&mut self, rooms: &[RoomName], tails: &[Option<Position>]) {
        for (room, tail) in rooms.iter().zip(tails) {
            // Where an event came meanwhile, the look is older than what is known.
            let Some(line) = self.lines.get_mut(room).filter(|line| line.quiet) else { continue };
            // A room without a log has lost it, if it ever had one: reading it makes a new epoch, and a reset.
            let action = match tail {
                Some(tail) => line.feed.tail(tail),
                None => line.feed.interrupted(),
            };
            self.act(room, action);
        }
    }

    fn line(&mut self, room: &RoomName) -> &mut Line {
        self.lines
            .entry(room.clone())
            .or_insert_with(|| Line { feed: RoomFeed::new(FeedRules::default(), size), quiet: false })
    }

    fn act(&mut self, room: &RoomName, actions: impl IntoIterator<Item = FeedAction<Event>>) {
        let mut lost: Option<Position> = None;
        for action in actions {
            let (place, at, push) = match action {
                FeedAction::ReadHistory { since } => {
                    self.waiting.push_back((room.clone(), since, Pace::AtOnce));
                    continue;
                }
                // What comes after a loss is delivered with it, when it is read again: handed out now, it would
                // make what was lost look old.
                _ if lost.is_some() => continue,
                FeedAction::Deliver(position, event) => {
                    (Place::Event(position), Some(event.at), Push::Event { room: room.clone(), event })
                }
                FeedAction::Reset { position, reason } => {
                    metrics::gap(metrics::Gap::Reset);
                    self.counts.forget(room);
                    let Position { epoch, offset } = position.clone();
                    let push = Push::Reset { room: room.clone(), epoch, offset, reason: reason.to_string() };
                    (Place::Reset(position), None, push)
                }
            };
            let before = before(&place);
            let delivery = Delivery { room: room.clone(), place, at, push: Arc::new(SharedPush::new(push)) };
            if !self.hand_out(&delivery) {
                lost = Some(before);
            }
        }
        // A worker's lane was full: what it missed is read again, after a moment in which it can catch up.
        if let Some(since) = lost
            && let Some(FeedAction::ReadHistory { since }) = self.line(room).feed.rewind_to(since)
        {
            self.waiting.push_back((room.clone(), since, Pace::AfterPause));
        }
    }

    /// A count is told at once, or with those that come close behind it.
    fn count(&mut self, room: &RoomName, value: CounterValue) {
        match self.counts.offer(room, value, Instant::now().into_std()) {
            Some(value) => self.pass(room, Push::Count { room: room.clone(), value }),
            None => metrics::dropped(Dropped { fleeting: 0, conflated: 1 }),
        }
    }

    fn tell_counts(&mut self) {
        while let Some((room, values)) = self.counts.due(Instant::now().into_std()) {
            for value in values {
                self.pass(&room, Push::Count { room: room.clone(), value });
            }
        }
    }

    fn pass(&mut self, room: &RoomName, push: Push) {
        metrics::signal();
        let delivery = Delivery {
            room: room.clone(),
            place: Place::None,
            at: None,
            push: Arc::new(SharedPush::new(push)),
        };
        let counts = matches!(delivery.push.push(), Push::Count { .. });
        // A signal may be lost, and a presence is followed by a newer one; a count may have been the last.
        if !self.hand_out(&delivery) && counts && !self.uncounted.contains(room) {
            self.uncounted.push_back(room.clone());
        }
    }

    /// False when a worker's lane had no room for it.
    fn hand_out(&self, delivery: &Delivery) -> bool {
        let mut taken = true;
        for worker in self.interest.workers(&delivery.room).iter() {
            if let Some(lane) = self.lanes.get(worker as usize) {
                taken &= lane.deliveries.push(delivery.clone()).is_ok();
            }
        }
        taken
    }

    fn tell_all(&self, word: &Word) {
        for lane in &self.lanes {
            // A worker without a receiver is stopping: it closes its sessions anyway.
            let _stopping = lane.words.send(word.clone());
        }
    }

    fn start_repairs(&mut self) {
        #[cfg(feature = "chaos-hooks")]
        if std::env::var_os("CHAOS_NO_REPAIR").is_some() {
            // What waits is forgotten: so a hub would be that does not look for its losses.
            self.waiting.clear();
        }
        while self.repairs.len() < REPAIRS {
            let Some((room, since, pace)) = self.waiting.pop_front() else { return };
            if !self.interest.contains(&room) {
                self.lines.remove(&room);
                continue;
            }
            let broker = self.broker.clone();
            let history = self.history(&room);
            self.repairs.spawn(async move {
                if pace == Pace::AfterPause {
                    sleep(jitter(REPAIR_PAUSE)).await;
                }
                let page = broker.history(&room, &Range::Since(since, REPAIR_PAGE), history).await;
                (room, page)
            });
        }
    }

    fn repaired(&mut self, room: &RoomName, result: Result<Page, BrokerError>) {
        let Some(line) = self.lines.get_mut(room) else { return };
        match result {
            Ok(Page { tail, events, complete }) => {
                if complete && !events.is_empty() {
                    metrics::gap(metrics::Gap::Repaired);
                }
                let events = events.into_iter().map(|event| (event.offset, event)).collect();
                let actions = line.feed.page(tail, complete, events);
                self.act(room, actions);
            }
            Err(_still_down) => {
                if let Some(FeedAction::ReadHistory { since }) = line.feed.failed() {
                    self.waiting.push_back((room.clone(), since, Pace::AfterPause));
                }
            }
        }
    }

    fn start_recounts(&mut self) {
        while self.recounts.len() < REPAIRS {
            let Some(room) = self.uncounted.pop_front() else { return };
            if !self.interest.contains(&room) {
                continue;
            }
            let counter = self.counter.clone();
            self.recounts.spawn(async move {
                sleep(jitter(RECOUNT_PAUSE)).await;
                let counts = counter.counters(room.as_str(), None).await;
                (room, counts)
            });
        }
    }

    /// A value that was told already is harmless: its version says so.
    fn recounted(&mut self, room: &RoomName, result: Result<Vec<Update>, CounterError>) {
        match result {
            Ok(updates) => {
                for Update { target, counter, value, version } in updates.into_iter().take(MAX_RECOUNT) {
                    self.count(room, CounterValue { target, counter, value, version });
                }
            }
            Err(_still_down) => self.uncounted.push_back(room.clone()),
        }
    }

    fn history(&self, room: &RoomName) -> HistoryRules {
        let none = HistoryRules { size: 0, ttl: Duration::from_secs(60) };
        self.namespaces.rules(room).map_or(none, |rules| rules.history)
    }
}

/// What an event weighs while it waits for a repair.
fn size(event: &Event) -> usize {
    event.data.as_str().len() + event.event.len()
}

/// The position of somebody who has everything before this, and not this.
fn before(place: &Place) -> Position {
    match place {
        Place::Event(Position { epoch, offset }) => {
            Position { epoch: epoch.clone(), offset: Offset(offset.0.saturating_sub(1)) }
        }
        // Of no epoch that ever was: whoever reads on from there is reset.
        Place::Reset(_) | Place::None => Position { epoch: Epoch::new(""), offset: Offset(0) },
    }
}
