//! One scenario from start to verdict: the cluster stands, the clients work, faults happen, all comes to rest, and the
//! ledger is judged.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use roomcast_protocol::{Codec, Position, RoomName};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Options, Outcome,
    cluster::Cluster,
    dice::Dice,
    faults::{self, Levers, Occurrence, Stage},
    follower::Follower,
    http,
    judge::{Evidence, Finale},
    ledger::Ledger,
    publisher::{self, COUNTER, Work},
    scenarios::Scenario,
    subscriber,
    watch::{Diary, health, presence, pulse, snapshot},
};
use crate::target::{Identity, Wire};

/// Busy publishers of the first room, and how often each publishes.
const BUSY: u32 = 4;
const BUSY_PERIOD: Duration = Duration::from_millis(100);
/// The second room is quiet: a loss there is followed by nothing for a while.
const QUIET_PERIOD: Duration = Duration::from_millis(1_700);
/// A node allows 60 in a minute.
const COUNT_PERIOD: Duration = Duration::from_millis(400);
/// The crowd's room has little to tell to many.
const CROWD_PERIOD: Duration = Duration::from_secs(1);
/// Who is in the rooms that are judged.
const SUBSCRIBERS: usize = 12;
/// The busy room, the quiet one, and one in which nobody publishes; the crowd has one for itself.
const ROOMS: [&str; 4] = ["busy", "quiet", "silent", "crowd"];
const USUAL: &[usize] = &[0, 1, faults::SILENT];
const CROWD: usize = 3;
/// Of a crowd so many come in each second, at least.
const CROWD_PER_SECOND: u32 = 200;
/// Subscribers that stop reading when told to.
const SLOW: usize = 2;
/// Everything as usual before the first fault.
const LEAD: Duration = Duration::from_millis(1_500);
/// A loss with no later event is found within this.
const CATCH_UP: Duration = Duration::from_secs(5);
/// All subscribers are in their rooms by then.
const ARRIVAL: Duration = Duration::from_secs(20);
/// After the catch-up, for the last presence and counter pushes.
const LAST_PUSHES: Duration = Duration::from_secs(9);

/// The clients of a run; all end with it.
struct Clients {
    publishers: JoinSet<()>,
    others: JoinSet<()>,
    levers: Levers,
    /// Told to nobody, and held all the same: a receiver whose sender is gone would call at every turn.
    _never: (watch::Sender<bool>, watch::Sender<u64>),
    publishing: CancellationToken,
    stop: CancellationToken,
}

/// Runs one scenario.
pub(super) async fn run(options: Options, scenario: Scenario) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let mut settings = Vec::new();
    for pair in &options.set {
        let (key, value) = pair.split_once('=').with_context(|| format!("--set {pair}: no KEY=VALUE"))?;
        let name = key.to_uppercase().replace('.', "__");
        settings.push((format!("ROOMCAST_{name}"), value.to_owned()));
    }
    for pair in &options.env {
        let (name, value) = pair.split_once('=').with_context(|| format!("--env {pair}: no NAME=VALUE"))?;
        settings.push((name.to_owned(), value.to_owned()));
    }
    let mut cluster = Cluster::start(scenario.plan(&options.bin, &settings))
        .await
        .with_context(|| format!("starting the cluster of {}", scenario.name))?;
    let rooms = ROOMS.map(|name| RoomName::parse(&format!("event:chaos-{name}")));
    let ledger = Ledger::new(rooms.into_iter().collect::<Result<_, _>>()?);
    let diary = Diary::default();
    let mut clients = start(&options, &scenario, &cluster, &ledger);
    arrive(&ledger).await?;
    sleep(LEAD).await;
    observe(&mut clients, &cluster, &ledger, &diary);
    // The faults begin at an odd moment of whatever repeats itself.
    sleep(Dice::new(options.seed, 2).between(Duration::from_millis(300), Duration::from_millis(900))).await;
    let occurrences = disturb(&options, &scenario, &mut cluster, &ledger, &diary, &clients.levers).await?;
    let finale = settle(&options, &mut cluster, &ledger, &mut clients).await?;
    let (pages, sights) = (ledger.open(), diary.open());
    let evidence = Evidence {
        pages: &pages,
        sights: &sights,
        faults: &occurrences,
        finale: &finale,
        patience: options.patience,
    };
    let faults = evidence.measures();
    let verdicts = evidence.verdicts(&faults);
    let passed = verdicts.iter().all(|verdict| verdict.held);
    if let Some(folder) = options.logs.as_ref().filter(|_| !passed) {
        cluster.save_logs(&folder.join(format!("{}-{}", scenario.name, options.seed)))?;
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Outcome { scenario: scenario.name, seed: options.seed, passed, seconds, verdicts, faults })
}

