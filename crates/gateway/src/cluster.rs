//! The whole cluster in one picture, from what its nodes told; and what changed from one picture to the next, as a JSON
//! merge patch (RFC 7396), so that a second of it costs little. Pure.

use roomcast_protocol::RoomName;
use serde_json::{Map, Value, json};

use crate::{
    broker::NodeReport,
    figures::TOLD_ROOMS,
    hub::{RoomFigures, top},
    lag::LagCounts,
};

/// Counted up over all nodes. Those that end in `_per_s` are fractions.
const SUMS: [&str; 17] = [
    "connections",
    "rooms",
    "members",
    "frames_in",
    "frames_out",
    "events",
    "drops",
    "slow_closed",
    "memory_bytes",
    "queue_bytes",
    "redis_reconnects",
    "in_per_s",
    "out_per_s",
    "bytes_per_s",
    "events_per_s",
    "drops_per_s",
    "slow_per_s",
];

/// The cluster at one moment: an object of `at`, `total`, `nodes` by id, and `rooms`.
pub fn picture(at: u64, reports: Vec<NodeReport>) -> Map<String, Value> {
    let mut nodes = Map::new();
    let mut rooms = Vec::new();
    let mut lags = LagCounts::default();
    let mut total = Map::new();
    for mut report in reports {
        let Some(stats) = report.stats.as_object_mut() else { continue };
        // Only for adding up.
        rooms.extend(stats.remove("top").iter().flat_map(rooms_of));
        if let Some(Value::Array(counts)) = stats.remove("delivery_counts") {
            lags = lags.plus(&LagCounts::from_list(counts.iter().map(|n| n.as_u64().unwrap_or_default())));
        }
        let id = stats.get("node").and_then(Value::as_str).unwrap_or(&report.node).to_owned();
        nodes.insert(id, report.stats);
    }
    total.insert("nodes".into(), nodes.len().into());
    for field in SUMS {
        let of = nodes.values().filter_map(|node| node.get(field));
        let sum = if field.ends_with("_per_s") {
            tenths(of.filter_map(Value::as_f64).sum())
        } else {
            of.filter_map(Value::as_u64).fold(0, u64::saturating_add).into()
        };
        total.insert(field.into(), sum);
    }
    // With one node without a cap there is none.
    let caps: Option<Vec<u64>> = nodes.values().map(|node| node.get("connections_cap")?.as_u64()).collect();
    if let Some(caps) = caps {
        total.insert("connections_cap".into(), caps.into_iter().fold(0, u64::saturating_add).into());
    }
    if let Some(ms) = lags.quantile(0.99) {
        total.insert("delivery_p99_ms".into(), tenths(ms));
    }
    let rooms: Vec<Value> = top(rooms, TOLD_ROOMS).iter().map(shown).collect();
    let picture = json!({ "at": at, "total": total, "nodes": nodes, "rooms": rooms });
    match picture {
        Value::Object(picture) => picture,
        _ => Map::new(),
    }
}

/// With one digit behind the point: more is noise that every second would send anew.
pub fn tenths(value: f64) -> Value {
    json!((value * 10.0).round() / 10.0)
}

/// A room as it is told.
pub fn shown(of: &RoomFigures) -> Value {
    json!({
        "room": of.room,
        "members": of.members,
        "per_s": tenths(of.rate),
        "drops_per_s": tenths(of.drops),
    })
}

fn rooms_of(list: &Value) -> Vec<RoomFigures> {
    let read = |room: &Value| {
        Some(RoomFigures {
            room: RoomName::parse(room.get("room")?.as_str()?).ok()?,
            members: room.get("members")?.as_u64()?,
            rate: room.get("per_s")?.as_f64()?,
            drops: room.get("drops_per_s")?.as_f64()?,
        })
    };
    list.as_array().into_iter().flatten().filter_map(read).collect()
}

