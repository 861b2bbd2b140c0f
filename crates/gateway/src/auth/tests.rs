//! What the verifier promises, rule by rule. Keys are made at test time.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    slice,
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::jwk::Jwk;
use proptest::prelude::*;
use roomcast_protocol::RoomName;
use serde_json::{Value, json};

use super::*;
use crate::config::{Config, JwksSource, Secret, Sources};

const NOW: u64 = 1_700_000_000_000;
const EXP: u64 = NOW / 1_000 + 60;
const KEY: &str = "an-hmac-key-that-is-long-enough-for-anyone";

fn auth(change: impl FnOnce(&mut config::Auth)) -> config::Auth {
    let mut auth = Config::load(&Sources::defaults(true).set("auth.hmac_key", KEY)).unwrap().auth;
    change(&mut auth);
    auth
}

fn hmac_only() -> Verifier {
    Verifier::new(&auth(|_| {})).unwrap()
}

/// A token of any header and claims, signed for real.
fn forge(header: &Value, claims: &Value, algorithm: Algorithm, key: &EncodingKey) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn hs256(claims: &Value) -> String {
    let key = EncodingKey::from_secret(KEY.as_bytes());
    forge(&json!({"alg": "HS256", "typ": "JWT"}), claims, Algorithm::HS256, &key)
}

