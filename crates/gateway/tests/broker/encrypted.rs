//! TLS with an authority of our own, and an ACL user who may do what a node needs and nothing else.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use roomcast_gateway::{broker::BrokerError, config};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    contract,
    server::{RedisServer, free_port},
    world::{World, connect, connect_with, numbered, room, settings},
};

/// The rules that `docs/operations.md` gives; this is where it is shown that they suffice.
fn documented_rules() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let text = std::fs::read_to_string(docs).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("ACL SETUSER roomcast "))
        .expect("the rules are documented");
    line.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_documented_rules_suffice_for_every_promise() {
    let server = std::sync::Arc::new(RedisServer::start(&[]));
    let rules = documented_rules();
    let words: Vec<_> = rules.iter().map(String::as_str).collect();
    assert_eq!(server.command(&words), "+OK\r\n");
    let password = rules.iter().find_map(|rule| rule.strip_prefix('>')).unwrap();
    let url = format!("redis://roomcast:{password}@127.0.0.1:{}", server.port);
    contract::all(|_| {
        assert_eq!(server.command(&["FLUSHALL"]), "+OK\r\n");
        let server = server.clone();
        World::Elsewhere(
            settings(&url),
            Box::new(move || assert_eq!(server.command(&["FLUSHALL"]), "+OK\r\n")),
        )
    })
    .await;
    let elsewhere = config::Redis { prefix: "other".to_owned(), ..settings(&url) };
    let denied = connect_with(&elsewhere, "a", &TaskTracker::new(), &CancellationToken::new()).await;
    assert!(matches!(denied, Err(BrokerError::Denied(_))), "{denied:?}");
}

/// An authority and a certificate for 127.0.0.1, in files.
fn certificates(directory: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "a test's authority");
    let authority_key = KeyPair::generate().unwrap();
    let authority_certificate = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
    for (name, text) in [
        ("ca.pem", authority_certificate.pem()),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
    ] {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

#[tokio::test]
async fn tls_with_a_private_authority() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let path = |name: &str| directory.path().join(name).display().to_string();
    let port = free_port();
    let (number, authority, certificate, key) =
        (port.to_string(), path("ca.pem"), path("cert.pem"), path("key.pem"));
    let _server = RedisServer::start(&[
        "--tls-port",
        &number,
        "--tls-ca-cert-file",
        &authority,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://127.0.0.1:{port}");
    let untrusted = connect(&url, "a").await;
    assert!(
        matches!(untrusted, Err(BrokerError::Unavailable { .. } | BrokerError::Denied(_))),
        "{untrusted:?}"
    );
    let trusted = config::Redis { ca_file: Some(directory.path().join("ca.pem")), ..settings(&url) };
    let world = World::Elsewhere(trusted, Box::new(|| {}));
    let mut node = world.node("a").await;
    node.broker.subscribe(&room("event:wall")).await.unwrap();
    assert_eq!(node.publish(&room("event:wall"), 7).await, 1);
    assert_eq!(node.event().await, (7, 1));
    let by_name = config::Redis {
        ca_file: Some(directory.path().join("ca.pem")),
        ..settings(&format!("rediss://localhost:{port}"))
    };
    let broker = connect_with(&by_name, "b", &TaskTracker::new(), &CancellationToken::new()).await.unwrap();
    assert_eq!(broker.publish(&numbered(&room("event:wall"), 8)).await.unwrap().position.offset.0, 2);
}