/// The merge patch that makes `after` of `before`. Lists are told whole. Neither may hold a null inside.
pub fn patch(before: &Map<String, Value>, after: &Map<String, Value>) -> Map<String, Value> {
    let mut patch = Map::new();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in after {
        match (before.get(name), value) {
            (Some(old), new) if old == new => {}
            (Some(Value::Object(old)), Value::Object(new)) => {
                patch.insert(name.clone(), Value::Object(self::patch(old, new)));
            }
            (_, new) => {
                patch.insert(name.clone(), new.clone());
            }
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(node: &str, stats: Value) -> NodeReport {
        NodeReport { node: format!("{node}.0123"), stats }
    }

    fn apply(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
        for (name, value) in patch {
            match (target.get_mut(name), value) {
                (_, Value::Null) => {
                    target.remove(name);
                }
                (Some(Value::Object(inner)), Value::Object(patch)) => apply(inner, patch),
                (_, Value::Object(fresh)) => {
                    let mut made = Map::new();
                    apply(&mut made, fresh);
                    target.insert(name.clone(), Value::Object(made));
                }
                (_, value) => {
                    target.insert(name.clone(), value.clone());
                }
            }
        }
    }

    #[test]
    fn nodes_add_up_and_a_percentile_is_one_of_all_deliveries() {
        let a = json!({ "node": "a", "connections": 3, "in_per_s": 1.25, "connections_cap": 10,
            "delivery_counts": [98], "top": [{ "room": "event:x", "members": 2, "per_s": 5.0, "drops_per_s": 0.0 }] });
        let b = json!({ "node": "b", "connections": 4, "in_per_s": 2.0, "connections_cap": 10,
            "delivery_counts": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            "top": [{ "room": "event:x", "members": 1, "per_s": 4.0, "drops_per_s": 0.5 }] });
        let picture = Value::Object(picture(7, vec![report("a", a), report("b", b)]));
        assert_eq!((&picture["at"], &picture["total"]["nodes"]), (&json!(7), &json!(2)));
        assert_eq!(picture["total"]["connections"], 7);
        assert_eq!(picture["total"]["connections_cap"], 20);
        assert_eq!(picture["total"]["in_per_s"], 3.3);
        assert!(picture["total"]["delivery_p99_ms"].as_f64().is_some_and(|ms| ms > 70.0), "{picture}");
        assert_eq!(
            picture["rooms"],
            json!([{ "room": "event:x", "members": 3, "per_s": 5.0, "drops_per_s": 0.5 }])
        );
        assert_eq!(
            picture["nodes"]["b"],
            json!({ "node": "b", "connections": 4, "in_per_s": 2.0, "connections_cap": 10 })
        );
    }

    #[test]
    fn what_is_no_report_is_passed_over() {
        let odd = vec![
            report("a", Value::Null),
            report("b", json!([1])),
            report(
                "c",
                json!({ "connections": "many", "top": [{ "room": "NO ROOM" }, 3], "delivery_counts": ["x"] }),
            ),
        ];
        let picture = Value::Object(picture(0, odd));
        assert_eq!((&picture["total"]["nodes"], &picture["total"]["connections"]), (&json!(1), &json!(0)));
        assert_eq!(picture["total"].get("connections_cap"), None);
        assert_eq!(picture["rooms"], json!([]));
    }

    #[test]
    fn a_patch_holds_what_changed_and_nothing_else() {
        let before = picture(1, vec![report("a", json!({ "node": "a", "version": "1", "connections": 3 }))]);
        let after = picture(2, vec![report("a", json!({ "node": "a", "version": "1", "connections": 4 }))]);
        let patch = Value::Object(patch(&before, &after));
        assert_eq!(
            patch,
            json!({ "at": 2, "total": { "connections": 4 }, "nodes": { "a": { "connections": 4 } } })
        );
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0_u8..4).prop_map(Value::from),
            Just(json!([1, 2]))
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop::collection::btree_map("[abc]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn a_patch_always_makes_the_one_of_the_other(
            before in prop::collection::btree_map("[abc]", tree(), 0..4),
            after in prop::collection::btree_map("[abc]", tree(), 0..4),
        ) {
            let (before, after): (Map<_, _>, Map<_, _>) = (before.into_iter().collect(), after.into_iter().collect());
            let mut made = before.clone();
            apply(&mut made, &patch(&before, &after));
            prop_assert_eq!(made, after);
        }
    }
}