fn start(options: &Options, scenario: &Scenario, cluster: &Cluster, ledger: &Ledger) -> Clients {
    let levers = Levers {
        load: watch::channel(faults::CALM).0,
        stalled: watch::channel(false).0,
        storm: watch::channel(0).0,
        counting: watch::channel(true).0,
    };
    let (never, calm) = (watch::channel(false).0, watch::channel(0).0);
    let (publishing, stop) = (CancellationToken::new(), CancellationToken::new());
    let (mut publishers, mut others) = (JoinSet::new(), JoinSet::new());
    // Each client has an address of its own, so that the caps per address stay as they are in production.
    let first = u32::from(Ipv4Addr::new(127, 0, 2, 1));
    let source = |index: u32| Ipv4Addr::from(first + index);
    let crowd = if scenario.crowded { options.crowd } else { 0 };
    for index in 0..SUBSCRIBERS + crowd {
        let codec = Wire::Both.codec(index);
        let is_crowd = index >= SUBSCRIBERS;
        let (what, rooms) = if is_crowd { ("one of the crowd", &[CROWD][..]) } else { ("subscriber", USUAL) };
        let name = format!("{what} {index} ({})", name_of(codec));
        let place = ledger.subscriber(&name, rooms);
        let slow = index < SLOW;
        let orders = subscriber::Orders {
            stalled: if slow { levers.stalled.subscribe() } else { never.subscribe() },
            storm: if is_crowd { levers.storm.subscribe() } else { calm.subscribe() },
            stop: stop.clone(),
        };
        let plan = subscriber::Plan {
            index,
            rooms,
            codec,
            source: source(100 + u32::try_from(index).unwrap_or_default()),
            target: cluster.target.clone(),
            seed: options.seed,
        };
        others.spawn(subscriber::follow(place, plan, orders, ledger.clone()));
    }
    let works = (0..BUSY).map(|_| (Work::Publish(0), BUSY_PERIOD));
    let works = works.chain([(Work::Publish(1), QUIET_PERIOD), (Work::Count, COUNT_PERIOD)]);
    let works = works.chain(scenario.crowded.then_some((Work::Publish(CROWD), CROWD_PERIOD)));
    for (id, (work, period)) in (0..).zip(works) {
        let plan = publisher::Plan {
            id,
            work,
            period,
            codec: Wire::Both.codec(id as usize),
            source: source(id),
            target: cluster.target.clone(),
            identity: Identity { token: None, hmac_key: Some(super::cluster::HMAC_KEY.to_owned()) },
            seed: options.seed,
        };
        publishers.spawn(publisher::publish(
            plan,
            levers.load.subscribe(),
            levers.counting.subscribe(),
            publishing.clone(),
            ledger.clone(),
        ));
    }
    Clients { publishers, others, levers, _never: (never, calm), publishing, stop }
}

/// Begins to look at the nodes.
fn observe(clients: &mut Clients, cluster: &Cluster, ledger: &Ledger, diary: &Diary) {
    let Clients { others, stop, .. } = clients;
    for node in &cluster.nodes {
        others.spawn(health(node.index, node.internal, ledger.clone(), diary.clone(), stop.clone()));
    }
    let nodes = cluster.nodes.iter().map(|node| node.internal).collect();
    others.spawn(pulse(diary.clone(), stop.clone()));
    others.spawn(presence(nodes, ledger.clone(), diary.clone(), stop.clone()));
}

const fn name_of(codec: Codec) -> &'static str {
    match codec {
        Codec::Json(_) => "json",
        Codec::MsgPack(_) => "msgpack",
    }
}

