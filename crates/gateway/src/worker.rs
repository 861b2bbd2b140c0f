//! One worker: a thread with its own runtime, listener, sessions and rooms. A session never leaves it.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    pin::pin,
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use roomcast_core::gather::Gather;
use roomcast_protocol::{CloseCode, Push, RoomName, ServerFrame};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::LocalSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    alarm::Alarm,
    broker::Control,
    conn::{Conn, Order},
    drain::{self, Shed},
    http::{self, waiting::Waiting},
    hub::{self, Hub, Survey},
    interest::WorkerId,
    lane::LaneReceiver,
    node::{Node, now, unix_ms},
    outbox::OutboxCaps,
    presence::Present,
    pump::Word,
    random::Id,
    rest,
    restrictions::Speaks,
    session,
};

/// Requests that are not WebSockets yet; beyond, the kernel's backlog waits.
const MAX_HANDSHAKES: usize = 4_096;
/// How often empty rooms are looked at.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// How often rooms are looked at for those that stand out.
const SURVEY: Duration = Duration::from_secs(2);
/// After an accept failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long sessions may take to end when the node stops: a little longer than a socket's close.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// What the kernel may keep unsent for one socket: on a fast network it would be four times as much, for each slow
/// reader. What is on its way to the reader does not count, so a fast one is not slowed down.
const KERNEL_UNSENT: u32 = 1024 * 1024;
/// Deliveries taken in one go before the flusher gets its turn.
const DELIVERY_BATCH: usize = 256;

/// What a worker's sessions share.
#[derive(Debug)]
pub struct Worker {
    /// Its number.
    pub id: WorkerId,
    /// What all workers share.
    pub node: Arc<Node>,
    /// Its rooms.
    pub hub: RefCell<Hub>,
    /// Its tasks.
    pub tasks: TaskTracker,
    /// Sockets that are not upgraded yet, per peer.
    pub waiting: Waiting,
    /// How much may wait for each socket.
    pub caps: Rc<OutboxCaps>,
    /// What is served besides WebSockets.
    pub routes: axum::Router,
    /// Ends it.
    pub stop: CancellationToken,
}

/// What a worker thread is given.
pub struct Start {
    /// Its number.
    pub id: WorkerId,
    /// What all workers share.
    pub node: Arc<Node>,
    /// Its own listener on the shared port.
    pub listener: std::net::TcpListener,
    /// Pushes for its rooms.
    pub deliveries: LaneReceiver,
    /// Everything else.
    pub words: mpsc::UnboundedReceiver<Word>,
    /// What is served besides WebSockets.
    pub routes: axum::Router,
    /// Ends it.
    pub stop: CancellationToken,
    /// Rings when it ends otherwise.
    pub alarm: Alarm,
}

/// Starts a worker's thread.
pub fn spawn(start: Start) -> io::Result<thread::JoinHandle<io::Result<()>>> {
    let name = format!("worker-{}", start.id);
    thread::Builder::new().name(name).spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        rest::when_busy(&mut runtime, start.node.config.fanout.max_delay);
        let runtime = runtime.enable_all().build()?;
        let result = LocalSet::new().block_on(&runtime, run(start));
        runtime.shutdown_timeout(Duration::from_millis(100));
        result
    })
}

async fn run(start: Start) -> io::Result<()> {
    let Start { id, node, listener, deliveries, words, routes, stop, alarm } = start;
    let listener = TcpListener::from_std(listener)?;
    let limits = &node.terms.limits;
    let hub = RefCell::new(Hub::new(limits.idle_room_ttl));
    let caps = OutboxCaps { bytes: limits.outbound_bytes.or_max(), frames: limits.outbound_frames.or_max() };
    let (tasks, waiting) = (TaskTracker::new(), Waiting::default());
    let worker = Rc::new(Worker { id, node, hub, tasks, waiting, caps: Rc::new(caps), routes, stop });
    // One at a time: a second shed is refused while the first goes on.
    let (sheds, shed) = mpsc::unbounded_channel();
    let receiver = receive(worker.clone(), deliveries, words, sheds);
    let upkeep = [
        worker.tasks.spawn_local(alarm.watching("flusher", flush(worker.clone()))),
        worker.tasks.spawn_local(alarm.watching("receiver", receiver)),
        worker.tasks.spawn_local(alarm.watching("housekeeper", keep_house(worker.clone()))),
        worker.tasks.spawn_local(shed_when_told(shed)),
        worker.tasks.spawn_local(survey(worker.clone())),
        worker.tasks.spawn_local(drain_when_told(worker.clone())),
    ];
    // A task like the others: what this function waits for by itself is looked at whenever any of them is woken.
    let accepting = worker.tasks.spawn_local(alarm.watching("worker", accept(worker.clone(), listener)));
    let _stopped = accepting.await;
    worker.close_all(CloseCode::Restart);
    for task in upkeep {
        task.abort();
    }
    worker.tasks.close();
    if timeout(LAST_WORDS, worker.tasks.wait()).await.is_err() {
        tracing::warn!(sessions = worker.tasks.len(), "sessions that took too long to end were cut off");
    }
    Ok(())
}

