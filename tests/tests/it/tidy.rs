//! The architecture, held by a test: which crate may use which, who owns a heavy dependency, how files begin and how long
//! they may be; clippy measures functions (.clippy.toml).

use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each crate may use.
const EDGES: [(&str, &[&str]); 12] = [
    ("protocol", &[]),
    ("catalog", &["protocol"]),
    ("database", &[]),
    ("embedding", &[]),
    ("providers", &["protocol", "catalog"]),
    ("cache", &["protocol", "database"]),
    ("router", &["protocol", "catalog"]),
    ("ledger", &["catalog", "database"]),
    ("trainer", &["protocol", "catalog", "embedding", "cache", "router"]),
    ("simulator", &["protocol"]),
    ("gateway", &["protocol", "catalog", "database", "embedding", "providers", "cache", "router", "ledger"]),
    (
        "sluice",
        &[
            "protocol",
            "catalog",
            "database",
            "embedding",
            "providers",
            "cache",
            "router",
            "ledger",
            "trainer",
            "simulator",
            "gateway",
        ],
    ),
];

/// Which crates may name a heavy dependency.
const OWNERS: [(&str, &[&str]); 11] = [
    ("sqlx", &["database"]),
    ("fastembed", &["embedding"]),
    ("ort", &["embedding"]),
    ("reqwest", &["providers"]),
    ("aws-sigv4", &["providers"]),
    ("ring", &["providers"]),
    ("moka", &["cache"]),
    ("linfa", &["trainer"]),
    ("axum", &["gateway", "simulator"]),
    ("clap", &["sluice"]),
    ("indicatif", &["sluice"]),
];

const FILE_LINES_MAX: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("tests"), root().join("benches")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 50, "the sources were found");
    found
}

/// The dependencies of a crate, tests aside.
fn dependencies(crate_name: &str) -> Vec<String> {
    let manifest = fs::read_to_string(root().join("crates").join(crate_name).join("Cargo.toml")).expect("a manifest");
    let listed = manifest.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
    listed
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn crates_use_only_what_the_map_allows() {
    let names: Vec<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    let mut folders: Vec<String> = fs::read_dir(root().join("crates"))
        .expect("crates")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    let mut known: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    known.sort();
    assert_eq!(folders, known, "a crate joins EDGES with its allowed uses");
    for (name, allowed) in EDGES {
        for used in dependencies(name).iter().filter(|used| names.contains(&used.as_str())) {
            assert!(allowed.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
}

#[test]
fn each_heavy_dependency_has_one_owner() {
    for (name, _) in EDGES {
        for used in dependencies(name) {
            if let Some((_, owners)) = OWNERS.iter().find(|(heavy, _)| *heavy == used) {
                assert!(owners.contains(&name), "{name} must not use {used}; it belongs to {owners:?}");
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{} begins with //!", path.display());
        let lines = text.split("#[cfg(test)]").next().unwrap_or("").lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines: two nouns in one file?", path.display());
    }
}
