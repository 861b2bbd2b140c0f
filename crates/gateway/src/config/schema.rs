//! The table of settings for editors and machines: the JSON Schema of the TOML file.

use serde_json::{Map, Value, json};

use super::{
    defaults::Draft,
    settings::{RULES, SETTINGS, SOURCE, Setting},
};

/// The JSON Schema (draft 2020-12) of the configuration file.
pub fn schema() -> Value {
    let mut draft = Draft::defaults(false);
    let mut properties = Map::new();
    for setting in SETTINGS {
        let default = setting.field.show(&mut draft).filter(|_| setting.note.is_empty());
        let schema = described(setting, default);
        insert(&mut properties, setting.key, schema);
    }
    let mut rules = Map::new();
    for setting in RULES {
        insert(&mut rules, setting.key, described(setting, None));
    }
    properties.insert(
        "namespaces".to_owned(),
        json!({
            "type": "object",
            "description": "The rules of each namespace; a room of any other is refused.",
            "patternProperties": {"^[a-z][a-z0-9_-]{0,31}$": object(rules)},
            "additionalProperties": false,
        }),
    );
    let mut source = Map::new();
    for setting in SOURCE {
        insert(&mut source, setting.key, described(setting, None));
    }
    let sources = json!({
        "type": "object",
        "description": "The senders of webhooks, each with an address of its own.",
        "patternProperties": {"^[a-z0-9_-]{1,32}$": object(source)},
        "additionalProperties": false,
    });
    insert(&mut properties, "ingest.sources", sources);
    let mut schema = object(properties);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("roomcast configuration");
    schema
}

fn described<T>(setting: &Setting<T>, default: Option<toml::Value>) -> Value {
    let mut schema = setting.field.schema();
    schema["description"] = json!(format!("{} Unit: {}.", setting.reason, setting.unit));
    if let Some(default) = default.and_then(|value| serde_json::to_value(value).ok()) {
        schema["default"] = default;
    }
    schema
}

/// Puts a schema where its dotted key says; sections are closed objects.
fn insert(properties: &mut Map<String, Value>, key: &str, schema: Value) {
    match key.split_once('.') {
        None => {
            properties.insert(key.to_owned(), schema);
        }
        Some((section, rest)) => {
            let section = properties.entry(section).or_insert_with(|| object(Map::new()));
            if let Some(below) = section["properties"].as_object_mut() {
                insert(below, rest, schema);
            }
        }
    }
}

fn object(properties: Map<String, Value>) -> Value {
    let properties = Value::Object(properties);
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}
