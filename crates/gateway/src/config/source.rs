//! Collects what file, environment and flags say, in rising order. Judges keys, not values.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use roomcast_protocol::Namespace;

use super::{
    field::Given,
    problem::{Origin, Problem, Shown},
    settings::{self, RULES, SETTINGS, SOURCE, SOURCES, Target},
};

/// What every variable starts with.
const ENV_PREFIX: &str = "ROOMCAST_";
/// The variable that names the file.
const ENV_CONFIG: &str = "ROOMCAST_CONFIG";
const NAMESPACE: &str =
    "a namespace of a small letter, then at most 31 small letters, digits, dashes or underscores";

const SOURCE_NAME: &str = "a source of at most 32 small letters, digits, dashes or underscores";

/// What the configuration is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To run a node: what a node can't do without must be there.
    Serve,
    /// To use some of it in a tool, such as the key that signs a token.
    Tool,
}

/// A value given by a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag as the user knows it: `--listen` or `--set`.
    pub name: String,
    /// `key=value`.
    pub assignment: String,
}

/// Where settings come from; passed in whole, so that a test need not touch the process's environment.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What for.
    pub purpose: Purpose,
    /// Whether the defaults of development hold.
    pub dev: bool,
    /// The file of `--config`; without, the one that `ROOMCAST_CONFIG` names, if it does.
    pub file: Option<PathBuf>,
    /// The environment; only `ROOMCAST_…` is looked at.
    pub env: Vec<(OsString, OsString)>,
    /// In the order in which they were written.
    pub flags: Vec<Flag>,
}

impl Sources {
    /// Nothing but the defaults: of development, or of production.
    pub fn defaults(dev: bool) -> Self {
        Self { purpose: Purpose::Serve, dev, file: None, env: Vec::new(), flags: Vec::new() }
    }

    /// The same, and `--set key=value`.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.flags.push(Flag { name: "--set".to_owned(), assignment: format!("{key}={value}") });
        self
    }
}

/// One value for one setting.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) target: Target,
    pub(super) origin: Origin,
    pub(super) given: Given,
}

/// Everything that was said.
#[derive(Default)]
pub(super) struct Collected {
    /// In rising order: later ones win.
    pub(super) entries: Vec<Entry>,
    /// Namespaces that the file names, perhaps without a single setting.
    pub(super) namespaces: Vec<Namespace>,
    /// The same of sources of webhooks.
    pub(super) sources: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

impl Collected {
    pub(super) fn from(sources: &Sources) -> Self {
        let mut all = Self::default();
        let named =
            sources.env.iter().find(|(name, _)| name == ENV_CONFIG).map(|(_, path)| PathBuf::from(path));
        match (&sources.file, named) {
            (Some(path), _) => all.file(path, &Origin::Flag("--config".to_owned())),
            (None, Some(path)) => all.file(&path, &Origin::Env(ENV_CONFIG.to_owned())),
            (None, None) => {}
        }
        all.environment(&sources.env);
        for flag in &sources.flags {
            all.flag(flag);
        }
        all
    }

    fn file(&mut self, path: &Path, named_by: &Origin) {
        let mut problem = |expected: String| {
            let value = Shown::Text(path.display().to_string());
            self.problems.push(Problem {
                key: "config".to_owned(),
                origin: named_by.clone(),
                value,
                expected,
            });
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return problem(format!("a readable TOML file ({error})")),
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.table("", table, &Origin::File(path.to_owned())),
            // The error's own display quotes the line, which may hold a secret.
            Err(error) => {
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                problem(format!("valid TOML; line {line} is not: {}", error.message()));
            }
        }
    }

    fn table(&mut self, path: &str, table: toml::Table, origin: &Origin) {
        for (name, value) in table {
            let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if path == "namespaces" {
                match Namespace::parse(&name) {
                    Ok(namespace) if value.is_table() => self.namespaces.push(namespace),
                    Ok(_) => {}
                    Err(_) => {
                        self.bad_key(key, origin, NAMESPACE.to_owned());
                        continue;
                    }
                }
            }
            if path == "ingest.sources" {
                if !settings::is_source_name(&name) {
                    self.bad_key(key, origin, SOURCE_NAME.to_owned());
                    continue;
                }
                if value.is_table() {
                    self.sources.push(name.clone());
                }
            }
            let target = if name.contains('.') { None } else { settings::find(&key) };
            match (target, value) {
                (Some(target), value) => {
                    self.entries.push(Entry {
                        key,
                        target,
                        origin: origin.clone(),
                        given: Given::Toml(value),
                    });
                }
                (None, toml::Value::Table(table)) if settings::is_section(&key) => {
                    self.table(&key, table, origin);
                }
                (None, _) if settings::is_section(&key) => {
                    self.bad_key(key, origin, "a table of settings".to_owned());
                }
                (None, _) => self.unknown(key, origin),
            }
        }
    }

