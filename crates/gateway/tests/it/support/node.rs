//! Nodes started in this process, on free ports of the loopback.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use roomcast_gateway::{
    app::{self, Backing, Running},
    auth::{NewClaims, Verifier},
    config::{Config, Secret, Sources},
};

/// The key that all test nodes share.
pub const HMAC_KEY: &str = "a test key that is long enough for HS256";
pub const API_KEY: &str = "a-test-key-for-the-API";

/// A configuration for one test node: development, free ports, two workers, then `settings` on top.
pub fn config(settings: &[(&str, &str)]) -> Config {
    let base = [
        ("listen", "127.0.0.1:0"),
        ("internal.listen", "127.0.0.1:0"),
        ("workers", "2"),
        ("auth.hmac_key", HMAC_KEY),
        ("api.key", API_KEY),
        // Room for a busy machine; what is told of a lost Redis does not wait for it.
        ("redis.command_timeout", "1500ms"),
        ("limits.frames_per_second", "unlimited"),
        ("limits.counter_ops_per_minute", "unlimited"),
        ("drain.spread", "10ms"),
    ];
    let sources = base
        .iter()
        .chain(settings)
        .fold(Sources::defaults(true), |sources, (key, value)| sources.set(key, value));
    Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
}

/// A token of the test key, good for `ttl`.
pub fn token(sub: &str, role: &str, ttl: Duration) -> String {
    let mut auth = config(&[]).auth;
    auth.hmac_key = Some(Secret::new(HMAC_KEY));
    let verifier = Verifier::new(&auth).expect("an HMAC verifier needs nothing else");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let expires_at = u64::try_from((now + ttl).as_millis()).expect("the clock is sane");
    let role = roomcast_core::permission::Role::from_name(role).expect("a known role");
    let claims = NewClaims { sub: sub.into(), role, rooms: None, info: None, expires_at };
    verifier.sign(&claims).expect("the claims are good")
}

pub fn admin_token() -> String {
    token("ada", "admin", Duration::from_secs(600))
}

/// Nodes that share one bus.
pub struct Cluster {
    pub backing: Backing,
}

impl Cluster {
    pub fn new() -> Self {
        Self { backing: Backing::local(&config(&[])) }
    }

    pub async fn node(&self, name: &str, settings: &[(&str, &str)]) -> TestNode {
        let mut all = vec![("node", name)];
        all.extend_from_slice(settings);
        TestNode::start(&all, self.backing.clone()).await
    }
}

/// One node.
pub struct TestNode {
    running: Option<Running>,
    pub public: SocketAddr,
    pub internal: SocketAddr,
}

impl TestNode {
    /// A node alone, on a bus of its own.
    pub async fn alone(settings: &[(&str, &str)]) -> Self {
        let backing = Backing::local(&config(&[]));
        Self::start(settings, backing).await
    }

    pub async fn start(settings: &[(&str, &str)], backing: Backing) -> Self {
        let running = app::start(config(settings), backing).await.expect("the node starts");
        Self { public: running.public, internal: running.internal, running: Some(running) }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("the node runs")
    }

    /// A stop that the test does not wait for: nobody polls its clients any more, so that the node would wait in
    /// vain for their goodbyes. They end with the test, and the node with them.
    pub fn leave(mut self) {
        let Some(running) = self.running.take() else { return };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(running.stop());
        });
    }

    /// A graceful stop.
    pub async fn stop(mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }
}
