//! One frame of every kind, with every field that it can have, and one with as few as it may have.

use roomcast_protocol::{
    Audit, AuditEntry, Claim, ClientFrame, ClusterStats, Comment, Confirm, Connect, Connected, Count,
    CounterValue, Data, Disconnect, DocGet, DocPut, Drain, Epoch, ErrorCode, Event, Failure, History, Join,
    Joined, Leave, Like, LimitsInfo, Member, Moderate, Offset, Ok, Op, PendingComment, Ping, Presence,
    PresenceCount, Publish, Push, Queue, Refresh, Release, Reserve, RoomName, ServerFrame, Shed, Signal,
    Since, Stats, Upload,
};

const AT: u64 = 1_767_225_600_000;
const EVERY_KIND_OF_VALUE: &str = r#"{"text":"ä \"quoted\" \\ \u0001 😀","n":[0,-1,127,128,-129,65536,4294967296,9007199254740991],"f":1.5,"yes":true,"no":false,"nothing":null,"empty":{},"list":[]}"#;

fn room() -> RoomName {
    RoomName::parse("event:wall").expect("a room")
}

fn data(json: &str) -> Data {
    Data::parse(json).expect("JSON")
}

fn epoch() -> Epoch {
    Epoch::new("0123456789abcdef")
}

fn since() -> Since {
    Since { epoch: epoch(), offset: Offset(41) }
}

fn text(text: &str) -> String {
    text.to_owned()
}

