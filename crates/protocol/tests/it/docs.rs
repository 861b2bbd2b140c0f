//! `docs/protocol.md` says what the code does: its tables row by row, its examples frame by frame.

use std::collections::{BTreeMap, BTreeSet};

use roomcast_protocol::{
    CloseCode, Codec, ErrorCode, Incoming, Message, OpKind, PushClass, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK,
    ServerFrame,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::samples;

const DOCS: &str = include_str!("../../../../docs/protocol.md");

/// The rows of the table with exactly this head, as trimmed cells.
fn table(head: &[&str]) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Option<Vec<String>> {
        let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
    };
    let mut lines = DOCS.lines().skip_while(|line| cells(line).is_none_or(|cells| cells != head));
    assert!(lines.next().is_some(), "docs/protocol.md has no table {head:?}");
    let rows: Vec<_> = lines.skip(1).map_while(cells).collect();
    assert!(rows.iter().all(|row| row.len() == head.len()), "a row of {head:?} has another width");
    rows
}

fn name(cell: &str) -> &str {
    cell.strip_prefix('`')
        .and_then(|cell| cell.strip_suffix('`'))
        .unwrap_or_else(|| panic!("no name: {cell}"))
}

/// Field names and whether each may be absent, from a cell like "`room`, `key`?".
fn documented(cell: &str) -> BTreeMap<String, bool> {
    let fields: Vec<_> = cell.split(',').map(str::trim).filter(|field| !field.is_empty()).collect();
    let parsed: BTreeMap<_, _> = fields
        .iter()
        .map(|field| match field.strip_suffix('?') {
            Some(field) => (name(field).to_owned(), true),
            None => (name(field).to_owned(), false),
        })
        .collect();
    assert_eq!(parsed.len(), fields.len(), "a field twice: {cell}");
    parsed
}

/// The same from all samples of one kind: a field that some of them lack may be absent.
fn written(objects: &[Map<String, Value>]) -> BTreeMap<String, bool> {
    let all: BTreeSet<&String> = objects.iter().flat_map(Map::keys).collect();
    all.into_iter()
        .map(|field| (field.clone(), objects.iter().any(|object| !object.contains_key(field))))
        .collect()
}

fn object<T: Serialize>(value: &T, without: &[&str]) -> Map<String, Value> {
    let text = Codec::json().payload(value).expect("encodes");
    let mut object: Map<String, Value> = serde_json::from_slice(&text).expect("an object");
    for field in without {
        assert!(object.remove(*field).is_some(), "{field} is missing");
    }
    object
}

#[test]
fn every_op_stands_in_the_table_with_its_fields_and_its_answer() {
    let rows = table(&["op", "fields", "ok"]);
    let documented_ops: Vec<_> = rows.iter().map(|row| name(&row[0])).collect();
    let ops: Vec<_> = OpKind::ALL.iter().map(|op| op.as_str()).collect();
    assert_eq!(documented_ops, ops);
    let client = samples::client();
    let server = samples::server();
    for row in &rows {
        let op = name(&row[0]);
        let frames: Vec<_> = client
            .iter()
            .filter(|(_, frame)| frame.id.is_some() && frame.op.kind().as_str() == op)
            .map(|(_, frame)| object(frame, &["id", "op"]))
            .collect();
        assert_eq!(documented(&row[1]), written(&frames), "fields of {op}");
        let answers: Vec<_> = server
            .iter()
            .filter(|(name, _)| name.strip_prefix("ok/").and_then(|rest| rest.split('/').next()) == Some(op))
            .map(|(name, frame)| match frame {
                ServerFrame::Ok { ok, .. } => object(ok, &[]),
                other => panic!("{name} is no answer: {other:?}"),
            })
            .collect();
        assert!(!answers.is_empty(), "no sample of an answer to {op}");
        assert_eq!(documented(&row[2]), written(&answers), "ok of {op}");
    }
}

#[test]
fn every_push_stands_in_the_table_with_its_fields_and_its_class() {
    let rows = table(&["push", "fields", "class"]);
    let pushes: Vec<_> = samples::server()
        .into_iter()
        .filter_map(|(_, frame)| match frame {
            ServerFrame::Push(push) => Some(push),
            _ => None,
        })
        .collect();
    let documented_pushes: BTreeSet<_> = rows.iter().map(|row| name(&row[0])).collect();
    assert_eq!(documented_pushes.len(), rows.len(), "a push twice");
    assert_eq!(documented_pushes, pushes.iter().map(samples::push_name).collect());
    for row in &rows {
        let of_kind: Vec<_> =
            pushes.iter().filter(|push| samples::push_name(push) == name(&row[0])).collect();
        let objects: Vec<_> = of_kind.iter().map(|push| object(push, &["push"])).collect();
        assert_eq!(documented(&row[1]), written(&objects), "fields of {}", row[0]);
        for push in of_kind {
            let class = match push.class() {
                PushClass::MustDeliver => "must-deliver",
                PushClass::Conflated => "conflated",
                PushClass::Fleeting => "fleeting",
            };
            assert_eq!(row[2], class, "class of {}", row[0]);
        }
    }
}

#[test]
fn every_error_stands_in_the_table_with_its_status() {
    let rows = table(&["code", "status", "means"]);
    let documented: Vec<_> = rows.iter().map(|row| (name(&row[0]).to_owned(), row[1].clone())).collect();
    let codes: Vec<_> =
        ErrorCode::ALL.iter().map(|code| (code.as_str().to_owned(), code.status().to_string())).collect();
    assert_eq!(documented, codes);
    assert!(rows.iter().all(|row| !row[2].is_empty()));
}

#[test]
fn every_close_code_stands_in_the_table_with_its_reason_and_whether_one_may_come_back() {
    let documented = table(&["code", "reason", "reconnect"]);
    let codes: Vec<_> = CloseCode::ALL
        .iter()
        .map(|close| {
            let reconnect = if close.may_reconnect() { "yes" } else { "no" };
            vec![close.code().to_string(), close.reason().to_owned(), reconnect.to_owned()]
        })
        .collect();
    assert_eq!(documented, codes);
}

#[test]
fn both_subprotocols_stand_in_the_table() {
    let rows = table(&["subprotocol", "one frame is"]);
    let names: Vec<_> = rows.iter().map(|row| name(&row[0])).collect();
    assert_eq!(names, [SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK]);
}

#[test]
fn every_example_is_a_frame_that_can_be_read() {
    let mut examples = 0;
    // Each block is a dialogue on one connection, so ids rise within it.
    for block in DOCS.split("```text\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        let mut codec = Codec::json();
        for line in block.lines() {
            if let Some(frame) = line.strip_prefix("→ ") {
                let read = codec.decode(Message::Text(frame));
                assert!(read.is_ok(), "{frame}: {read:?}");
            } else if let Some(frame) = line.strip_prefix("← ") {
                let read = Incoming::decode(Message::Text(frame));
                assert!(read.is_ok(), "{frame}: {read:?}");
            } else {
                panic!("neither sent nor received: {line}");
            }
            examples += 1;
        }
    }
    assert!(examples >= 20, "only {examples} examples");
}