/// Good claims, and some others.
#[allow(clippy::needless_pass_by_value)] // Reads better where it is called.
fn claims(others: Value) -> Value {
    let mut claims = json!({"sub": "ann", "exp": EXP});
    for (name, value) in others.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn reason(verifier: &Verifier, token: &str) -> Reason {
    match verifier.verify(token, NOW) {
        Err(AuthError::Invalid(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

struct Keys {
    rsa: EncodingKey,
    rsa_public_pem: String,
    ec: EncodingKey,
    ed: EncodingKey,
    rsa_jwk: Value,
    ec_jwk: Value,
    ed_jwk: Value,
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let random = SystemRandom::new();
        let rsa = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let private: aws_lc_rs::encoding::Pkcs8V1Der<'_> = rsa.as_der().unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
        let rsa_public_pem = pem("PUBLIC KEY", public.as_ref());
        let rsa = EncodingKey::from_rsa_pem(pem("PRIVATE KEY", private.as_ref()).as_bytes()).unwrap();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec = EncodingKey::from_ec_der(ec.as_ref());
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let x = URL_SAFE_NO_PAD.encode(Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap().public_key());
        let jwk = |key: &EncodingKey, algorithm, id: &str| {
            let mut jwk = serde_json::to_value(Jwk::from_encoding_key(key, algorithm).unwrap()).unwrap();
            jwk["kid"] = json!(id);
            jwk.as_object_mut().unwrap().remove("alg");
            jwk
        };
        Keys {
            rsa_jwk: jwk(&rsa, Algorithm::RS256, "rsa"),
            ec_jwk: jwk(&ec, Algorithm::ES256, "ec"),
            ed_jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "ed"}),
            rsa,
            rsa_public_pem,
            ec,
            ed: EncodingKey::from_ed_der(ed.as_ref()),
        }
    })
}

fn with_jwks(jwks: &[Value], hmac_key: Option<&str>) -> Verifier {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    fs::write(&path, json!({"keys": jwks}).to_string()).unwrap();
    Verifier::new(&auth(|auth| {
        auth.jwks = Some(JwksSource::File(path));
        auth.hmac_key = hmac_key.map(Secret::new);
    }))
    .unwrap()
}

fn signed(algorithm: Algorithm, id: Option<&str>, key: &EncodingKey) -> String {
    let mut header = json!({"alg": algorithm});
    if let Some(id) = id {
        header["kid"] = json!(id);
    }
    forge(&header, &claims(json!({})), algorithm, key)
}

#[test]
fn a_good_token_says_who_it_is() {
    let token = hs256(&claims(json!({"role": "admin", "rooms": ["event:*"], "info": {"name": "Ann"}})));
    let ann = hmac_only().verify(&token, NOW).unwrap();
    assert_eq!((&*ann.identity.user, ann.identity.role), ("ann", Role::Admin));
    assert!(ann.identity.rooms.unwrap().matches(&RoomName::parse("event:wall").unwrap()));
    assert_eq!(ann.expires_at, EXP * 1_000);
    assert_eq!(ann.info.unwrap().as_str(), r#"{"name":"Ann"}"#);
    let plain = hmac_only().verify(&hs256(&claims(json!({}))), NOW).unwrap();
    assert_eq!((plain.identity.role, plain.identity.rooms, plain.info), (Role::Member, None, None));
}

#[test]
fn what_is_signed_verifies_with_issuer_and_audience() {
    let verifier = Verifier::new(&auth(|auth| {
        auth.issuer = Some("hub".to_owned());
        auth.audience = Some("guests".to_owned());
    }))
    .unwrap();
    let mut new = NewClaims {
        sub: "bob".to_owned(),
        role: Role::Service,
        rooms: Some(vec!["user:*".to_owned()]),
        info: Some(Data::parse("[1]").unwrap()),
        expires_at: NOW + 60_999,
    };
    let token = verifier.sign(&new).unwrap();
    let bob = verifier.verify(&token, NOW).unwrap();
    assert_eq!(
        (&*bob.identity.user, bob.identity.role, bob.expires_at),
        ("bob", Role::Service, NOW + 60_000)
    );
    assert_eq!(reason(&hmac_only(), &token), Reason::Audience);
    new.sub = String::new();
    assert_eq!(verifier.sign(&new), Err(AuthError::Invalid(Reason::Subject)));
    let without = Verifier::new(&auth(|auth| auth.hmac_key = None)).unwrap();
    assert_eq!(without.sign(&new), Err(AuthError::NoSigningKey));
}

#[test]
fn a_token_lives_exactly_until_its_expiry_and_the_leeway() {
    let token = hs256(&claims(json!({})));
    assert!(hmac_only().verify(&token, EXP * 1_000 - 1).is_ok());
    assert_eq!(hmac_only().verify(&token, EXP * 1_000), Err(AuthError::Expired));
    assert_eq!(hmac_only().verify(&token, (EXP + 1) * 1_000), Err(AuthError::Expired));
    let patient = Verifier::new(&auth(|auth| auth.leeway = Duration::from_secs(2))).unwrap();
    assert_eq!(patient.verify(&token, EXP * 1_000).unwrap().expires_at, (EXP + 2) * 1_000);
    assert_eq!(patient.verify(&token, (EXP + 2) * 1_000), Err(AuthError::Expired));
    let fraction = hs256(&claims(json!({"exp": 1_700_000_000.5})));
    assert!(hmac_only().verify(&fraction, NOW + 499).is_ok());
    assert_eq!(hmac_only().verify(&fraction, NOW + 500), Err(AuthError::Expired));
}

#[test]
fn a_token_seen_before_is_held_to_its_expiry_to_its_key_and_to_every_byte() {
    let keys = keys();
    let verifier = with_jwks(std::slice::from_ref(&keys.ec_jwk), None);
    let token = signed(Algorithm::ES256, Some("ec"), &keys.ec);
    let first = verifier.verify(&token, NOW).unwrap();
    assert_eq!(verifier.verify(&token, NOW + 1), Ok(first));
    assert_eq!(verifier.verify(&token, EXP * 1_000), Err(AuthError::Expired));
    let forged = format!("{}AAAAAA", &token[..token.len() - 6]);
    assert_eq!(reason(&verifier, &forged), Reason::Signature);
    assert_eq!(reason(&verifier, &forged), Reason::Signature);
    let rotated = with_jwks(std::slice::from_ref(&keys.ed_jwk), None);
    assert_eq!(reason(&rotated, &token), Reason::UnknownKey);
}

#[test]
fn an_expiry_is_required_and_must_be_seconds() {
    let milliseconds = EXP * 1_000;
    for bad in [
        json!(null),
        json!("soon"),
        json!(EXP.to_string()),
        json!(-1),
        json!(milliseconds),
        json!([EXP]),
        json!(1e300),
    ] {
        assert_eq!(reason(&hmac_only(), &hs256(&claims(json!({"exp": bad})))), Reason::Exp, "{bad}");
    }
    assert_eq!(reason(&hmac_only(), &hs256(&json!({"sub": "ann"}))), Reason::Exp);
}

#[test]
fn a_token_from_the_future_waits() {
    let token = hs256(&claims(json!({"nbf": NOW / 1_000 + 1})));
    assert_eq!(reason(&hmac_only(), &token), Reason::NotYet);
    assert!(hmac_only().verify(&token, NOW + 1_000).is_ok());
    let patient = Verifier::new(&auth(|auth| auth.leeway = Duration::from_secs(1))).unwrap();
    assert!(patient.verify(&token, NOW).is_ok());
    assert_eq!(reason(&hmac_only(), &hs256(&claims(json!({"nbf": "now"})))), Reason::NotYet);
}

#[test]
fn issuer_and_audience_must_be_the_configured_ones() {
    let verifier = Verifier::new(&auth(|auth| {
        auth.issuer = Some("a".to_owned());
        auth.audience = Some("b".to_owned());
    }))
    .unwrap();
    let check =
        |iss: Value, aud: Value| verifier.verify(&hs256(&claims(json!({"iss": iss, "aud": aud}))), NOW);
    assert!(check(json!("a"), json!("b")).is_ok());
    assert!(check(json!("a"), json!(["x", "b"])).is_ok());
    for iss in [json!("x"), json!(null), json!(["a"]), json!("A")] {
        assert_eq!(check(iss.clone(), json!("b")), Err(AuthError::Invalid(Reason::Issuer)), "{iss}");
    }
    for aud in [json!("x"), json!(null), json!([]), json!([["b"]]), json!({"b": 1})] {
        assert_eq!(check(json!("a"), aud.clone()), Err(AuthError::Invalid(Reason::Audience)), "{aud}");
    }
}

#[test]
fn every_other_claim_is_bounded() {
    let long = "x".repeat(129);
    let many = vec!["event:a"; 65];
    for (others, expected) in [
        (json!({"sub": null}), Reason::Subject),
        (json!({"sub": ""}), Reason::Subject),
        (json!({"sub": 7}), Reason::Subject),
        (json!({"sub": long}), Reason::Subject),
        (json!({"sub": "a\nb"}), Reason::Subject),
        (json!({"role": "root"}), Reason::Role),
        (json!({"role": "Admin"}), Reason::Role),
        (json!({"role": 3}), Reason::Role),
        (json!({"rooms": "event:*"}), Reason::Rooms),
        (json!({"rooms": many}), Reason::Rooms),
        (json!({"rooms": ["x".repeat(161)]}), Reason::Rooms),
        (json!({"rooms": [""]}), Reason::Rooms),
        (json!({"rooms": [1]}), Reason::Rooms),
        (json!({"info": "x".repeat(4_095)}), Reason::Info),
    ] {
        assert_eq!(reason(&hmac_only(), &hs256(&claims(others.clone()))), expected, "{others}");
    }
    let most = json!({"sub": "ä".repeat(128), "info": "x".repeat(4_094), "rooms": vec!["e"; 64]});
    assert!(hmac_only().verify(&hs256(&claims(most)), NOW).is_ok());
}

#[test]
fn unsigned_and_altered_tokens_are_refused() {
    let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    for alg in ["none", "None", "NONE", "", "HS1", "RS1", "hs256"] {
        for signature in ["", "e30"] {
            let token = format!("{}.{}.{signature}", part(json!({"alg": alg})), part(claims(json!({}))));
            assert_eq!(reason(&hmac_only(), &token), Reason::Algorithm, "{alg:?}");
        }
    }
    let good = hs256(&claims(json!({})));
    let (rest, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = rest.split_once('.').unwrap();
    let other = part(claims(json!({"role": "admin"})));
    assert_eq!(reason(&hmac_only(), &format!("{header}.{other}.{signature}")), Reason::Signature);
    assert_eq!(reason(&hmac_only(), &format!("{rest}.")), Reason::Signature);
    let wrong_key = EncodingKey::from_secret(b"another key");
    let token = forge(&json!({"alg": "HS256"}), &claims(json!({})), Algorithm::HS256, &wrong_key);
    assert_eq!(reason(&hmac_only(), &token), Reason::Signature);
    let key = EncodingKey::from_secret(KEY.as_bytes());
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = forge(&json!({"alg": algorithm}), &claims(json!({})), algorithm, &key);
        assert!(hmac_only().verify(&token, NOW).is_ok());
        // The header is what is verified, not what was meant.
        let lying = forge(&json!({"alg": "HS256"}), &claims(json!({})), algorithm, &key);
        assert_eq!(reason(&hmac_only(), &lying), Reason::Signature);
    }
}

#[test]
fn unknown_critical_headers_and_long_tokens_are_refused() {
    let key = EncodingKey::from_secret(KEY.as_bytes());
    let header = json!({"alg": "HS256", "crit": ["b64"], "b64": false});
    let token = forge(&header, &claims(json!({})), Algorithm::HS256, &key);
    assert_eq!(reason(&hmac_only(), &token), Reason::Critical);
    assert_eq!(reason(&hmac_only(), &"x".repeat(MAX_TOKEN_BYTES + 1)), Reason::TooLong);
    for bad in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "e30.e30.e30", "ä.ö.ü"] {
        assert_eq!(reason(&hmac_only(), bad), Reason::Malformed, "{bad}");
    }
}

#[test]
fn each_type_of_public_key_verifies_its_own_algorithms() {
    let keys = keys();
    let all = [keys.rsa_jwk.clone(), keys.ec_jwk.clone(), keys.ed_jwk.clone()];
    let verifier = with_jwks(&all, None);
    let rsa = [
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ];
    for algorithm in rsa {
        assert!(verifier.verify(&signed(algorithm, Some("rsa"), &keys.rsa), NOW).is_ok(), "{algorithm:?}");
    }
    assert!(verifier.verify(&signed(Algorithm::ES256, Some("ec"), &keys.ec), NOW).is_ok());
    assert!(verifier.verify(&signed(Algorithm::EdDSA, Some("ed"), &keys.ed), NOW).is_ok());
    // Without an id, the only key that fits.
    let alone = with_jwks(slice::from_ref(&keys.ec_jwk), None);
    assert!(alone.verify(&signed(Algorithm::ES256, None, &keys.ec), NOW).is_ok());
    // A swapped id.
    assert_eq!(reason(&verifier, &signed(Algorithm::RS256, Some("ec"), &keys.rsa)), Reason::Algorithm);
    assert_eq!(reason(&verifier, &signed(Algorithm::RS256, Some("gone"), &keys.rsa)), Reason::UnknownKey);
    let mut twin = keys.ec_jwk.clone();
    twin["kid"] = json!("twin");
    twin["x"] = keys.ed_jwk["x"].clone();
    let twins = with_jwks(&[keys.ec_jwk.clone(), twin], None);
    assert_eq!(reason(&twins, &signed(Algorithm::ES256, Some("twin"), &keys.ec)), Reason::Signature);
    assert_eq!(reason(&twins, &signed(Algorithm::ES256, None, &keys.ec)), Reason::UnknownKey);
}

#[test]
fn no_algorithm_can_be_confused_with_another() {
    let keys = keys();
    let both = with_jwks(slice::from_ref(&keys.rsa_jwk), Some(KEY));
    // The classic: the public key's text as an HMAC secret.
    for secret in
        [keys.rsa_public_pem.clone(), keys.rsa_public_pem.trim().to_owned(), keys.rsa_jwk["n"].to_string()]
    {
        let key = EncodingKey::from_secret(secret.as_bytes());
        for id in [None, Some("rsa")] {
            assert_eq!(reason(&both, &signed(Algorithm::HS256, id, &key)), Reason::Signature);
            let public_only = with_jwks(slice::from_ref(&keys.rsa_jwk), None);
            assert_eq!(reason(&public_only, &signed(Algorithm::HS256, id, &key)), Reason::Algorithm);
        }
    }
    assert_eq!(reason(&hmac_only(), &signed(Algorithm::RS256, Some("rsa"), &keys.rsa)), Reason::Algorithm);
    // A key that names its algorithm takes no other of its type.
    let mut only_ps256 = keys.rsa_jwk.clone();
    only_ps256["alg"] = json!("PS256");
    let strict = with_jwks(&[only_ps256], None);
    assert!(strict.verify(&signed(Algorithm::PS256, Some("rsa"), &keys.rsa), NOW).is_ok());
    assert_eq!(reason(&strict, &signed(Algorithm::RS256, Some("rsa"), &keys.rsa)), Reason::Algorithm);
}

#[test]
fn keys_that_cannot_verify_are_passed_over() {
    let keys = keys();
    let with = |name: &str, value: Value| {
        let mut jwk = keys.rsa_jwk.clone();
        jwk[name] = value;
        jwk
    };
    let secret = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("shared"), "kid": "oct"});
    for bad in [
        secret.clone(),
        with("use", json!("enc")),
        with("key_ops", json!(["encrypt"])),
        with("alg", json!("ES256")),
        with("alg", json!("RSA-OAEP")),
        with("n", json!("not base64!")),
        json!({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}),
        json!("no key"),
    ] {
        let set = keys::KeySet::parse(json!({"keys": [bad]}).to_string().as_bytes());
        assert!(matches!(set, Err(JwksError::NoUsableKey)), "{bad}");
    }
    let verifier = with_jwks(&[secret, keys.ec_jwk.clone()], None);
    let confused = signed(Algorithm::HS256, Some("oct"), &EncodingKey::from_secret(b"shared"));
    assert_eq!(reason(&verifier, &confused), Reason::Algorithm);
    let many = vec![keys.ec_jwk.clone(); 101];
    assert!(matches!(
        keys::KeySet::parse(json!({"keys": many}).to_string().as_bytes()),
        Err(JwksError::TooMany)
    ));
    assert!(matches!(keys::KeySet::parse(b"[]"), Err(JwksError::Malformed)));
}

