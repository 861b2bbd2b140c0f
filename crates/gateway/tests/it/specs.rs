//! The descriptions for programs in docs/api, held against the code that they describe.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use roomcast_protocol::{CloseCode, ErrorCode, OpKind, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK};
use serde_json::{Value, json};

use crate::support::{Api, TestNode};

fn described(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api").join(file)
}

fn read(file: &str) -> Value {
    let text = fs::read_to_string(described(file)).unwrap_or_else(|error| panic!("docs/api/{file}: {error}"));
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("docs/api/{file}: {error}"))
}

fn names(object: &Value) -> BTreeSet<String> {
    object.as_object().expect("an object").keys().cloned().collect()
}

/// Every `METHOD path` of the `OpenAPI` description.
fn described_routes(api: &Value) -> BTreeSet<String> {
    let methods = ["get", "put", "post", "delete", "patch"];
    let paths = api["paths"].as_object().expect("paths");
    paths
        .iter()
        .flat_map(|(path, item)| {
            methods.iter().filter(|method| item.get(**method).is_some()).map(move |m| format!("{m} {path}"))
        })
        .collect()
}

/// Every `METHOD path` that stands in a call of `route` with its path spelled out. Other calls take their path from
/// the embedded files.
fn coded_routes(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("the sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            coded_routes(&path, found);
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        for call in text.split(".route(").skip(1) {
            let Some(rest) = call.trim_start().strip_prefix('"') else { continue };
            let (route, rest) = rest.split_once('"').expect("the path ends");
            let methods = arguments(rest);
            for method in ["get", "put", "post", "delete", "patch"] {
                let starts = |at: usize| !methods[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                if methods.match_indices(&format!("{method}(")).any(|(at, _)| starts(at)) {
                    found.insert(format!("{method} {route}"));
                }
            }
        }
    }
}

/// What stands before the bracket that closes the call.
fn arguments(text: &str) -> &str {
    let mut depth = 1;
    let end = text.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    &text[..end.expect("the call ends")]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_http_surface_is_described_whole_and_nothing_else_is() {
    let api = read("openapi.yaml");
    let shop = [("ingest.sources.shop.room", "event:wall"), ("ingest.sources.shop.event", "order")];
    let node = TestNode::alone(&shop).await;
    let mut caller = Api::new(node.internal);
    let mut coded = BTreeSet::new();
    for sources in ["src/http", "src/ingest"] {
        coded_routes(&Path::new(env!("CARGO_MANIFEST_DIR")).join(sources), &mut coded);
    }
    // One route for many operations; which of them are served, only a node can tell.
    assert!(coded.remove("post /api/v1/{op}"), "the operations are served in another way");
    for op in OpKind::ALL {
        let path = format!("/api/v1/{}", op.as_str());
        let reply = caller.post(&path, &json!({})).await;
        // 405: another method has this address, and the operation none.
        if !matches!(reply.status, 404 | 405) {
            coded.insert(format!("post {path}"));
        }
    }
    for path in ["/", "/admin", "/client.js"] {
        assert!(roomcast_web::asset(path).is_some(), "{path}");
        coded.insert(format!("get {path}"));
    }
    coded.insert("get /ws".to_owned());
    let described = described_routes(&api);
    assert_eq!(described, coded, "docs/api/openapi.yaml (left) and the code (right) differ");
    // Described under the right method, and behind the bearer where it says so.
    // What an address may name is there, in a room that no other route ends.
    let comment = json!({ "user": "ann", "room": "event:kept", "target": "p/1", "text": "hello" });
    let comment = caller.ok("/api/v1/comment", &comment).await["comment"].as_str().expect("an id").to_owned();
    let mut stranger = Api::with_bearer(node.internal, None);
    for route in described.iter().filter(|route| route.contains(" /api/")) {
        let (method, path) = route.split_once(' ').expect("method and path");
        let room = if path.contains("{comment}") { "event:kept" } else { "event:wall" };
        let path = path.replace("{room}", room).replace("{comment}", &comment).replace("{source}", "shop");
        let body = (method != "get").then_some(&b"{}"[..]);
        let method = method.to_uppercase();
        assert_eq!(stranger.send(&method, &path, &[], body).await.status, 401, "{route}");
        let reply = caller.send(&method, &path, &[], body).await;
        assert!(!matches!(reply.status, 404 | 405 | 500..), "{route}: {}", reply.text());
    }
    node.stop().await;
}

#[test]
fn the_operations_of_the_socket_are_described_whole() {
    let api = read("asyncapi.yaml");
    let operations = api["operations"].as_object().expect("operations");
    let received: BTreeSet<&str> = operations
        .iter()
        .filter(|(_, operation)| operation["action"] == "receive")
        .map(|(name, _)| name.as_str())
        .collect();
    let coded: BTreeSet<&str> = OpKind::ALL.iter().map(|op| op.as_str()).collect();
    assert_eq!(received, coded);
    for op in coded {
        let schema = &api["components"]["schemas"][format!("op.{op}")];
        assert_eq!(schema["properties"]["op"]["const"], op, "the schema of {op}");
    }
    let offered =
        &api["channels"]["socket"]["bindings"]["ws"]["headers"]["properties"]["Sec-WebSocket-Protocol"];
    assert_eq!(offered["enum"], json!([SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK]));
}

/// The golden vectors hold every push there is; the protocol's own tests see to that.
#[test]
fn the_pushes_are_described_whole() {
    let api = read("asyncapi.yaml");
    let vectors: Vec<Value> =
        serde_json::from_str(include_str!("../../../protocol/vectors/frames.json")).expect("the vectors");
    let coded: BTreeSet<String> = vectors
        .iter()
        .filter_map(|vector| vector["name"].as_str()?.strip_prefix("push/")?.split('/').next())
        .map(|kind| format!("push.{kind}"))
        .collect();
    let operations = api["operations"].as_object().expect("operations");
    let sent = operations.iter().filter(|(_, operation)| operation["action"] == "send");
    let sent: BTreeSet<String> = sent.map(|(name, _)| name.clone()).collect();
    assert_eq!(sent, coded);
}

#[test]
fn errors_and_close_codes_are_described_as_they_are() {
    let api = read("asyncapi.yaml");
    let errors: BTreeMap<String, u64> = serde_json::from_value(api["x-errors"].clone()).expect("the errors");
    let coded = ErrorCode::ALL.iter().map(|code| (code.as_str().to_owned(), u64::from(code.status())));
    assert_eq!(errors, coded.collect());
    let listed = api["components"]["schemas"]["ErrorCode"]["enum"].as_array().expect("a list");
    let listed: BTreeSet<String> = listed.iter().filter_map(|code| Some(code.as_str()?.to_owned())).collect();
    assert_eq!(listed, errors.keys().cloned().collect());
    let closes = &api["x-close-codes"];
    let coded: BTreeSet<String> = CloseCode::ALL.iter().map(|close| close.code().to_string()).collect();
    assert_eq!(names(closes), coded);
    for close in CloseCode::ALL {
        let described = &closes[close.code().to_string()];
        let coded = json!({ "reason": close.reason(), "reconnect": close.may_reconnect() });
        assert_eq!(described, &coded, "{}", close.code());
    }
}

/// To rewrite the file after a change that is meant: `UPDATE_SCHEMA=1 cargo test -p roomcast-gateway --test it specs`.
#[test]
fn the_schema_of_the_configuration_is_the_one_in_the_binary() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roomcast"));
    let output = command.args(["defaultconfig", "--schema"]).env_clear().output().expect("the binary runs");
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let file = described("config.schema.json");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&file, &printed).expect("the file can be written");
    }
    let kept = fs::read_to_string(&file).expect("docs/api/config.schema.json");
    assert!(
        kept == printed,
        "docs/api/config.schema.json is not what the binary prints; see UPDATE_SCHEMA here"
    );
}