    fn environment(&mut self, env: &[(OsString, OsString)]) {
        let mut variables: Vec<_> = env
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value)))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX) && *name != ENV_CONFIG)
            .collect();
        // The order of an environment is chance; the report's should not be.
        variables.sort_unstable();
        for (name, value) in &variables {
            let origin = Origin::Env((*name).to_owned());
            let key = name[ENV_PREFIX.len()..].replace("__", ".").to_ascii_lowercase();
            let Some(value) = value.to_str() else {
                self.bad_key(key, &origin, "UTF-8".to_owned());
                continue;
            };
            let secret_file = key.strip_suffix("_file").filter(|key| is_secret(key));
            let Some(secret) = secret_file else {
                self.written(key, origin, value.to_owned());
                continue;
            };
            let direct = name.strip_suffix("_FILE").unwrap_or(name);
            if variables.iter().any(|(other, _)| *other == direct) {
                self.bad_key(secret.to_owned(), &origin, format!("{direct} or {name}, not both"));
            }
            match fs::read_to_string(value) {
                Ok(text) => {
                    let text = text.trim_end_matches(['\n', '\r']).to_owned();
                    self.written(secret.to_owned(), origin, text);
                }
                Err(error) => self.problems.push(Problem {
                    key: secret.to_owned(),
                    origin,
                    // Whoever mistakes one variable for the other puts the secret itself here.
                    value: Shown::Hidden,
                    expected: format!("the path of a readable text file ({error})"),
                }),
            }
        }
    }

    fn flag(&mut self, flag: &Flag) {
        let origin = Origin::Flag(flag.name.clone());
        match flag.assignment.split_once('=') {
            Some((key, value)) => self.written(key.trim().to_owned(), origin, value.to_owned()),
            None => self.bad_key(
                "--set".to_owned(),
                &origin,
                "key=value, such as limits.frame_bytes=32KiB".to_owned(),
            ),
        }
    }

    fn written(&mut self, key: String, origin: Origin, value: String) {
        match settings::find(&key) {
            Some(target) => self.entries.push(Entry { key, target, origin, given: Given::Written(value) }),
            None => self.unknown(key, &origin),
        }
    }

    fn unknown(&mut self, key: String, origin: &Origin) {
        let namespace = key.strip_prefix("namespaces.").and_then(|rest| rest.split('.').next());
        if namespace.is_some_and(|name| Namespace::parse(name).is_err()) {
            return self.bad_key(key, origin, NAMESPACE.to_owned());
        }
        let source = key.strip_prefix(SOURCES).and_then(|rest| rest.split('.').next());
        if source.is_some_and(|name| !settings::is_source_name(name)) {
            return self.bad_key(key, origin, SOURCE_NAME.to_owned());
        }
        let expected = match nearest(&key) {
            Some(known) => format!("a known setting; did you mean {known}?"),
            None => "a known setting; roomcast defaultconfig lists them all".to_owned(),
        };
        self.bad_key(key, origin, expected);
    }

    /// A key at fault: its value is not shown, for it may be a secret under a misspelt name.
    fn bad_key(&mut self, key: String, origin: &Origin, expected: String) {
        self.problems.push(Problem { key, origin: origin.clone(), value: Shown::Nothing, expected });
    }
}

fn is_secret(key: &str) -> bool {
    match settings::find(key) {
        Some(Target::Plain(setting)) => setting.field.is_secret(),
        Some(Target::Source(_, setting)) => setting.field.is_secret(),
        Some(Target::Rule(..)) | None => false,
    }
}

/// The known key that a slip of the finger would turn into this one.
fn nearest(key: &str) -> Option<String> {
    let below = |prefix: &'static str| key.strip_prefix(prefix).and_then(|rest| rest.split_once('.'));
    let (section, rule, known): (_, _, Vec<&str>) = if let Some((name, rule)) = below("namespaces.") {
        (format!("namespaces.{name}."), Some(rule), RULES.iter().map(|setting| setting.key).collect())
    } else if let Some((name, rule)) = below(SOURCES) {
        (format!("{SOURCES}{name}."), Some(rule), SOURCE.iter().map(|setting| setting.key).collect())
    } else {
        (String::new(), None, SETTINGS.iter().map(|setting| setting.key).collect())
    };
    let wanted = rule.unwrap_or(key);
    let (distance, found) = known.into_iter().map(|known| (distance(wanted, known), known)).min()?;
    (distance <= 3 && distance < wanted.len()).then(|| format!("{section}{found}"))
}

/// Insertions, deletions and replacements between two texts, for suggestions.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