/// Serves who comes until the worker is to stop.
async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    let handshakes = Arc::new(tokio::sync::Semaphore::new(MAX_HANDSHAKES));
    let mut stopped = pin!(worker.stop.cancelled());
    loop {
        let accepted = tokio::select! {
            () = &mut stopped => return,
            accepted = async {
                // The semaphore is never closed.
                let permit = handshakes.clone().acquire_owned().await.ok();
                (listener.accept().await, permit)
            } => accepted,
        };
        match accepted {
            (Ok((stream, peer)), permit) => {
                worker.tasks.spawn_local(http::serve(worker.clone(), stream, peer, permit));
            }
            (Err(error), _) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn flush(worker: Rc<Worker>) {
    hub::flush(&worker.hub, now, Gather::new(worker.node.config.fanout.max_delay)).await;
}

/// Takes what the control thread hands over.
async fn receive(
    worker: Rc<Worker>,
    deliveries: LaneReceiver,
    mut words: mpsc::UnboundedReceiver<Word>,
    sheds: mpsc::UnboundedSender<Leaving>,
) {
    let mut batch = Vec::with_capacity(DELIVERY_BATCH);
    loop {
        tokio::select! {
            () = deliveries.take_many(DELIVERY_BATCH, &mut batch) => {
                let mut hub = worker.hub.borrow_mut();
                for delivery in batch.drain(..) {
                    hub.deliver(delivery);
                }
            }
            Some(word) = words.recv() => match word {
                Word::Control(control) => worker.obey(&control),
                Word::Enforce => worker.enforce(),
                Word::EvictIdle => { worker.evict_idle(); }
                Word::Shed(shed) => worker.shed(shed, &sheds),
                Word::ForgetPast => worker.node.shelf.clear(),
            },
        }
        // The flusher runs now: this task must not starve it.
        tokio::task::yield_now().await;
    }
}

async fn keep_house(worker: Rc<Worker>) {
    let mut tick = interval(HOUSEKEEPING);
    loop {
        tick.tick().await;
        worker.node.pulse.beat(worker.id as usize, now().instant);
        let expired = worker.hub.borrow_mut().expire(now().instant);
        for room in expired {
            worker.node.interest.release(&room, worker.id);
        }
        worker.note_idle();
    }
}

/// Looks from time to time which rooms stand out.
async fn survey(worker: Rc<Worker>) {
    let mut tick = interval(SURVEY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = now().instant;
    loop {
        tick.tick().await;
        let begun = now().instant;
        let mut survey = Survey::new(std::mem::replace(&mut last, begun), begun);
        while worker.hub.borrow_mut().survey_step(&mut survey) {
            tokio::task::yield_now().await;
        }
        worker.node.figures.surveyed(worker.id, survey.found());
    }
}

/// When the node drains: every client is told when to come back elsewhere, and is closed at that time.
async fn drain_when_told(worker: Rc<Worker>) {
    worker.node.drain.begun().await;
    let conns = worker.conns();
    drain::send_away(conns, worker.node.config.drain.spread, "the node is going", CloseCode::Restart).await;
    // Who slipped in while the phase changed; it may take a moment until the last handshake is through.
    loop {
        worker.close_all(CloseCode::Restart);
        sleep(HOUSEKEEPING).await;
    }
}

/// Connections that were chosen to go elsewhere.
type Leaving = (Vec<Weak<Conn>>, Arc<Shed>);

/// Sends the chosen connections to other nodes.
async fn shed_when_told(mut sheds: mpsc::UnboundedReceiver<Leaving>) {
    while let Some((conns, shed)) = sheds.recv().await {
        drain::send_away(conns, shed.spread, "moved to another node", CloseCode::Shed).await;
    }
}

impl Worker {
    /// Takes a connection's seat away, and its presence with it. Whether it had one.
    pub fn leave(&self, conn: &Conn, room: &RoomName) -> bool {
        let Some(seat) = self.hub.borrow_mut().leave(conn, room, now().instant) else { return false };
        if seat.present
            && let Some(user) = conn.user.get()
        {
            self.node.presence.leave(room, user);
        }
        self.note_idle();
        true
    }

    /// Takes all seats away.
    pub fn leave_all(&self, conn: &Conn) {
        let rooms: Vec<_> = conn.seats.borrow().iter().map(|seat| seat.name.clone()).collect();
        for room in rooms {
            self.leave(conn, &room);
        }
    }

    /// Counts a connection as present in a room where it has a seat.
    pub fn appear(&self, conn: &Conn, room: &RoomName, user: &Arc<str>) -> oneshot::Receiver<Present> {
        if let Some(seat) = conn.seats.borrow_mut().iter_mut().find(|seat| seat.name == *room) {
            seat.present = true;
        }
        self.node.presence.join(room, user)
    }

    /// Gives up the room that was empty longest. Whether there was one.
    pub fn evict_idle(&self) -> bool {
        let Some(room) = self.hub.borrow_mut().evict() else { return false };
        self.node.interest.release(&room, self.id);
        self.note_idle();
        true
    }

    /// Tells the other workers how many empty rooms could be given up here.
    pub fn note_idle(&self) {
        if let Some(idle) = self.node.idle_rooms.get(self.id as usize) {
            idle.store(self.hub.borrow().idle(), Relaxed);
        }
    }

    fn obey(&self, control: &Control) {
        match control {
            Control::Disconnect { user, session, ip } => {
                let hub = self.hub.borrow();
                let session = session.as_deref().and_then(Id::parse);
                let meant = |conn: &&Rc<Conn>| {
                    let is_user = user.is_some() && conn.user.get().map(|user| &**user) == user.as_deref();
                    is_user || session == Some(conn.id) || *ip == Some(conn.ip)
                };
                for conn in hub.conns().filter(meant) {
                    conn.order(Order::Close(CloseCode::Disconnected));
                }
            }
            Control::Restrictions => self.node.restrictions.note(),
            // A word for the node, not for each of its workers.
            order @ (Control::Drain { .. } | Control::Shed { .. }) if self.id == 0 => {
                self.node.admin.take(order);
            }
            Control::Drain { .. } | Control::Shed { .. } | Control::NodesChanged => {}
        }
    }

    /// Weak, so that who leaves early is not held until its turn.
    fn conns(&self) -> Vec<Weak<Conn>> {
        self.hub.borrow().conns().map(Rc::downgrade).collect()
    }

    fn shed(&self, shed: Arc<Shed>, sheds: &mpsc::UnboundedSender<Leaving>) {
        let conns = shed.choose(self.conns());
        // Nobody waits for the answer of a worker that took too long, and without the other task the worker stops.
        let _nobody_waits = shed.chosen.send(conns.len());
        let _stopping = sheds.send((conns, shed));
    }

    /// Puts out who is banned: of the hub, or of a room.
    fn enforce(&self) {
        let banned = |user: &str, ip, room: Option<&str>| {
            self.node.restrictions.admit(user, Some(ip), room, Speaks::No, unix_ms()).is_err()
        };
        let conns: Vec<Rc<Conn>> = self.hub.borrow().conns().cloned().collect();
        for conn in conns {
            let Some(user) = conn.user.get() else { continue };
            if banned(user, conn.ip, None) {
                conn.order(Order::Close(CloseCode::Disconnected));
                continue;
            }
            let rooms: Vec<RoomName> = conn.seats.borrow().iter().map(|seat| seat.name.clone()).collect();
            for room in rooms.into_iter().filter(|room| banned(user, conn.ip, Some(room.as_str()))) {
                self.leave(&conn, &room);
                conn.put_out(room.clone());
                let kicked = ServerFrame::Push(Push::Kicked { room, reason: "banned".to_owned() });
                if let Some(item) = session::encode(conn.codec, &kicked) {
                    self.hub.borrow_mut().send_alone(&conn, item);
                }
            }
        }
    }

    fn close_all(&self, code: CloseCode) {
        for conn in self.hub.borrow().conns() {
            conn.order(Order::Close(code));
        }
    }
}

/// A listener of its own on a port that all workers share: the kernel spreads connections over them. What it is set to
/// holds for every socket that it accepts.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    tune(&socket);
    Ok(socket.into())
}

/// Small frames leave at once, because the flusher batches already; and little waits below it for a reader that is slow.
fn tune(socket: &socket2::Socket) {
    let tuned = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_notsent_lowat(KERNEL_UNSENT));
    if let Err(error) = tuned {
        tracing::debug!(%error, "a socket could not be tuned");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_are_tuned_as_their_listener_is() {
        let listener = TcpListener::from_std(listen(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (_client, accepted) = tokio::join!(client, listener.accept());
        let (stream, _) = accepted.unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap(), KERNEL_UNSENT);
    }
}
