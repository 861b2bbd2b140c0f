//! What loading promises: the order of the sources, every problem at once, no secret shown.

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use roomcast_core::permission::Role;
use roomcast_protocol::RoomName;

use super::{
    Config, JwksSource, LogFormat, Problems, Secret, Shown, Sources, default_toml, markdown, schema,
    settings::{RULES, SETTINGS, SOURCE},
    source::Purpose,
};

const KEY: &str = "an-hmac-key-that-is-long-enough-for-anyone";

fn production() -> Sources {
    Sources::defaults(false).set("redis.url", "redis://127.0.0.1:6379").set("auth.hmac_key", KEY)
}

fn dev() -> Sources {
    Sources::defaults(true)
}

fn env(mut sources: Sources, pairs: &[(&str, &str)]) -> Sources {
    sources.env.extend(pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))));
    sources
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

fn with_file(mut sources: Sources, text: &str) -> Result<Config, Problems> {
    let dir = tempfile::tempdir().unwrap();
    sources.file = Some(file(&dir, "roomcast.toml", text));
    Config::load(&sources)
}

/// The report of a configuration that must be refused.
fn refused(result: Result<Config, Problems>) -> String {
    result.expect_err("must be refused").to_string()
}

#[test]
fn each_source_beats_the_one_before() {
    let text = "[limits]\nframe_bytes = \"1KiB\"\nrooms_per_socket = 1\nframes_burst = 1\n";
    let sources = env(
        dev(),
        &[
            ("ROOMCAST_LIMITS__ROOMS_PER_SOCKET", "2"),
            ("ROOMCAST_LIMITS__FRAMES_BURST", "2"),
            ("UNRELATED", "x"),
        ],
    )
    .set("limits.frames_burst", "3");
    let limits = with_file(sources, text).unwrap().limits;
    assert_eq!(limits.frame_bytes.get(), Some(1_024));
    assert_eq!(limits.rooms_per_socket.get(), Some(2));
    assert_eq!(limits.frames_burst.get(), Some(3));
    assert_eq!(limits.frames_per_second.get(), Some(20));
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "a.toml", "node = \"from-file\"");
    let sources = env(dev(), &[("ROOMCAST_CONFIG", path.to_str().unwrap())]);
    assert_eq!(Config::load(&sources).unwrap().node, "from-file");
    let missing = env(dev(), &[("ROOMCAST_CONFIG", "/nowhere/roomcast.toml")]);
    assert!(refused(Config::load(&missing)).contains("readable TOML file"));
}

#[test]
fn every_problem_is_listed_with_key_source_value_and_expectation() {
    let sources = env(dev(), &[("ROOMCAST_LIMITS__PING_INTERVAL", "25"), ("ROOMCAST_NO__SUCH", "1")])
        .set("limits.frames_burst", "0")
        .set("log.format", "xml");
    let report =
        refused(with_file(sources, "listen = 8080\n[limits]\nframe_bites = 1\n[presence]\nrate = \"1\"\n"));
    for line in [
        "7 configuration problems:",
        "listen (file ",
        " is \"8080\": expected",
        "limits.frame_bites (file ",
        "did you mean limits.frame_bytes?",
        "presence.rate (file ",
        "limits.ping_interval (environment ROOMCAST_LIMITS__PING_INTERVAL) is \"25\": expected a duration",
        "write 25s",
        "no.such (environment ROOMCAST_NO__SUCH): expected a known setting",
        "limits.frames_burst (flag --set) is \"0\": expected a whole number from 1: a limit of 0 is refused; \"unlimited\" is the word",
        "log.format (flag --set) is \"xml\": expected text or json",
    ] {
        assert!(report.contains(line), "{line}\n{report}");
    }
    assert_eq!(report.lines().count(), 8, "{report}");
}

