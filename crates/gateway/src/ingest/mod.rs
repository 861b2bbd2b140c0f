//! Webhooks: taken in durably and answered at once, then turned into events by a bounded pool of workers.
//!
//! The queue is the counter crate's; here stand its HTTP side and the work. The work is a publish under a key made of
//! source and id, so that an entry that is worked on twice (its first worker died) becomes one event. Nothing here
//! waits for a worker before it answers.

mod intake;
mod letters;
mod signature;

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit, middleware::from_fn_with_state, routing};
use roomcast_core::{
    events::may_say,
    permission::{Audience, Role, Rules},
};
use roomcast_counter::{Entry, Failing, Fate, Ingest, IngestRules};
use roomcast_protocol::{Data, ErrorCode, Failure, RoomName};
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    backend::Repeat,
    broker::Publication,
    config,
    http::auth,
    metrics::{self, Webhook},
    node::Node,
    random::jitter,
};

/// One webhook: an event that goes to every member of a room, not a file.
const MAX_BODY: usize = 1024 * 1024;
/// How often a node that has nothing to do looks for what others left: entries due again, and those of dead nodes.
const IDLE_LOOK: Duration = Duration::from_millis(250);
/// How often the queues are measured.
const MEASURE: Duration = Duration::from_secs(5);
const MAX_EVENT: usize = 64;

/// The bounds of the queues, from the settings.
pub fn rules(settings: &config::Ingest) -> IngestRules {
    IngestRules {
        capacity: u64::try_from(settings.capacity.get()).unwrap_or(u64::MAX),
        remember: settings.remember,
        attempts: settings.attempts,
        ..IngestRules::default()
    }
}

/// `POST /api/v1/ingest/{source}` by signature or bearer, and the dead behind the bearer.
pub fn routes(node: Arc<Node>) -> Router {
    let dead = Router::new()
        .route("/api/v1/ingest/{source}/dead", routing::get(letters::list))
        .route("/api/v1/ingest/{source}/dead/replay", routing::post(letters::replay))
        .route_layer(from_fn_with_state(node.clone(), auth::guard));
    Router::new()
        .route("/api/v1/ingest/{source}", routing::post(intake::take_in))
        .merge(dead)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(node)
}

/// Hands entries to at most `ingest.workers` workers, for as long as the node runs.
pub async fn work(node: Arc<Node>, tasks: TaskTracker) {
    let settings = &node.config.ingest;
    let names: Vec<String> = settings.sources.keys().cloned().collect();
    if names.is_empty() {
        return;
    }
    let workers = Arc::new(Semaphore::new(settings.workers.get()));
    let mut first = 0;
    loop {
        // Before the queue is looked at: who is told meanwhile makes the next wait short.
        let told = node.webhooks.notified();
        let mut found = false;
        // Each time another source comes first, so that none starves behind a busy one.
        first = (first + 1) % names.len();
        for source in names[first..].iter().chain(&names[..first]) {
            let Ok(free) = workers.clone().acquire_owned().await else { return };
            let most = u32::try_from(workers.available_permits() + 1).unwrap_or(u32::MAX);
            let take = node.backend.ingest.take(source, &node.config.node, most);
            let entries = match node.backend.at(&Ingest::place(source)).call(Repeat::Harmless, take).await {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::debug!(error = error.message, "the queue of webhooks can't be read");
                    break;
                }
            };
            let mut free = Some(free);
            for entry in entries {
                found = true;
                let permit = match free.take() {
                    Some(permit) => permit,
                    None => match workers.clone().acquire_owned().await {
                        Ok(permit) => permit,
                        Err(_) => return,
                    },
                };
                // Not ended with the rest at a stop: what is begun is a matter of milliseconds.
                tasks.spawn(attend(node.clone(), source.clone(), entry, permit));
            }
        }
        if !found {
            let _told_or_not = timeout(jitter(IDLE_LOOK), told).await;
        }
    }
}

/// Measures the queues for the metrics.
pub async fn look(node: Arc<Node>) {
    let mut tick = interval(MEASURE);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (mut waiting, mut dead) = (0, 0);
        for source in node.config.ingest.sources.keys() {
            match node.backend.ingest.depth(source).await {
                Ok(depth) => {
                    waiting += depth.waiting;
                    dead += depth.dead;
                }
                Err(error) => tracing::debug!(%error, "a queue of webhooks can't be measured"),
            }
        }
        metrics::webhooks(waiting, dead);
    }
}