#[test]
fn a_changed_file_is_read_again_and_a_broken_one_is_not_taken() {
    let keys = keys();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let write = |jwks: &[&Value]| fs::write(&path, json!({"keys": jwks}).to_string()).unwrap();
    write(&[&keys.ec_jwk]);
    let verifier = Verifier::new(&auth(|auth| auth.jwks = Some(JwksSource::File(path.clone())))).unwrap();
    let ec = signed(Algorithm::ES256, Some("ec"), &keys.ec);
    let ed = signed(Algorithm::EdDSA, Some("ed"), &keys.ed);
    assert!(verifier.verify(&ec, NOW).is_ok());
    write(&[&keys.ed_jwk]);
    assert_eq!(verifier.verify(&ed, NOW + 999), Err(AuthError::Invalid(Reason::UnknownKey)));
    assert!(verifier.verify(&ed, NOW + 1_000).is_ok());
    assert_eq!(verifier.verify(&ec, NOW + 1_000), Err(AuthError::Invalid(Reason::UnknownKey)));
    fs::write(&path, "{").unwrap();
    assert!(verifier.verify(&ed, NOW + 2_000).is_ok());
    fs::remove_file(&path).unwrap();
    assert!(verifier.verify(&ed, NOW + 3_000).is_ok());
    write(&[&keys.ec_jwk, &keys.ed_jwk]);
    assert!(verifier.verify(&ec, NOW + 4_000).is_ok());
    let missing = auth(|auth| auth.jwks = Some(JwksSource::File("/nowhere/jwks.json".into())));
    assert!(matches!(Verifier::new(&missing), Err(JwksError::File(_))));
}