#[test]
fn production_needs_redis_and_a_key() {
    let report = refused(Config::load(&Sources::defaults(false)));
    assert!(report.contains("redis.url (not set): expected") && report.contains("ROOMCAST_REDIS__URL"));
    assert!(report.contains("auth.hmac_key (not set): expected") && report.contains("ROOMCAST_AUTH__JWKS"));
    let tool = Sources { purpose: Purpose::Tool, ..Sources::defaults(false) };
    assert!(Config::load(&tool).unwrap().auth.hmac_key.is_none());
    let config = Config::load(&production()).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.internal.to_string(), "0.0.0.0:9090");
    assert_eq!(config.limits.connections_per_ip.get(), Some(10));
    assert!(config.auth.guests && !config.auth.key_is_generated && !config.origins.localhost);
    assert_eq!(config.redis.unwrap().prefix, "rc");
    let jwks = Sources::defaults(false)
        .set("redis.url", "rediss://user:pass@redis.example:6380/2")
        .set("auth.jwks", "https://id.example/jwks.json");
    assert!(Config::load(&jwks).unwrap().auth.hmac_key.is_none());
}

#[test]
fn the_demo_wall_is_there_in_development_only() {
    use roomcast_core::permission::{Access, Identity, Role};
    let room = roomcast_protocol::RoomName::parse("wall:summer-night").unwrap();
    let guest = Identity { user: "g".into(), role: Role::Guest, rooms: None };
    let config = Config::load(&dev()).unwrap();
    let rules = config.namespaces.rules(&room).unwrap();
    assert!(rules.moderated && rules.stock);
    for access in [Access::Join, Access::Publish, Access::Count] {
        assert!(rules.allow(access, &guest, &room), "{access:?}");
    }
    assert!(!rules.allow(Access::Moderate, &guest, &room));
    assert!(Config::load(&production()).unwrap().namespaces.rules(&room).is_none());
}

#[test]
fn development_needs_nothing_and_stays_on_this_machine() {
    let config = Config::load(&dev()).unwrap();
    assert!(config.dev && config.redis.is_none() && config.auth.key_is_generated);
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.internal, config.listen);
    assert_eq!(config.limits.connections_per_ip.get(), Some(1_000));
    assert_eq!(config.limits.connect_rate_per_ip.get(), Some(1_000));
    assert_eq!(config.limits.connect_burst_per_ip.get(), Some(1_000));
    assert_eq!(config.drain.deadline, Duration::from_secs(5));
    assert!(config.origins.allow("http://localhost:5173", None));
    let again = Config::load(&dev()).unwrap();
    assert_ne!(config.node, again.node);
    assert!(!config.auth.hmac_key.unwrap().matches(again.auth.hmac_key.unwrap().reveal()));
    assert!(refused(Config::load(&dev().set("listen", "0.0.0.0:8080"))).contains("this machine only"));
    assert!(refused(Config::load(&dev().set("internal.listen", "[::]:1"))).contains("this machine only"));
    assert_eq!(Config::load(&dev().set("listen", "[::1]:1")).unwrap().internal.to_string(), "[::1]:1");
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "key", &format!("{KEY}\n"));
    let path = path.to_str().unwrap();
    let config = Config::load(&env(dev(), &[("ROOMCAST_AUTH__HMAC_KEY_FILE", path)])).unwrap();
    assert_eq!(config.auth.hmac_key.as_ref().map(Secret::reveal), Some(KEY));
    assert!(!format!("{config:?}").contains(KEY));
    let both = env(dev(), &[("ROOMCAST_AUTH__HMAC_KEY_FILE", path), ("ROOMCAST_AUTH__HMAC_KEY", KEY)]);
    let report = refused(Config::load(&both));
    assert!(report.contains("not both") && !report.contains(KEY), "{report}");
    let no_secret = env(dev(), &[("ROOMCAST_NODE_FILE", path)]);
    assert!(refused(Config::load(&no_secret)).contains("known setting"));
}