/// Works on one entry. Where it can't tell the queue what came of it, the lease runs out and another worker comes
/// to the same end.
async fn attend(node: Arc<Node>, source: String, entry: Entry, _worker: OwnedSemaphorePermit) {
    let ingest = &node.backend.ingest;
    let result = if ingest.is_spent(&entry) {
        Err((Failing::ForGood, "its workers went down with it too often".to_owned()))
    } else {
        publish(&node, &source, &entry).await
    };
    let told = match result {
        Ok(()) => {
            metrics::webhook(Webhook::Published);
            ingest.done(&source, &entry).await
        }
        Err((failing, reason)) => {
            let fate = ingest.failed(&source, &entry, failing, &reason).await;
            fate.map(|fate| match fate {
                Fate::Again => metrics::webhook(Webhook::Retried),
                Fate::Dead => {
                    metrics::webhook(Webhook::Dead);
                    tracing::warn!(source, attempts = entry.attempt, reason, "a webhook was given up");
                }
                Fate::Gone => {}
            })
        }
    };
    if let Err(error) = told {
        tracing::debug!(%error, "the queue of webhooks was not told what came of an entry: it comes again");
    }
}

async fn publish(node: &Node, source: &str, entry: &Entry) -> Result<(), (Failing, String)> {
    let settings = node.config.ingest.sources.get(source);
    let settings = settings.ok_or((Failing::ForGood, "the source is not configured".to_owned()))?;
    let for_good = |failure: Failure| (Failing::ForGood, failure.message);
    let Destination { room, rules, event, data } =
        destination(node, source, settings, &entry.body).map_err(for_good)?;
    let key = Some(format!("ingest:{source}:{}", entry.id));
    let at = node.backend.at(room.as_str());
    let publication = Publication { room, event, data, from: None, key, history: rules.history };
    let published = node.backend.broker.publish_remembered(&publication, node.config.ingest.remember);
    match at.call(Repeat::Harmless, published).await {
        Ok(_) => Ok(()),
        // Its effect stands already, as it was when the source was configured otherwise.
        Err(failure) if failure.code == ErrorCode::KeyReused => {
            tracing::warn!(source, "a webhook was published before under other settings");
            Ok(())
        }
        Err(failure) => Err((Failing::ForNow, failure.message)),
    }
}

/// Where a body goes, and as what.
struct Destination {
    room: RoomName,
    rules: Rules,
    event: String,
    data: Data,
}

/// The same rules at the door and at work: what is taken in is not given up for its form, unless the settings changed.
fn destination(
    node: &Node,
    source: &str,
    settings: &config::Source,
    body: &str,
) -> Result<Destination, Failure> {
    #[derive(Deserialize)]
    struct Named {
        room: Option<String>,
        event: Option<String>,
    }
    let bad = |message: String| Failure::new(ErrorCode::BadFrame, message);
    // What the settings name, the body may use for its own ends.
    let named = match (&settings.room, &settings.event) {
        (Some(_), Some(_)) => Named { room: None, event: None },
        _ => serde_json::from_str(body).map_err(|error| bad(format!("the body: {error}")))?,
    };
    let room = settings.room.clone().or(named.room);
    let room = room.ok_or_else(|| bad("the body names no room, and neither does the source".to_owned()))?;
    let room = RoomName::parse(&room).map_err(|error| Failure::new(ErrorCode::BadRoom, error.to_string()))?;
    let unknown = || Failure::new(ErrorCode::BadRoom, "the room's namespace is not configured");
    let rules = node.terms.namespaces.rules(&room).copied().ok_or_else(unknown)?;
    // The settings are the operator's; a body is its sender's, who is no admin.
    if settings.room.is_none() && rules.audience == Audience::AdminsOnly {
        return Err(Failure::new(ErrorCode::Forbidden, "no webhook may name a room that is for admins only"));
    }
    let event = settings.event.clone().or(named.event).unwrap_or_else(|| source.to_owned());
    if !(1..=MAX_EVENT).contains(&event.len()) || event.chars().any(char::is_control) {
        return Err(bad(format!("event must be 1 to {MAX_EVENT} characters")));
    }
    if settings.event.is_none() {
        may_say(Role::Member, &event)?;
    }
    if rules.moderated && event == "comment" {
        let message = "in a moderated namespace only the comment operation makes comments";
        return Err(Failure::new(ErrorCode::Forbidden, message));
    }
    let data = Data::parse(body).map_err(|error| bad(format!("the body: {error}")))?;
    Ok(Destination { room, rules, event, data })
}