/// Serves one text over HTTP and tells about each request.
struct Issuer {
    address: SocketAddr,
    answer: Arc<Mutex<(u16, String)>>,
    requests: tokio::sync::mpsc::UnboundedReceiver<()>,
}

impl Issuer {
    fn start(answer: (u16, String)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(answer));
        let (told, requests) = tokio::sync::mpsc::unbounded_channel();
        let shared = Arc::clone(&answer);
        thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let head = BufReader::new(socket.try_clone().unwrap()).lines();
                let _head: Vec<_> = head.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let (status, body) = shared.lock().unwrap().clone();
                let length = body.len();
                let _gone = write!(
                    socket,
                    "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                if told.send(()).is_err() {
                    return;
                }
            }
        });
        Self { address, answer, requests }
    }

    fn verifier(&self) -> Verifier {
        let url = format!("http://{}/jwks.json", self.address);
        Verifier::new(&auth(|auth| auth.jwks = Some(JwksSource::Url(url)))).unwrap()
    }

    fn answers(&self, status: u16, body: impl Into<String>) {
        *self.answer.lock().unwrap() = (status, body.into());
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.requests.close();
        // Wakes the thread, which finds nobody listening and ends.
        let _gone = TcpStream::connect(self.address).and_then(|mut socket| socket.write_all(b"\r\n\r\n"));
    }
}