#[test]
fn a_refused_secret_is_not_shown_wherever_it_was_put() {
    let bad = [
        ("ROOMCAST_AUTH__HMAC_KEY", "hunter2"),
        ("ROOMCAST_API__KEY", "hunter2"),
        ("ROOMCAST_REDIS__URL", "http://user:hunter2@redis"),
        ("ROOMCAST_AUTH__HMAC_KEZ", "hunter2"),
        ("ROOMCAST_AUTH__HMAC_KEY_FILE", "/nowhere/hunter2"),
        ("ROOMCAST_AUTH__JWKS", "ftp://user:hunter2@id.example"),
        ("ROOMCAST_NO__SUCH", "hunter2"),
    ];
    let mut sources = env(dev(), &bad).set("api.kex", "hunter2").set("redis.url", "hunter2");
    sources.flags.push(super::Flag { name: "--set".to_owned(), assignment: "hunter2".to_owned() });
    let report = refused(with_file(sources, "[auth]\nhmac_key = \"hunter2"));
    assert!(!report.contains("hunter2"), "{report}");
    // The seven variables, one pair of which contradict each other, two bad flags, one without `=`, the file.
    assert!(report.starts_with("12 configuration problems"), "{report}");
}

#[test]
fn secrets_are_long_enough() {
    assert!(
        refused(Config::load(&dev().set("auth.hmac_key", &"k".repeat(31)))).contains("at least 32 bytes")
    );
    assert!(Config::load(&dev().set("auth.hmac_key", &"k".repeat(32))).is_ok());
    assert!(refused(Config::load(&dev().set("api.key", "fifteen-letters"))).contains("at least 16"));
    assert!(Config::load(&dev().set("api.key", "sixteen-letters!")).is_ok());
}

#[test]
fn redis_urls_have_a_known_scheme_and_a_host() {
    for good in [
        "redis://h",
        "rediss://u:p@h:1/2",
        "redis-cluster://a:1",
        "rediss-cluster://a:1",
        "redis-sentinel://a:1?sentinelServiceName=main",
        "rediss-sentinel://a:1?sentinelServiceName=main&node=b:2",
    ] {
        assert!(Config::load(&dev().set("redis.url", good)).is_ok(), "{good}");
    }
    for bad in ["", "h:6379", "http://h", "redis://", "redis-sentinel://a:1", "valkey://h"] {
        assert!(refused(Config::load(&dev().set("redis.url", bad))).contains("redis-cluster"), "{bad}");
    }
}

#[test]
fn public_keys_come_from_a_file_or_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "jwks.json", "{}");
    let config = Config::load(&dev().set("auth.jwks", path.to_str().unwrap())).unwrap();
    assert_eq!(config.auth.jwks, Some(JwksSource::File(path)));
    for good in
        ["https://id.example/jwks", "http://127.0.0.1:1/jwks", "http://localhost/jwks", "http://[::1]/jwks"]
    {
        let config = Config::load(&dev().set("auth.jwks", good)).unwrap();
        assert_eq!(config.auth.jwks, Some(JwksSource::Url(good.to_owned())));
    }
    for bad in ["http://id.example/jwks", "ftp://id.example", "/nowhere/jwks.json", "https://", ""] {
        assert!(Config::load(&dev().set("auth.jwks", bad)).is_err(), "{bad}");
    }
}

#[test]
fn settings_that_depend_on_each_other_are_checked_together() {
    let report = refused(Config::load(&dev().set("presence.lease", "2s").set("drain.spread", "5s")));
    assert!(
        report
            .contains("presence.lease (flag --set) is \"2s\": expected longer than presence.heartbeat (2s)")
    );
    assert!(refused(Config::load(&dev().set("workers", "65"))).contains("at most 64"));
    assert!(report.contains("drain.deadline (not set) is \"5s\": expected longer than drain.balancer_delay"));
}

#[test]
fn namespaces_are_configured_by_name() {
    let text = "[namespaces.chat]\n[namespaces.event]\nmoderated = true\nhistory.size = 5\n\
                [namespaces.admin]\nhistory = { ttl = \"2h\" }\n";
    let sources = env(
        dev(),
        &[("ROOMCAST_NAMESPACES__CHAT__JOIN", "guest"), ("ROOMCAST_NAMESPACES__CHAT__HISTORY__SIZE", "0")],
    );
    let config = with_file(sources, text).unwrap();
    let rules = |room| *config.namespaces.rules(&RoomName::parse(room).unwrap()).unwrap();
    assert_eq!((rules("chat:a").join, rules("chat:a").history.size), (Role::Guest, 0));
    assert_eq!(rules("chat:a").publish, Role::Member);
    assert!(rules("event:a").moderated && rules("event:a").stock);
    assert_eq!(rules("event:a").history.size, 5);
    assert_eq!(rules("admin").history.ttl, Duration::from_secs(7_200));
    assert!(config.namespaces.rules(&RoomName::parse("other:a").unwrap()).is_none());
}

