//! The queue of webhooks: taken in once, handed out to one, lost by none, whoever dies.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fred::{
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
};
use roomcast_counter::{
    CounterError, Entry, Failing, Fate, Ingest, IngestRules, Intake, Invalid, RedisIngest, Replayed,
};

use crate::server::Server;

const SOURCE: &str = "shop";
const LEASE: Duration = Duration::from_millis(300);
const BACKOFF: Duration = Duration::from_millis(100);

/// Two nodes on one queue.
pub(crate) struct World {
    nodes: [Ingest; 2],
    clock: Option<Arc<AtomicU64>>,
    server: Option<Server>,
}

fn rules() -> IngestRules {
    IngestRules {
        capacity: 50,
        lease: LEASE,
        attempts: 3,
        backoff: BACKOFF,
        dead: 5,
        ..IngestRules::default()
    }
}

impl World {
    fn memory() -> Self {
        let clock = Arc::new(AtomicU64::new(1_700_000_000_000));
        let reads = Arc::clone(&clock);
        let node = Ingest::memory(rules(), Arc::new(move || reads.load(Ordering::Relaxed)));
        Self { nodes: [node.clone(), node], clock: Some(clock), server: None }
    }

    async fn redis() -> Self {
        let server = Server::start();
        let one = RedisIngest::new(server.client().await, "rc", rules());
        let two = RedisIngest::new(server.client().await, "rc", rules());
        Self { nodes: [Ingest::Redis(one), Ingest::Redis(two)], clock: None, server: Some(server) }
    }

    fn one(&self) -> &Ingest {
        &self.nodes[0]
    }

    fn other(&self) -> &Ingest {
        &self.nodes[1]
    }

    /// Lets time pass: ours at once, that of Redis as it passes.
    async fn pass(&self, time: Duration) {
        match &self.clock {
            Some(clock) => {
                clock.fetch_add(u64::try_from(time.as_millis()).expect("short"), Ordering::Relaxed);
            }
            None => tokio::time::sleep(time + Duration::from_millis(30)).await,
        }
    }

    async fn send(&self, id: &str, body: &str) -> Intake {
        self.one().enqueue(SOURCE, id, body).await.expect("answered")
    }

    async fn take(&self, node: usize, most: u32) -> Vec<Entry> {
        let consumer = ["one", "two"][node];
        self.nodes[node].take(SOURCE, consumer, most).await.expect("taken")
    }

    async fn depth(&self) -> (u64, u64) {
        let depth = self.other().depth(SOURCE).await.expect("read");
        (depth.waiting, depth.dead)
    }
}

/// Runs each promise over both queues.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::World::memory()).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $promise() {
                super::$promise(super::World::redis().await).await;
            })*
        }
    };
}

promises!(
    an_id_is_taken_in_once_whatever_becomes_of_it,
    a_full_queue_takes_nothing_and_forgets_nothing,
    an_entry_is_handed_to_one_worker_in_order,
    a_dead_workers_entries_go_to_another_after_its_lease,
    what_fails_for_now_comes_again_later_and_is_given_up_in_the_end,
    what_fails_for_good_is_dead_at_once,
    the_dead_are_bounded_paged_and_replayed,
    sources_do_not_see_each_other,
    bad_names_are_refused,
);

async fn an_id_is_taken_in_once_whatever_becomes_of_it(world: World) {
    assert_eq!(world.send("a", "{}").await, Intake::Queued);
    assert_eq!(world.send("a", "{}").await, Intake::Duplicate);
    assert_eq!(world.send("a", "{ }").await, Intake::Mismatch);
    let entries = world.take(1, 10).await;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].id.as_str(), entries[0].body.as_str(), entries[0].attempt), ("a", "{}", 1));
    world.other().done(SOURCE, &entries[0]).await.expect("done");
    assert_eq!(world.send("a", "{}").await, Intake::Duplicate, "also when it is done");
    assert_eq!(world.depth().await, (0, 0));
    assert!(world.take(0, 10).await.is_empty());
}

async fn a_full_queue_takes_nothing_and_forgets_nothing(world: World) {
    for n in 0..50 {
        assert_eq!(world.send(&n.to_string(), "{}").await, Intake::Queued);
    }
    assert_eq!(world.send("more", "{}").await, Intake::Full);
    assert_eq!(world.send("1", "{}").await, Intake::Duplicate, "what is known is answered all the same");
    // What is in work still takes its place.
    let entries = world.take(0, 5).await;
    assert_eq!(world.send("more", "{}").await, Intake::Full);
    world.one().done(SOURCE, &entries[0]).await.expect("done");
    assert_eq!(world.send("more", "{}").await, Intake::Queued, "the refusal left no record");
    assert_eq!(world.depth().await, (50, 0));
}