fn jwks(keys: &[&Value]) -> String {
    json!({"keys": keys}).to_string()
}

#[tokio::test]
async fn a_rotated_key_is_fetched_once_it_is_seen_and_seldom() {
    let keys = keys();
    let mut issuer = Issuer::start((200, jwks(&[&keys.ec_jwk])));
    let verifier = issuer.verifier();
    let ec = signed(Algorithm::ES256, Some("ec"), &keys.ec);
    let ed = signed(Algorithm::EdDSA, Some("ed"), &keys.ed);
    assert_eq!(verifier.verify(&ec, NOW), Err(AuthError::KeysUnavailable));
    let script = async {
        issuer.requests.recv().await.unwrap();
        until_ok(&verifier, &ec).await;
        issuer.answers(200, jwks(&[&keys.ed_jwk]));
        // Just fetched: an unknown key is nobody's.
        assert_eq!(reason(&verifier, &ed), Reason::UnknownKey);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::time::resume();
        assert_eq!(verifier.verify(&ed, NOW), Err(AuthError::KeysUnavailable));
        assert_eq!(verifier.verify(&ed, NOW), Err(AuthError::KeysUnavailable));
        issuer.requests.recv().await.unwrap();
        until_ok(&verifier, &ed).await;
        assert_eq!(reason(&verifier, &ec), Reason::UnknownKey);
        assert!(issuer.requests.try_recv().is_err(), "one fetch for however many tokens");
    };
    tokio::select! {
        () = verifier.keep_fresh() => panic!("ended"),
        () = script => {}
    }
}

