//! The table of settings for people: the commented TOML file of `defaultconfig`, and `docs/configuration.md`.

use std::fmt::Write as _;

use roomcast_core::permission::{Namespaces, Rules};

use super::{
    defaults::Draft,
    settings::{RULES, SETTINGS, SOURCE, Setting, is_fixed_for_built_in},
};

const TOML_HEAD: &str = "\
# roomcast: every setting with its default, its unit and its reason.
#
# A default that is not one fixed value stands as a comment. Durations are written like 250ms, 60s, 10m, 1h or 2d;
# sizes like 65536, 64KiB or 1MiB; no limit is \"unlimited\", and 0 is refused.
#
# Stronger than this file: the environment, ROOMCAST_SECTION__KEY (for secrets also ROOMCAST_SECTION__KEY_FILE, the path
# of a file that holds the secret); stronger still: flags, --set section.key=value.
";

/// Wide enough for a sentence, narrow enough for a terminal.
const COMMENT_WIDTH: usize = 110;

const MARKDOWN_HEAD: &str = "\
# Configuration

<!-- Made by `roomcast defaultconfig --markdown`; a test keeps it current. Change the table in the code instead. -->

Every setting comes from, in rising order: its default, the TOML file (`--config FILE`, or the one that
`ROOMCAST_CONFIG` names), the environment (`ROOMCAST_SECTION__KEY`; lists with commas), a flag (`--listen`,
`--workers`, `--node`, and `--set section.key=value` for everything else).

For secrets, `ROOMCAST_SECTION__KEY_FILE` names a file that holds the value; a newline at its end is not part of it.
Secrets never appear in logs or errors.

Unknown keys and bad values stop the start with exit code 78 and a list of all problems. `roomcast checkconfig` says
the same without starting; `roomcast defaultconfig` prints a file of every default, `--schema` its JSON Schema.

Durations are written like `250ms`, `60s`, `10m`, `1h` or `2d`; a bare number is refused. Sizes are bytes, plain or as
`64KiB`, `1MiB`, `1GiB`. A limit is a whole number from 1 or `unlimited`; 0 is refused.
";

/// A TOML file of every setting, which loads again.
pub fn default_toml() -> String {
    let mut out = TOML_HEAD.to_owned();
    let (mut production, mut dev) = (Draft::defaults(false), Draft::defaults(true));
    let mut last = "";
    for setting in SETTINGS {
        let (section, name) = split(setting.key);
        if section != last {
            let _infallible = write!(out, "\n[{section}]\n");
            last = section;
        }
        let default = setting.default(&mut production);
        let in_dev = setting.default(&mut dev);
        let mut comment = format!("{} Unit: {}. Default: {default}", setting.reason, setting.unit);
        if in_dev != default && setting.note.is_empty() {
            let _infallible = write!(comment, "; in development {in_dev}");
        }
        out.push('\n');
        prose(&mut out, &comment);
        match setting.field.show(&mut production).filter(|_| setting.note.is_empty()) {
            Some(value) => {
                let _infallible = writeln!(out, "{name} = {value}");
            }
            None => {
                let _infallible = writeln!(out, "#{name} = {}", setting.sample(&mut production));
            }
        }
    }
    sources_toml(&mut out);
    namespaces_toml(&mut out);
    out
}

fn sources_toml(out: &mut String) {
    out.push_str("\n# Senders of webhooks: [ingest.sources.<name>] makes POST /api/v1/ingest/<name>; any other is not found.\n#\n");
    for setting in SOURCE {
        prose(
            out,
            &format!("{}: {} Unit: {}. Default: {}", setting.key, setting.reason, setting.unit, setting.note),
        );
    }
    out.push_str("#\n# For example:\n\n#[ingest.sources.shop]\n#room = \"event:wall\"\n#event = \"order\"\n");
    out.push_str("#secret = \"...\"\n#signature_header = \"x-hub-signature-256\"\n");
}

fn namespaces_toml(out: &mut String) {
    out.push_str("\n# Namespaces: [namespaces.<name>] configures the rooms `name` and `name:…`; any other room is refused.\n");
    out.push_str("# admin and user are built in: who may do what there is fixed.\n#\n");
    for setting in RULES {
        prose(out, &format!("{}: {} Unit: {}", setting.key, setting.reason, setting.unit));
    }
    out.push_str("#\n# A new namespace starts from these:\n\n");
    rules_toml(out, "chat", Rules::default(), "#");
    for (name, rules) in Namespaces::default().iter() {
        rules_toml(out, name.as_str(), *rules, "");
    }
}