async fn an_entry_is_handed_to_one_worker_in_order(world: World) {
    for n in 0..20 {
        world.send(&n.to_string(), "{}").await;
    }
    let (mut one, two) = (world.take(0, 7).await, world.take(1, 100).await);
    assert_eq!((one.len(), two.len()), (7, 13));
    one.extend(two);
    let ids: Vec<_> = one.iter().map(|entry| entry.id.clone()).collect();
    assert_eq!(ids, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(world.take(0, 100).await.is_empty());
}

async fn a_dead_workers_entries_go_to_another_after_its_lease(world: World) {
    for id in ["a", "b", "c"] {
        world.send(id, "{}").await;
    }
    let taken = world.take(0, 2).await;
    world.one().done(SOURCE, &taken[0]).await.expect("done");
    assert_eq!(world.take(1, 9).await.len(), 1, "the lease holds");
    world.pass(LEASE).await;
    let again = world.take(1, 9).await;
    let ids: HashSet<_> = again.iter().map(|entry| entry.id.as_str()).collect();
    assert!(ids.contains("b") && !ids.contains("a"), "{ids:?}");
    assert!(again.iter().all(|entry| entry.attempt == 2));
    // The first worker was only slow: what it says of its entry now harms nobody.
    world.one().done(SOURCE, &taken[1]).await.expect("done");
    let b = again.iter().find(|entry| entry.id == "b").expect("b");
    assert_eq!(world.other().failed(SOURCE, b, Failing::ForNow, "late").await.expect("answered"), Fate::Gone);
}

async fn what_fails_for_now_comes_again_later_and_is_given_up_in_the_end(world: World) {
    world.send("a", "{\"n\":1}").await;
    for attempt in 1..=3 {
        let entries = world.take(usize::from(attempt == 2), 9).await;
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].attempt, attempt);
        let fate = world
            .one()
            .failed(SOURCE, &entries[0], Failing::ForNow, "Redis is away")
            .await
            .expect("answered");
        assert_eq!(fate, if attempt == 3 { Fate::Dead } else { Fate::Again });
        assert!(world.take(0, 9).await.is_empty(), "not before its time");
        world.pass(BACKOFF * attempt).await;
    }
    assert_eq!(world.depth().await, (0, 1));
    let dead = world.other().dead(SOURCE, None, 10).await.expect("read");
    assert_eq!(
        (dead[0].id.as_str(), dead[0].body.as_str(), dead[0].reason.as_str(), dead[0].attempts),
        ("a", "{\"n\":1}", "Redis is away", 3)
    );
    assert!(dead[0].at > 0);
}

async fn what_fails_for_good_is_dead_at_once(world: World) {
    world.send("a", "{}").await;
    let entry = world.take(0, 1).await.remove(0);
    let fate = world.one().failed(SOURCE, &entry, Failing::ForGood, "no such room").await.expect("answered");
    assert_eq!(fate, Fate::Dead);
    world.pass(LEASE).await;
    assert!(world.take(1, 9).await.is_empty());
    assert_eq!(world.send("a", "{}").await, Intake::Duplicate, "its sender need not send it again");
}

async fn the_dead_are_bounded_paged_and_replayed(world: World) {
    for n in 0..7 {
        world.send(&n.to_string(), &format!("{{\"n\":{n}}}")).await;
    }
    for entry in world.take(0, 9).await {
        world.one().failed(SOURCE, &entry, Failing::ForGood, "no").await.expect("answered");
    }
    let page = world.one().dead(SOURCE, None, 3).await.expect("read");
    assert_eq!(page.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), ["2", "3", "4"]);
    let rest = world.one().dead(SOURCE, Some(&page[2].entry), 3).await.expect("read");
    assert_eq!(rest.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), ["5", "6"]);
    let named = [rest[0].entry.clone()];
    let replayed = world.other().replay(SOURCE, Some(&named), 100).await.expect("replayed");
    assert_eq!(replayed, Replayed { replayed: 1, left: 4 });
    let replayed = world.other().replay(SOURCE, None, 2).await.expect("replayed");
    assert_eq!(replayed, Replayed { replayed: 2, left: 2 });
    let entries = world.take(1, 9).await;
    let ids: Vec<_> = entries.iter().map(|entry| (entry.id.as_str(), entry.attempt)).collect();
    assert_eq!(ids, [("5", 1), ("2", 1), ("3", 1)]);
    assert_eq!(entries[0].body, "{\"n\":5}");
    assert_eq!(world.one().replay(SOURCE, Some(&[]), 9).await.expect("none").replayed, 0);
}