/// The answer is on its way: lets the fetching side run until its keys are there.
async fn until_ok(verifier: &Verifier, token: &str) {
    while verifier.verify(token, NOW).is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn old_keys_stay_when_the_issuer_fails() {
    let keys = keys();
    let issuer = Issuer::start((200, jwks(&[&keys.ec_jwk])));
    let verifier = issuer.verifier();
    let ec = signed(Algorithm::ES256, Some("ec"), &keys.ec);
    assert_eq!(verifier.refresh_keys().await.unwrap(), 1);
    issuer.answers(500, "");
    assert!(matches!(verifier.refresh_keys().await, Err(JwksError::Status(500))));
    issuer.answers(302, "");
    assert!(matches!(verifier.refresh_keys().await, Err(JwksError::Status(302))));
    issuer.answers(200, "<html>");
    assert!(matches!(verifier.refresh_keys().await, Err(JwksError::Malformed)));
    issuer.answers(200, " ".repeat((1 << 20) + 1));
    assert!(matches!(verifier.refresh_keys().await, Err(JwksError::TooLarge)));
    assert!(verifier.verify(&ec, NOW).is_ok());
    let nobody = auth(|auth| auth.jwks = Some(JwksSource::Url("http://127.0.0.1:1/jwks".to_owned())));
    let error = Verifier::new(&nobody).unwrap().refresh_keys().await.unwrap_err();
    assert!(matches!(error, JwksError::Fetch(_)) && !error.to_string().contains("127.0.0.1"), "{error}");
}

proptest! {
    #[test]
    fn garbage_never_panics(token in "\\PC{0,300}") {
        prop_assert!(hmac_only().verify(&token, NOW).is_err());
    }

    #[test]
    fn garbage_in_the_shape_of_a_token_never_panics(header in any::<Vec<u8>>(), body in any::<Vec<u8>>(), now: u64) {
        let token = format!("{}.{}.e30", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
        prop_assert!(hmac_only().verify(&token, now).is_err());
    }

    #[test]
    fn signed_claims_of_any_shape_never_panic(name in "sub|exp|nbf|iss|aud|role|rooms|info", value in "[\\[\\]{}:,\"0-9a-z.eE-]{0,40}", now: u64) {
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        let _any = hmac_only().verify(&hs256(&claims(json!({name: value}))), now);
    }

    #[test]
    fn one_flipped_bit_is_noticed(at in 0_usize..1_000, bit in 0_u8..7) {
        let mut token = hs256(&claims(json!({}))).into_bytes();
        let at = at % token.len();
        token[at] ^= 1 << bit;
        if let Ok(token) = String::from_utf8(token) {
            prop_assert!(hmac_only().verify(&token, NOW).is_err());
        }
    }
}