/// Frames of a client: `(name, frame)`; the name starts with the op.
pub(crate) fn client() -> Vec<(&'static str, ClientFrame)> {
    let ops: Vec<(&'static str, Op)> = vec![
        ("connect", Op::Connect(Connect { token: None, ticket: None, guest: None })),
        ("connect/token", Op::Connect(Connect { token: Some(text("a.b.c")), ticket: None, guest: None })),
        ("connect/ticket", Op::Connect(Connect { token: None, ticket: Some(text("t-1")), guest: None })),
        ("connect/guest", Op::Connect(Connect { token: None, ticket: None, guest: Some(text("s3cret")) })),
        ("refresh", Op::Refresh(Refresh { token: text("a.b.c") })),
        ("join", Op::Join(Join { room: room(), since: None, recent: None })),
        ("join/since", Op::Join(Join { room: room(), since: Some(since()), recent: None })),
        ("join/recent", Op::Join(Join { room: room(), since: None, recent: Some(20) })),
        ("leave", Op::Leave(Leave { room: room() })),
        (
            "publish",
            Op::Publish(Publish {
                room: room(),
                event: text("photo"),
                data: data(EVERY_KIND_OF_VALUE),
                key: Some(text("k-1")),
            }),
        ),
        (
            "publish/bare",
            Op::Publish(Publish { room: room(), event: text("photo"), data: Data::null(), key: None }),
        ),
        ("signal", Op::Signal(Signal { room: room(), event: text("typing"), data: data("true") })),
        ("history", Op::History(History { room: room(), since: None, before: None, limit: Some(50) })),
        (
            "history/since",
            Op::History(History { room: room(), since: Some(since()), before: None, limit: None }),
        ),
        (
            "history/before",
            Op::History(History { room: room(), since: None, before: Some(41), limit: Some(50) }),
        ),
        ("presence", Op::Presence(Presence { room: room(), cursor: Some(text("alice")), limit: Some(100) })),
        ("presence/bare", Op::Presence(Presence { room: room(), cursor: None, limit: None })),
        ("ping", Op::Ping(Ping {})),
        ("like", Op::Like(Like { room: room(), target: text("photo-1"), on: true })),
        (
            "count",
            Op::Count(Count {
                room: room(),
                target: text("photo-1"),
                counter: text("download"),
                by: 3,
                key: Some(text("k-2")),
            }),
        ),
        (
            "comment",
            Op::Comment(Comment {
                room: room(),
                target: text("photo-1"),
                text: text("Schön! 😀"),
                key: Some(text("k-3")),
            }),
        ),
        (
            "count/bare",
            Op::Count(Count {
                room: room(),
                target: text("photo-1"),
                counter: text("view"),
                by: 1,
                key: None,
            }),
        ),
        (
            "comment/bare",
            Op::Comment(Comment { room: room(), target: text("photo-1"), text: text("Hm."), key: None }),
        ),
        (
            "upload/bare",
            Op::Upload(Upload {
                room: room(),
                target: text("photo-2"),
                state: text("started"),
                progress: None,
            }),
        ),
        (
            "moderate",
            Op::Moderate(Moderate {
                room: room(),
                comment: text("c-1"),
                decision: text("approve"),
                version: 1,
            }),
        ),
        (
            "upload",
            Op::Upload(Upload {
                room: room(),
                target: text("photo-2"),
                state: text("progress"),
                progress: Some(40),
            }),
        ),
        (
            "reserve",
            Op::Reserve(Reserve { room: room(), item: text("print-a3"), quantity: 2, key: text("k-4") }),
        ),
        ("confirm", Op::Confirm(Confirm { reservation: text("r-1") })),
        ("release", Op::Release(Release { reservation: text("r-1") })),
        ("claim", Op::Claim(Claim { scope: text("slug"), name: text("summer-party") })),
        (
            "put",
            Op::Put(DocPut {
                room: room(),
                doc: text("settings"),
                value: data(r#"{"theme":"dark"}"#),
                version: 0,
            }),
        ),
        ("get", Op::Get(DocGet { room: room(), doc: text("settings") })),
        ("stats", Op::Stats(Stats {})),
        ("queue", Op::Queue(Queue { room: Some(room()), cursor: Some(text("c-1")), limit: Some(50) })),
        ("queue/bare", Op::Queue(Queue { room: None, cursor: None, limit: None })),
        ("audit", Op::Audit(Audit { before: Some(41), limit: Some(50) })),
        ("audit/bare", Op::Audit(Audit { before: None, limit: None })),
        ("drain", Op::Drain(Drain { node: text("a") })),
        ("shed", Op::Shed(Shed { node: text("a"), share: Some(0.25), count: None, spread_ms: Some(30_000) })),
        ("shed/count", Op::Shed(Shed { node: text("a"), share: None, count: Some(500), spread_ms: None })),
        ("disconnect", Op::Disconnect(Disconnect { user: Some(text("mallory")), session: None, ip: None })),
        (
            "disconnect/all",
            Op::Disconnect(Disconnect {
                user: None,
                session: Some(text("s-1")),
                ip: Some(text("192.0.2.7")),
            }),
        ),
    ];
    let mut frames: Vec<_> =
        ops.into_iter().map(|(name, op)| (name, ClientFrame { id: Some(7), op })).collect();
    frames.push(("ping/without-id", ClientFrame { id: None, op: Op::Ping(Ping {}) }));
    frames.push(("ping/largest-id", ClientFrame { id: Some((1 << 53) - 1), op: Op::Ping(Ping {}) }));
    frames
}

fn event(offset: u64) -> Event {
    Event {
        event: text("photo"),
        data: data(r#"{"src":"1.jpg"}"#),
        offset: Offset(offset),
        at: AT,
        from: Some(text("alice")),
    }
}

fn likes() -> CounterValue {
    CounterValue { target: text("photo-1"), counter: text("like"), value: 12, version: 14 }
}

fn answers() -> Vec<(&'static str, Ok)> {
    vec![
        (
            "ok/connect",
            Ok::Connected(Box::new(Connected {
                session: text("s-1"),
                user: text("alice"),
                role: text("member"),
                guest: None,
                expires_at: Some(AT + 3_600_000),
                ping_ms: 25_000,
                node: text("a"),
                limits: LimitsInfo {
                    frame_bytes: Some(65_536),
                    frames_per_second: Some(20),
                    frames_burst: Some(60),
                    counter_ops_per_minute: Some(60),
                    rooms_per_socket: Some(64),
                },
            })),
        ),
        (
            "ok/connect/guest",
            Ok::Connected(Box::new(Connected {
                session: text("s-2"),
                user: text("guest-5f2a"),
                role: text("guest"),
                guest: Some(text("s3cret")),
                expires_at: None,
                ping_ms: 25_000,
                node: text("a"),
                limits: LimitsInfo::default(),
            })),
        ),
        ("ok/refresh", Ok::Refreshed { expires_at: AT + 3_600_000 }),
        (
            "ok/join",
            Ok::Joined(Box::new(Joined {
                epoch: epoch(),
                offset: Offset(42),
                recovered: true,
                events: vec![Event { from: None, ..event(41) }, event(42)],
                presence: PresenceCount { connections: 3, users: 2 },
                counts: vec![likes()],
            })),
        ),
        (
            "ok/join/not-recovered",
            Ok::Joined(Box::new(Joined {
                epoch: epoch(),
                offset: Offset(0),
                recovered: false,
                events: Vec::new(),
                presence: PresenceCount { connections: 1, users: 1 },
                counts: Vec::new(),
            })),
        ),
        ("ok/leave", Ok::Empty {}),
        ("ok/publish", Ok::Published { epoch: epoch(), offset: Offset(43), duplicate: false }),
        ("ok/publish/duplicate", Ok::Published { epoch: epoch(), offset: Offset(43), duplicate: true }),
        ("ok/signal", Ok::Empty {}),
        ("ok/history", Ok::History { epoch: epoch(), offset: Offset(42), events: vec![event(42)] }),
        (
            "ok/presence",
            Ok::Presence {
                connections: 3,
                users: 2,
                members: vec![Member { user: text("alice"), connections: 2 }],
                cursor: Some(text("alice")),
            },
        ),
        (
            "ok/presence/last-page",
            Ok::Presence { connections: 0, users: 0, members: Vec::new(), cursor: None },
        ),
        ("ok/ping", Ok::Pong { now: AT }),
        ("ok/like", Ok::Like { value: 12, on: true, version: 14 }),
        ("ok/count", Ok::Count { value: 300, version: 280 }),
        ("ok/moderate", Ok::Moderated { state: text("approved"), version: 2 }),
        ("ok/upload", Ok::Uploaded { state: text("progress"), progress: 40 }),
        ("ok/reserve", Ok::Reserved { reservation: text("r-1"), remaining: 8, expires_at: AT + 60_000 }),
        ("ok/confirm", Ok::Settled { state: text("confirmed"), remaining: 8 }),
        ("ok/release", Ok::Settled { state: text("released"), remaining: 10 }),
        ("ok/claim", Ok::Claimed { scope: text("slug"), name: text("summer-party") }),
        ("ok/put", Ok::Put { version: 1 }),
        ("ok/get", Ok::Doc { value: data(r#"{"theme":"dark"}"#), version: 1 }),
        (
            "ok/stats",
            Ok::Stats(Box::new(ClusterStats {
                at: AT,
                total: data(r#"{"nodes":1,"connections":3}"#),
                nodes: data(r#"{"a":{"node":"a","connections":3}}"#),
                rooms: data(r#"[{"room":"event:wall","members":3}]"#),
                partial: false,
            })),
        ),
        (
            "ok/stats/partial",
            Ok::Stats(Box::new(ClusterStats {
                at: AT,
                total: data(r#"{"nodes":1}"#),
                nodes: data("{}"),
                rooms: data("[]"),
                partial: true,
            })),
        ),
        (
            "ok/queue",
            Ok::Queue {
                comments: vec![PendingComment {
                    room: room(),
                    comment: text("c-1"),
                    target: text("photo-1"),
                    text: text("Schön! 😀"),
                    user: text("alice"),
                    at: AT,
                    version: 1,
                }],
                cursor: Some(text("c-1")),
            },
        ),
        ("ok/queue/last-page", Ok::Queue { comments: Vec::new(), cursor: None }),
        (
            "ok/audit",
            Ok::Audit {
                entries: vec![
                    AuditEntry {
                        offset: Offset(41),
                        at: AT,
                        by: text("ada"),
                        action: text("drain"),
                        on: Some(text("b")),
                        detail: Some(text("500 connections")),
                        node: text("a"),
                    },
                    AuditEntry {
                        offset: Offset(42),
                        at: AT,
                        by: text("ada"),
                        action: text("notify"),
                        on: None,
                        detail: None,
                        node: text("a"),
                    },
                ],
            },
        ),
        ("ok/drain", Ok::Empty {}),
        ("ok/shed", Ok::Empty {}),
        ("ok/disconnect", Ok::Empty {}),
        ("ok/comment", Ok::Comment { comment: text("c-1"), pending: true, version: 1, at: AT }),
    ]
}

fn pushes() -> Vec<(&'static str, Push)> {
    vec![
        ("push/event", Push::Event { room: room(), event: event(42) }),
        (
            "push/event/every-kind-of-value",
            Push::Event {
                room: room(),
                event: Event { data: data(EVERY_KIND_OF_VALUE), from: None, ..event((1 << 53) - 1) },
            },
        ),
        (
            "push/event/126-bytes-or-more",
            Push::Event {
                room: room(),
                event: Event { data: data(&format!("\"{}\"", "x".repeat(300))), ..event(43) },
            },
        ),
        (
            "push/signal",
            Push::Signal {
                room: room(),
                event: text("typing"),
                data: data("true"),
                from: Some(text("alice")),
            },
        ),
        (
            "push/signal/bare",
            Push::Signal { room: room(), event: text("tick"), data: Data::null(), from: None },
        ),
        ("push/count", Push::Count { room: room(), value: likes() }),
        ("push/presence", Push::Presence { room: room(), count: PresenceCount { connections: 3, users: 2 } }),
        (
            "push/reset",
            Push::Reset {
                room: room(),
                epoch: epoch(),
                offset: Offset(50),
                reason: text("history is too short"),
            },
        ),
        ("push/kicked", Push::Kicked { room: room(), reason: text("the token ran out") }),
        ("push/expiring", Push::Expiring { expires_at: AT }),
        ("push/goaway", Push::Goaway { retry_ms: 1_250, reason: text("restart") }),
    ]
}

/// Frames of the server: `(name, frame)`; the name starts with `ok/OP`, `push/KIND` or `error/CODE`.
pub(crate) fn server() -> Vec<(String, ServerFrame)> {
    let oks = answers().into_iter().map(|(name, ok)| (name.to_owned(), ServerFrame::Ok { id: 7, ok }));
    let pushes = pushes().into_iter().map(|(name, push)| (name.to_owned(), ServerFrame::Push(push)));
    let errors = ErrorCode::ALL.iter().map(|&code| {
        let waits = matches!(code, ErrorCode::RateLimited | ErrorCode::Unavailable);
        let message = format!("an example of {}", code.as_str());
        let error = Failure {
            code,
            message,
            retry_ms: waits.then_some(250),
            current: (code == ErrorCode::Conflict)
                .then(|| data(r#"{"version":3,"value":{"theme":"light"}}"#)),
        };
        (format!("error/{}", code.as_str()), ServerFrame::Error { id: Some(7), error })
    });
    let unasked =
        ServerFrame::Error { id: None, error: Failure::new(ErrorCode::BadFrame, "no id to answer") };
    oks.chain(pushes).chain(errors).chain([("error/bad_frame/without-id".to_owned(), unasked)]).collect()
}

/// The name of a push. Without a wildcard: a new kind of push must come here, and so into the samples.
pub(crate) fn push_name(push: &Push) -> &'static str {
    match push {
        Push::Event { .. } => "event",
        Push::Signal { .. } => "signal",
        Push::Count { .. } => "count",
        Push::Presence { .. } => "presence",
        Push::Reset { .. } => "reset",
        Push::Kicked { .. } => "kicked",
        Push::Expiring { .. } => "expiring",
        Push::Goaway { .. } => "goaway",
    }
}

/// The operations that a kind of answer answers. Without a wildcard, for the same reason.
pub(crate) fn answered_by(ok: &Ok) -> &'static [&'static str] {
    match ok {
        Ok::Connected(_) => &["connect"],
        Ok::Refreshed { .. } => &["refresh"],
        Ok::Joined(_) => &["join"],
        Ok::Published { .. } => &["publish"],
        Ok::History { .. } => &["history"],
        Ok::Presence { .. } => &["presence"],
        Ok::Pong { .. } => &["ping"],
        Ok::Like { .. } => &["like"],
        Ok::Count { .. } => &["count"],
        Ok::Comment { .. } => &["comment"],
        Ok::Moderated { .. } => &["moderate"],
        Ok::Uploaded { .. } => &["upload"],
        Ok::Reserved { .. } => &["reserve"],
        Ok::Settled { .. } => &["confirm", "release"],
        Ok::Claimed { .. } => &["claim"],
        Ok::Put { .. } => &["put"],
        Ok::Doc { .. } => &["get"],
        Ok::Stats(_) => &["stats"],
        Ok::Queue { .. } => &["queue"],
        Ok::Audit { .. } => &["audit"],
        Ok::Empty {} => &["leave", "signal", "drain", "shed", "disconnect"],
    }
}