/// A sentence as comment lines, its last full stop added.
fn prose(out: &mut String, text: &str) {
    let mut column = 0;
    for word in text.split(' ') {
        if column == 0 || column + word.len() > COMMENT_WIDTH {
            out.push_str(if column == 0 { "#" } else { "\n#" });
            column = 1;
        }
        let _infallible = write!(out, " {word}");
        column += word.len() + 1;
    }
    out.push_str(".\n");
}

fn rules_toml(out: &mut String, name: &str, mut rules: Rules, comment: &str) {
    let _infallible = writeln!(out, "{comment}[namespaces.{name}]");
    for setting in RULES {
        let fixed = matches!(name, "admin" | "user") && is_fixed_for_built_in(setting.key);
        if let Some(value) = setting.field.show(&mut rules).filter(|_| !fixed) {
            let _infallible = writeln!(out, "{comment}{} = {value}", setting.key);
        }
    }
    out.push('\n');
}

/// The whole of `docs/configuration.md`.
pub fn markdown() -> String {
    let mut out = MARKDOWN_HEAD.to_owned();
    let (mut production, mut dev) = (Draft::defaults(false), Draft::defaults(true));
    let mut last = None;
    for setting in SETTINGS {
        let (section, _) = split(setting.key);
        if last != Some(section) {
            let title = if section.is_empty() { "The node" } else { section };
            let _infallible = write!(out, "\n## {title}\n\n");
            out.push_str("| setting | takes | default | unit | why |\n|---|---|---|---|---|\n");
            last = Some(section);
        }
        let (default, in_dev) = (setting.default(&mut production), setting.default(&mut dev));
        let mut words = cell(&default, setting.note.is_empty());
        if default != in_dev && setting.note.is_empty() {
            let _infallible = write!(words, " (dev {})", cell(&in_dev, true));
        }
        row(&mut out, setting.key, setting.field.kind(), &words, setting.unit, setting.reason);
    }
    out.push_str("\n## ingest.sources\n\nBelow `ingest.sources.<name>`, in the environment ");
    out.push_str("`ROOMCAST_INGEST__SOURCES__<NAME>__<SETTING>`: each makes `POST /api/v1/ingest/<name>`. A name is at ");
    out.push_str("most 32 small letters, digits, dashes or underscores.\n\n");
    out.push_str("| setting | takes | default | unit | why |\n|---|---|---|---|---|\n");
    for setting in SOURCE {
        row(&mut out, setting.key, setting.field.kind(), setting.note, setting.unit, setting.reason);
    }
    out.push_str("\n## namespaces\n\nBelow `namespaces.<name>`, in the environment `ROOMCAST_NAMESPACES__<NAME>__<SETTING>`. ");
    out.push_str(
        "`event`, `admin` and `user` are built in; for `admin` and `user` only `history.*`, `presence` and ",
    );
    out.push_str("`moderated` can be set.\n\n| setting | takes | default of a new one |");
    let built_in: Vec<(String, Rules)> =
        Namespaces::default().iter().map(|(name, rules)| (name.to_string(), *rules)).collect();
    for (name, _) in &built_in {
        let _infallible = write!(out, " `{name}` |");
    }
    let _infallible = writeln!(out, " unit | why |\n|---|---|---|{}---|---|", "---|".repeat(built_in.len()));
    for setting in RULES {
        let shown = |mut rules| setting.field.show(&mut rules).map(|value| plain(&value)).unwrap_or_default();
        let mut words = cell(&shown(Rules::default()), true);
        for (name, rules) in &built_in {
            let fixed = matches!(name.as_str(), "admin" | "user") && is_fixed_for_built_in(setting.key);
            let value = if fixed { "fixed".to_owned() } else { cell(&shown(*rules), true) };
            let _infallible = write!(words, " | {value}");
        }
        row(&mut out, setting.key, setting.field.kind(), &words, setting.unit, setting.reason);
    }
    out
}

fn row(out: &mut String, key: &str, kind: &str, default: &str, unit: &str, reason: &str) {
    let _infallible = writeln!(out, "| `{key}` | {kind} | {default} | {unit} | {reason} |");
}

fn cell(text: &str, is_value: bool) -> String {
    if is_value && text != "none" { format!("`{text}`") } else { text.to_owned() }
}

fn split(key: &'static str) -> (&'static str, &'static str) {
    key.split_once('.').unwrap_or(("", key))
}

/// A value as text, without the quotes of TOML.
fn plain(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Setting<Draft> {
    /// The default in words.
    fn default(&self, draft: &mut Draft) -> String {
        match self.field.show(draft) {
            _ if !self.note.is_empty() => self.note.to_owned(),
            Some(value) => plain(&value),
            None => "none".to_owned(),
        }
    }

    /// A value to start from, in TOML.
    fn sample(&self, draft: &mut Draft) -> String {
        match self.field.show(draft) {
            Some(value) if self.example.is_empty() => value.to_string(),
            _ => self.example.to_owned(),
        }
    }
}