#[test]
fn sources_of_webhooks_are_configured_by_name() {
    let secret = "a secret of the shop";
    let text = "[ingest]\nworkers = 2\n[ingest.sources.bare]\n[ingest.sources.shop]\nroom = \"event:wall\"\nevent = \"order\"\n";
    let sources = env(dev(), &[("ROOMCAST_INGEST__SOURCES__SHOP__SECRET", secret)]);
    let config = with_file(sources, text).unwrap();
    let shop = &config.ingest.sources["shop"];
    assert_eq!((shop.room.as_deref(), shop.event.as_deref()), (Some("event:wall"), Some("order")));
    assert_eq!(shop.secret.as_ref().map(Secret::reveal), Some(secret));
    assert!(config.ingest.sources["bare"].room.is_none() && config.ingest.workers.get() == 2);
    assert!(!format!("{config:?}").contains(secret));
    let report = refused(with_file(
        dev().set("ingest.sources.shop.secret", "hunter2").set("ingest.sources.Shop.room", "event:wall"),
        "[ingest.sources.shop]\nroom = \"no room\"\nevnt = \"x\"\nsignature_header = \"a b\"\n[ingest.sources]\nx = 1\n",
    ));
    assert!(!report.contains("hunter2"), "{report}");
    for part in [
        "ingest.sources.shop.room (file",
        "did you mean ingest.sources.shop.event?",
        "ingest.sources.shop.signature_header (file",
        "ingest.sources.shop.secret (flag --set) is [not shown]: expected at least 16 bytes",
        "ingest.sources.Shop.room (flag --set): expected a source of at most 32 small letters",
        "ingest.sources.x (file",
    ] {
        assert!(report.contains(part), "{part}\n{report}");
    }
}

#[test]
fn what_makes_admin_and_user_built_in_cannot_be_set() {
    let report = refused(with_file(
        dev().set("namespaces.user.publish", "guest").set("namespaces.Bad.join", "guest"),
        "[namespaces.admin]\njoin = \"guest\"\nhistory.size = 1\n[namespaces.x]\njoim = \"guest\"\nhistory = 5\n",
    ));
    assert!(report.starts_with("5 configuration problems"), "{report}");
    assert!(report.contains("namespaces.admin.join") && report.contains("admin is built in"));
    assert!(report.contains("namespaces.user.publish") && report.contains("user is built in"));
    assert!(report.contains("did you mean namespaces.x.join?"));
    assert!(report.contains("namespaces.x.history (file") && report.contains("a table of settings"));
    assert!(report.contains("namespaces.Bad.join (flag --set): expected a namespace of a small letter"));
}

#[test]
fn lists_are_arrays_tables_or_text_with_commas() {
    let text = "trusted_proxies = [\"10.0.0.0/8\", \"::1\"]\norigins = [\"https://a.example\", \"same-host\"]\n\
                [limits.ip_overrides]\n\"203.0.113.0/24\" = 500\n\"2001:db8::/32\" = \"unlimited\"\n";
    let config = with_file(dev(), text).unwrap();
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.limits.ip_overrides.len(), 2);
    assert!(config.origins.same_host && config.origins.localhost);
    let written = env(
        dev(),
        &[
            ("ROOMCAST_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
            ("ROOMCAST_LIMITS__IP_OVERRIDES", "203.0.113.0/24=500,2001:db8::/32=unlimited"),
            ("ROOMCAST_ORIGINS", "https://a.example,same-host"),
            ("ROOMCAST_LOG__FORMAT", "json"),
            ("ROOMCAST_LIMITS__IDLE_TIMEOUT", "10m"),
        ],
    );
    let same = Config::load(&written).unwrap();
    assert_eq!(same.trusted_proxies, config.trusted_proxies);
    // The longest prefix wins, so the order says nothing.
    assert!(same.limits.ip_overrides.iter().all(|entry| config.limits.ip_overrides.contains(entry)));
    assert_eq!(same.limits.ip_overrides.len(), 2);
    assert_eq!(same.origins, config.origins);
    assert_eq!(same.log.format, LogFormat::Json);
    assert_eq!(same.limits.idle_timeout, Some(Duration::from_secs(600)));
    assert!(
        refused(Config::load(&dev().set("trusted_proxies", "10.0.0.0/8,all"))).contains("networks such as")
    );
}

