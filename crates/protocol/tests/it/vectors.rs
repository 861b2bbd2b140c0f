//! Reading, comparing and rewriting the files in `vectors/`, and bytes as hexadecimal text.

use std::{env, fmt::Write as _, fs, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file)
}

pub(crate) fn read<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = path(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Fails where the file is not what the code would write; with `UPDATE_VECTORS=1` in the environment, writes it.
pub(crate) fn compare<T: Serialize>(file: &str, vectors: &[T]) {
    let path = path(file);
    // One vector to a line: a change shows as one line in a diff.
    let lines: Vec<_> =
        vectors.iter().map(|v| format!("  {}", serde_json::to_string(v).expect("a vector"))).collect();
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    let mut stored = fs::read_to_string(&path).unwrap_or_default();
    if stored != text && env::var_os("UPDATE_VECTORS").is_some_and(|value| value == "1") {
        // In one step, because other tests read the file at the same time.
        let new = path.with_extension("new");
        fs::write(&new, &text).unwrap_or_else(|error| panic!("{}: {error}", new.display()));
        fs::rename(&new, &path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        stored.clone_from(&text);
    }
    for (stored, now) in stored.lines().zip(text.lines()) {
        assert_eq!(stored, now, "{file} differs; if the change is meant, run with UPDATE_VECTORS=1");
    }
    assert_eq!(stored.lines().count(), text.lines().count(), "{file} lacks or adds vectors");
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "half a byte in {text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}
