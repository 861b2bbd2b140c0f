//! The command line as a user sees it: exit codes, what is printed where, and no secret anywhere.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::{Command, Output},
    thread,
};

use roomcast_gateway::{
    auth::{Verifier, unix_ms},
    config::{Config, Sources},
};

const KEY: &str = "an-hmac-key-that-is-long-enough-for-anyone";
const REDIS: &str = "redis://:hunter2@127.0.0.1:1";

/// Runs the binary with nothing in its environment but this.
fn roomcast(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    command.args(arguments).env_clear().envs(env.iter().copied()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_bad_configuration_stops_the_start_with_78_and_every_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("roomcast.toml");
    std::fs::write(&path, "[limits]\nframe_bites = 1\n").unwrap();
    for command in ["serve", "checkconfig"] {
        let output = roomcast(
            &[
                command,
                "--config",
                path.to_str().unwrap(),
                "--set",
                "limits.frames_burst=0",
                "--workers",
                "none",
            ],
            &[("ROOMCAST_AUTH__HMAC_KEY", "hunter2"), ("ROOMCAST_NO__SUCH", "hunter2"), ("HOME", "/")],
        );
        assert_eq!(output.status.code(), Some(78));
        let told = stderr(&output);
        assert!(stdout(&output).is_empty());
        assert!(told.starts_with("error: 6 configuration problems:"), "{told}");
        for part in [
            "limits.frame_bites (file ",
            "did you mean limits.frame_bytes?",
            "no.such (environment ROOMCAST_NO__SUCH)",
            "limits.frames_burst (flag --set) is \"0\"",
            "workers (flag --workers) is \"none\"",
            "auth.hmac_key (environment ROOMCAST_AUTH__HMAC_KEY) is [not shown]: expected at least 32 bytes",
            "redis.url (not set): expected",
        ] {
            assert!(told.contains(part), "{part}\n{told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn a_good_configuration_is_told_and_its_secrets_are_not() {
    let env = [("ROOMCAST_AUTH__HMAC_KEY", KEY), ("ROOMCAST_REDIS__URL", REDIS)];
    let output = roomcast(&["checkconfig"], &env);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "the configuration is valid\n");
    let output = roomcast(&["checkconfig", "--dev", "--connect"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = roomcast(&["checkconfig", "--connect"], &env);
    assert_eq!(output.status.code(), Some(1));
    let told = stdout(&output) + &stderr(&output);
    assert!(told.contains("redis.url: ") && !told.contains("hunter2") && !told.contains(KEY), "{told}");
}

#[test]
fn checkconfig_reaches_the_public_keys() {
    let nobody = ["checkconfig", "--dev", "--connect", "--set", "auth.jwks=http://127.0.0.1:1/jwks.json"];
    let output = roomcast(&nobody, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("auth.jwks: the JWKS can't be fetched"), "{}", stderr(&output));
    let jwks =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let (address, server) = answer_once(200, jwks);
    let url = format!("auth.jwks=http://{address}/jwks.json");
    let output = roomcast(&["checkconfig", "--dev", "--connect", "--set", &url], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("auth.jwks: 1 usable keys"));
    assert_eq!(server.join().unwrap(), "GET /jwks.json HTTP/1.1");
}

#[test]
fn the_default_configuration_loads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("roomcast.toml");
    let output = roomcast(&["defaultconfig"], &[]);
    assert_eq!(output.status.code(), Some(0));
    std::fs::write(&path, &output.stdout).unwrap();
    let path = path.to_str().unwrap();
    let env = [("ROOMCAST_AUTH__HMAC_KEY", KEY), ("ROOMCAST_REDIS__URL", REDIS)];
    for (arguments, env) in [
        (&["checkconfig", "--config", path][..], &env[..]),
        (&["checkconfig", "--dev", "--config", path], &[]),
    ] {
        let output = roomcast(arguments, env);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
}

#[test]
fn the_schema_is_json_and_the_markdown_is_the_document() {
    let schema: serde_json::Value =
        serde_json::from_slice(&roomcast(&["defaultconfig", "--schema"], &[]).stdout).unwrap();
    assert_eq!(schema["properties"]["listen"]["type"], "string");
    assert!(stdout(&roomcast(&["defaultconfig", "--markdown"], &[])).starts_with("# Configuration\n"));
}

#[test]
fn a_token_is_signed_with_the_configured_key() {
    let arguments = [
        "gentoken",
        "--sub",
        "alice",
        "--role",
        "admin",
        "--ttl",
        "1h",
        "--rooms",
        "event:*",
        "--info",
        "{\"n\":1}",
    ];
    let output = roomcast(&arguments, &[("ROOMCAST_AUTH__HMAC_KEY", KEY)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).is_empty());
    let token = stdout(&output);
    let token = token.strip_suffix('\n').unwrap();
    let sources = |key| Sources::defaults(true).set("auth.hmac_key", key);
    let verifier = Verifier::new(&Config::load(&sources(KEY)).unwrap().auth).unwrap();
    let alice = verifier.verify(token, unix_ms()).unwrap();
    assert_eq!((&*alice.identity.user, alice.identity.role.as_str()), ("alice", "admin"));
    assert!(alice.identity.rooms.is_some());
    assert_eq!(alice.info.unwrap().as_str(), "{\"n\":1}");
    let left = alice.expires_at - unix_ms();
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    let other = Verifier::new(&Config::load(&sources(&KEY.to_uppercase())).unwrap().auth).unwrap();
    assert!(other.verify(token, unix_ms()).is_err());
}

#[test]
fn without_a_key_there_is_no_token() {
    for arguments in [&["gentoken", "--sub", "a"][..], &["gentoken", "--dev", "--sub", "a"]] {
        let output = roomcast(arguments, &[]);
        assert_eq!(output.status.code(), Some(78));
        assert!(stdout(&output).is_empty() && stderr(&output).contains("ROOMCAST_AUTH__HMAC_KEY"));
    }
    let output = roomcast(&["gentoken", "--sub", ""], &[("ROOMCAST_AUTH__HMAC_KEY", KEY)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("sub"), "{}", stderr(&output));
    let output = roomcast(&["gentoken", "--sub", "a", "--role", "root"], &[("ROOMCAST_AUTH__HMAC_KEY", KEY)]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_health_check_is_0_when_ready_and_1_for_anything_else() {
    for (status, expected) in [(200, 0), (503, 1), (404, 1)] {
        let (address, server) = answer_once(status, "");
        let output = roomcast(&["healthcheck", "--set", &format!("internal.listen={address}")], &[]);
        assert_eq!(output.status.code(), Some(expected), "{}", stderr(&output));
        assert_eq!(server.join().unwrap(), "GET /readyz HTTP/1.1");
    }
    let nobody = roomcast(&["healthcheck", "--set", "internal.listen=127.0.0.1:1"], &[]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("http://127.0.0.1:1/readyz"));
    let bad = roomcast(&["healthcheck", "--set", "internal.listen=here"], &[]);
    assert_eq!(bad.status.code(), Some(1));
}

#[test]
fn help_shows_examples() {
    for command in ["serve", "checkconfig", "defaultconfig", "gentoken", "healthcheck"] {
        let output = roomcast(&[command, "--help"], &[]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains(&format!("Examples:\n  roomcast {command}")), "{command}");
    }
    assert_eq!(roomcast(&["serve", "--nonsense"], &[]).status.code(), Some(2));
}

/// Answers one request, and tells its first line.
fn answer_once(status: u16, body: &'static str) -> (std::net::SocketAddr, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let head = BufReader::new(socket.try_clone().unwrap()).lines();
        let head: Vec<_> = head.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        // Who has read the status may hang up before the rest is written.
        let _hung_up = socket.write_all(answer.as_bytes());
        head.first().cloned().unwrap_or_default()
    });
    (address, server)
}