async fn arrive(ledger: &Ledger) -> anyhow::Result<()> {
    let subscribers = ledger.open().records.len();
    let all = async {
        while ledger.open().arrived() < subscribers {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let crowd = u32::try_from(subscribers).unwrap_or(u32::MAX) / CROWD_PER_SECOND;
    if timeout(ARRIVAL + Duration::from_secs(u64::from(crowd)), all).await.is_err() {
        let pages = ledger.open();
        anyhow::bail!("{} of {subscribers} subscribers came in: {:?}", pages.arrived(), pages.refusals);
    }
    Ok(())
}

async fn disturb(
    options: &Options,
    scenario: &Scenario,
    cluster: &mut Cluster,
    ledger: &Ledger,
    diary: &Diary,
    levers: &Levers,
) -> anyhow::Result<Vec<Occurrence>> {
    let mut dice = Dice::new(options.seed, 1);
    let began = Instant::now();
    let mut occurrences: Vec<Occurrence> = Vec::new();
    for fault in scenario.faults.iter().cycle() {
        if occurrences.len() >= scenario.faults.len() && began.elapsed() >= options.duration {
            break;
        }
        let mut stage = Stage { cluster, ledger, diary, levers, dice: &mut dice };
        let occurrence = stage.inject(*fault).await.with_context(|| format!("making {fault:?}"))?;
        occurrences.push(occurrence);
        let rest = fault.nature().rest;
        sleep(dice.between(rest, rest + Duration::from_millis(700))).await;
    }
    Ok(occurrences)
}

/// No new events; then everybody must come to stand at the end.
async fn settle(
    options: &Options,
    cluster: &mut Cluster,
    ledger: &Ledger,
    clients: &mut Clients,
) -> anyhow::Result<Finale> {
    clients.publishing.cancel();
    while let Some(done) = clients.publishers.join_next().await {
        done.context("a publisher panicked")?;
    }
    let still = Instant::now();
    let (catch_up, last_pushes) = (CATCH_UP.mul_f64(options.patience), LAST_PUSHES.mul_f64(options.patience));
    let mut finale = Finale { subscribers: ledger.open().watched().count() as u64, ..Finale::default() };
    let mut caught_up = false;
    loop {
        look(cluster, ledger, &mut finale).await;
        let is_behind = |(room, follower): (&usize, &Follower)| {
            follower.position() != finale.tails.get(*room).and_then(Option::as_ref)
        };
        let behind = ledger.open().records.iter().any(|record| record.rooms.iter().any(is_behind));
        caught_up |= !behind;
        let quiet = caught_up && {
            let pages = ledger.open();
            let all = finale.subscribers;
            pages.watched().all(|record| {
                record.presence == Some((all, all))
                    && record.count.is_none_or(|(value, _)| finale.counter == Some(value))
            })
        };
        if quiet || still.elapsed() > if caught_up { catch_up + last_pushes } else { catch_up } {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    finale.casualties = cluster.casualties();
    for node in &cluster.nodes {
        if !http::get(node.internal, "/readyz", None).await.is_ok_and(|answer| answer.status == 200) {
            finale.casualties.push(node.name());
        }
    }
    finale.at = ledger.now();
    clients.stop.cancel();
    while let Some(done) = clients.others.join_next().await {
        done.context("a client panicked")?;
    }
    ensure!(!finale.tails.is_empty(), "the run had no rooms");
    Ok(finale)
}

/// Where the logs end, and the counter's value, by the first node that says so.
async fn look(cluster: &Cluster, ledger: &Ledger, finale: &mut Finale) {
    let mut tails = Vec::new();
    for (index, room) in ledger.rooms.iter().enumerate() {
        let mut tail = None;
        for node in &cluster.nodes {
            let Ok(snapshot) = snapshot(node.internal, room.as_str()).await else { continue };
            if index == 0 {
                let ours = |counter: &&super::watch::Counter| {
                    (counter.target.as_str(), counter.name.as_str()) == COUNTER
                };
                finale.counter = Some(snapshot.counters.iter().find(ours).map_or(0, |counter| counter.value));
            }
            tail = Some(Position { epoch: snapshot.epoch, offset: snapshot.offset });
            break;
        }
        tails.push(tail);
    }
    finale.tails = tails;
}