async fn sources_do_not_see_each_other(world: World) {
    world.send("a", "{}").await;
    assert_eq!(world.one().enqueue("bank", "a", "other").await.expect("answered"), Intake::Queued);
    assert_eq!(world.take(0, 9).await.len(), 1);
    let bank = world.one().take("bank", "one", 9).await.expect("taken");
    assert_eq!(bank[0].body, "other");
}

async fn bad_names_are_refused(world: World) {
    let refused = |result: Result<Intake, CounterError>| match result {
        Err(CounterError::Invalid(invalid)) => invalid,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(world.one().enqueue("a}b", "id", "{}").await), Invalid::IngestSource);
    assert_eq!(refused(world.one().enqueue("a", "", "{}").await), Invalid::IngestId);
    assert!(matches!(world.one().dead("a", Some("x"), 1).await, Err(CounterError::Invalid(Invalid::Cursor))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_senders_and_workers_lose_and_double_nothing() {
    let world = Arc::new(World::redis().await);
    let mut tasks = Vec::new();
    for n in 0..40 {
        for node in 0..2 {
            let world = Arc::clone(&world);
            #[allow(clippy::disallowed_methods, reason = "joined below")]
            tasks.push(tokio::spawn(async move {
                world.nodes[node].enqueue(SOURCE, &n.to_string(), "{}").await.expect("answered")
            }));
        }
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.expect("no panic"));
    }
    assert_eq!(answers.iter().filter(|intake| **intake == Intake::Queued).count(), 40);
    assert_eq!(answers.iter().filter(|intake| **intake == Intake::Duplicate).count(), 40);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let (a, b) = tokio::join!(world.take(0, 1), world.take(1, 1));
        one.extend(a);
        two.extend(b);
    }
    let ids: HashSet<_> = one.iter().chain(&two).map(|entry| entry.id.clone()).collect();
    assert_eq!((one.len() + two.len(), ids.len()), (40, 40));
}

#[tokio::test]
async fn in_redis_out_of_memory_refuses_whole_and_what_is_lost_starts_anew() {
    let world = World::redis().await;
    world.send("a", "{}").await;
    let client = world.server.as_ref().expect("a server").client().await;
    let raw = async |words: &[&str]| -> Value {
        let name = words[0].to_owned();
        let command = CustomCommand::new(name, ClusterHash::FirstKey, false);
        let rest: Vec<String> = words[1..].iter().map(|word| (*word).to_owned()).collect();
        client.custom(command, rest).await.expect("answered")
    };
    raw(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = world.one().enqueue(SOURCE, "b", "{}").await;
    assert!(matches!(refused, Err(CounterError::Unavailable { maybe_applied: false, .. })), "{refused:?}");
    raw(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(world.send("b", "{}").await, Intake::Queued, "the refusal left no record");
    assert_eq!(world.take(0, 9).await.len(), 2);
    raw(&["FLUSHALL"]).await;
    assert!(world.take(0, 9).await.is_empty());
    assert_eq!(world.send("c", "{}").await, Intake::Queued);
    assert_eq!(world.take(0, 9).await.len(), 1, "the group is made again");
}

#[tokio::test]
async fn in_a_cluster_a_queue_stays_in_one_slot() {
    let server = Server::start_cluster();
    let node = Ingest::Redis(RedisIngest::new(server.client().await, "rc", rules()));
    for source in ["a", "b", "c"] {
        assert_eq!(node.enqueue(source, "id", "{}").await.expect("answered"), Intake::Queued);
        let entry = node.take(source, "one", 9).await.expect("taken").remove(0);
        assert_eq!(node.failed(source, &entry, Failing::ForGood, "no").await.expect("answered"), Fate::Dead);
        assert_eq!(node.replay(source, None, 9).await.expect("replayed").replayed, 1);
        assert_eq!(node.depth(source).await.expect("read").waiting, 1);
    }
}