#[test]
fn the_default_file_loads_and_changes_nothing() {
    let config = with_file(production(), &default_toml()).unwrap();
    let plain = Config::load(&production().set("node", &config.node)).unwrap();
    assert_eq!(format!("{config:?}"), format!("{plain:?}"));
    assert!(with_file(dev(), &default_toml()).is_ok());
}

#[test]
fn the_comments_of_the_default_file_are_settings_that_load() {
    let is_setting = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let text: String = default_toml()
        .lines()
        .map(|line| if is_setting(line) { &line[1..] } else { line })
        .fold(String::new(), |text, line| text + line + "\n");
    // The sample's file is nobody's.
    let here = tempfile::NamedTempFile::new().unwrap();
    let text = text.replace("/etc/roomcast/redis-ca.pem", here.path().to_str().unwrap());
    // The sample keys are refused, lest somebody uses them.
    let report = refused(with_file(Sources::defaults(false), &text));
    assert!(report.starts_with("3 configuration problems"), "{report}");
    let text = text.replace("\"...\"", &format!("\"{KEY}\""));
    let config = with_file(Sources::defaults(false), &text).unwrap();
    assert_eq!(config.node, "hub-1");
    assert!(config.namespaces.rules(&RoomName::parse("chat:a").unwrap()).is_some());
    assert_eq!(config.ingest.sources["shop"].event.as_deref(), Some("order"));
    let table = toml::Value::Table(text.parse().unwrap());
    for setting in SETTINGS {
        let found = setting.key.split('.').try_fold(&table, |value, part| value.get(part));
        assert!(found.is_some(), "{}", setting.key);
    }
    let prose = text.replace("\n# ", " ");
    let sources = SOURCE.iter().map(|s| (s.key, s.reason));
    for (key, reason) in SETTINGS
        .iter()
        .map(|s| (s.key, s.reason))
        .chain(RULES.iter().map(|s| (s.key, s.reason)))
        .chain(sources)
    {
        assert!(prose.contains(reason), "{key}");
    }
}

#[test]
fn the_schema_knows_every_setting() {
    let schema = schema();
    let below = |schema: &serde_json::Value, key: &str| {
        schema
            .pointer(&format!("/properties/{}", key.replace('.', "/properties/")))
            .is_some_and(|found| found["description"].is_string())
    };
    for setting in SETTINGS {
        assert!(below(&schema, setting.key), "{}", setting.key);
    }
    let rules = &schema["properties"]["namespaces"]["patternProperties"]["^[a-z][a-z0-9_-]{0,31}$"];
    for setting in RULES {
        assert!(below(rules, setting.key), "{}", setting.key);
    }
    let ingest = &schema["properties"]["ingest"]["properties"];
    let source = &ingest["sources"]["patternProperties"]["^[a-z0-9_-]{1,32}$"];
    for setting in SOURCE {
        assert!(below(source, setting.key), "{}", setting.key);
    }
    assert_eq!(schema["properties"]["limits"]["additionalProperties"], false);
    assert_eq!(schema["properties"]["limits"]["properties"]["frame_bytes"]["default"], "64KiB");
}

#[test]
fn the_configuration_document_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let committed = fs::read_to_string(path).unwrap();
    assert!(committed == markdown(), "run: roomcast defaultconfig --markdown > docs/configuration.md");
}

#[test]
fn a_hidden_value_is_told_from_none() {
    let problems = Config::load(&dev().set("api.key", "short")).unwrap_err();
    assert_eq!(problems.0[0].value, Shown::Hidden);
    assert!(problems.to_string().contains("api.key (flag --set) is [not shown]"));
}
