//! From what was said to a checked [`Config`], or to the list of everything that is wrong with it.

use std::collections::BTreeMap;

use roomcast_core::permission::{Namespaces, Rules};

use super::{
    Config, Log, Redis, Secret,
    defaults::{Draft, MAX_WORKERS},
    field::Given,
    parse::show_duration,
    problem::{Origin, Problem, Problems, Shown},
    settings::{Target, is_fixed_for_built_in},
    source::{Collected, Entry, Purpose, Sources},
};

const NEEDS_REDIS: &str = "the broker's URL: production does not start without Redis; set ROOMCAST_REDIS__URL, \
                           ROOMCAST_REDIS__URL_FILE, url in [redis] of the file, or use serve --dev";
const NEEDS_KEY: &str = "a key to verify tokens with: production does not start without one; set \
                         ROOMCAST_AUTH__HMAC_KEY, ROOMCAST_AUTH__HMAC_KEY_FILE or ROOMCAST_AUTH__JWKS, hmac_key or \
                         jwks in [auth] of the file, or use serve --dev";

impl Config {
    /// Default < file < environment < flag, checked as a whole; the error lists every problem.
    pub fn load(sources: &Sources) -> Result<Self, Problems> {
        let mut loader =
            Loader { draft: Draft::defaults(sources.dev), origins: BTreeMap::new(), problems: Vec::new() };
        let said = Collected::from(sources);
        loader.problems.extend(said.problems);
        for namespace in said.namespaces {
            loader.draft.rules.entry(namespace).or_default();
        }
        for source in said.sources {
            loader.draft.config.ingest.sources.entry(source).or_default();
        }
        for entry in said.entries {
            loader.assign(entry);
        }
        loader.check(sources);
        loader.finish(sources)
    }
}

struct Loader {
    draft: Draft,
    /// Who has the last word on each key.
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Loader {
    fn assign(&mut self, entry: Entry) {
        let Entry { key, target, origin, given } = entry;
        let (result, secret) = match target {
            Target::Plain(setting) => {
                (setting.field.assign(&mut self.draft, &given), setting.field.is_secret())
            }
            Target::Rule(name, setting) => {
                let fixed = matches!(name.as_str(), "admin" | "user") && is_fixed_for_built_in(setting.key);
                let result = if fixed {
                    Err(format!(
                        "nothing: {name} is built in; only its history, presence and moderated can be set"
                    ))
                } else {
                    let rules: &mut Rules = self.draft.rules.entry(name).or_default();
                    setting.field.assign(rules, &given)
                };
                (result, false)
            }
            Target::Source(name, setting) => {
                let source = self.draft.config.ingest.sources.entry(name).or_default();
                (setting.field.assign(source, &given), setting.field.is_secret())
            }
        };
        if let Err(expected) = result {
            let value = if secret { Shown::Hidden } else { shown(&given) };
            self.problems.push(Problem { key: key.clone(), origin: origin.clone(), value, expected });
        }
        self.origins.insert(key, origin);
    }

    /// What no setting can tell by itself.
    fn check(&mut self, sources: &Sources) {
        let draft = &self.draft;
        let (presence, drain, workers) = (draft.config.presence, draft.config.drain, draft.config.workers);
        let addresses = [("listen", draft.listen), ("internal.listen", draft.internal)];
        if presence.lease <= presence.heartbeat {
            let expected = format!("longer than presence.heartbeat ({})", show_duration(presence.heartbeat));
            self.problem("presence.lease", Shown::Text(show_duration(presence.lease)), expected);
        }
        if drain.deadline <= drain.balancer_delay + drain.spread {
            let sum = show_duration(drain.balancer_delay + drain.spread);
            let expected = format!("longer than drain.balancer_delay and drain.spread together ({sum})");
            self.problem("drain.deadline", Shown::Text(show_duration(drain.deadline)), expected);
        }
        if workers.get() > MAX_WORKERS {
            let workers = Shown::Text(workers.to_string());
            self.problem("workers", workers, format!("at most {MAX_WORKERS}"));
        }
        for (key, address) in addresses {
            if let Some(address) = address.filter(|address| sources.dev && !address.ip().is_loopback()) {
                let expected = "a loopback address such as 127.0.0.1:8080: --dev is for this machine only";
                self.problem(key, Shown::Text(address.to_string()), expected.to_owned());
            }
        }
        if sources.dev || sources.purpose == Purpose::Tool {
            return;
        }
        // A key that was given, but is wrong, has its own problem already.
        if !self.origins.contains_key("redis.url") && !self.is_blamed("redis.url") {
            self.problem("redis.url", Shown::Nothing, NEEDS_REDIS.to_owned());
        }
        let keys = ["auth.hmac_key", "auth.jwks"];
        if !keys.iter().any(|key| self.origins.contains_key(*key) || self.is_blamed(key)) {
            self.problem("auth.hmac_key", Shown::Nothing, NEEDS_KEY.to_owned());
        }
    }

    fn finish(mut self, sources: &Sources) -> Result<Config, Problems> {
        let generates_key =
            sources.dev && sources.purpose == Purpose::Serve && self.draft.config.auth.hmac_key.is_none();
        let (node, key) = (random_hex::<8>(), random_hex::<32>());
        if node.is_none() || key.is_none() {
            self.problem("node", Shown::Nothing, "random numbers from the system".to_owned());
        }
        if !self.problems.is_empty() {
            return Err(Problems(self.problems));
        }
        let mut namespaces = Namespaces::default();
        for (name, rules) in self.draft.rules {
            namespaces.insert(name, rules);
        }
        let Draft { config, listen, internal, node: named, redis, redis_url, prefix, level, .. } = self.draft;
        let mut auth = config.auth;
        if generates_key {
            auth.hmac_key = key.map(Secret::new);
            auth.key_is_generated = true;
        }
        let listen = listen.unwrap_or(config.listen);
        Ok(Config {
            listen,
            internal: internal.unwrap_or(listen),
            node: named.or(node).unwrap_or_default(),
            redis: redis_url.map(|url| Redis {
                url,
                prefix: prefix.unwrap_or_default(),
                changes: config.changes,
                ..redis
            }),
            auth,
            namespaces,
            log: Log { level: level.unwrap_or_default(), ..config.log },
            ..config
        })
    }

    fn is_blamed(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }

    fn problem(&mut self, key: &str, value: Shown, expected: String) {
        let origin = self.origins.get(key).cloned().unwrap_or(Origin::Default);
        self.problems.push(Problem { key: key.to_owned(), origin, value, expected });
    }
}

/// A value as it was written; one that holds a URL with a user or password is not shown wherever it was put.
fn shown(given: &Given) -> Shown {
    let text = match given {
        Given::Written(text) | Given::Toml(toml::Value::String(text)) => text.clone(),
        Given::Toml(value) => value.to_string(),
    };
    if text.contains("://") && text.contains('@') { Shown::Hidden } else { Shown::Text(text) }
}

/// `N` random bytes in hexadecimal; none if the system has no randomness to give.
fn random_hex<const N: usize>() -> Option<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}
