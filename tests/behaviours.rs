//! The record of behaviours names tests that exist.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The names that `rest`, which follows the path of a file, stands for: `::name`,
/// `::module::name`, `::{name, name}`.
fn names(rest: &str) -> Vec<&str> {
    let Some(rest) = rest.strip_prefix("::") else { return Vec::new() };
    let last = rest.rsplit("::").next().unwrap_or(rest);
    match last.strip_prefix('{').and_then(|list| list.strip_suffix('}')) {
        Some(list) => list.split(", ").collect(),
        None => vec![last],
    }
}

#[test]
fn every_test_that_the_record_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let record = fs::read_to_string(root.join("tests/BEHAVIOURS.md")).expect("the record");
    let mut files: HashMap<String, Option<String>> = HashMap::new();
    let (mut named, mut missing) = (0, Vec::new());
    for code in quoted(&record) {
        let Some(end) = code.find(".rs").map(|at| at + 3) else { continue };
        let (path, rest) = code.split_at(end);
        let of_the_reactor = path.starts_with("reactor/src/");
        let place = if of_the_reactor { root.join(path) } else { root.join("tests").join(path) };
        let text = files.entry(path.to_owned()).or_insert_with(|| fs::read_to_string(place).ok());
        let Some(text) = text else {
            missing.push(path.to_owned());
            continue;
        };
        for name in names(rest) {
            named += 1;
            let there = text.match_indices(name).any(|(at, _)| {
                let after = text[at + name.len()..].chars().next();
                text[..at].ends_with("fn ") && after.is_some_and(|next| "(<".contains(next))
            });
            if !there {
                missing.push(format!("{path}::{name}"));
            }
        }
    }
    assert!(missing.is_empty(), "named, but not there: {missing:#?}");
    assert!(named > 500, "only {named} names were found: has the form of the record changed?");
}

#[test]
fn every_row_has_as_many_cells_as_its_head() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let record = fs::read_to_string(root.join("tests/BEHAVIOURS.md")).expect("the record");
    let mut cells = None;
    for line in record.lines() {
        if !line.starts_with('|') {
            cells = None;
            continue;
        }
        if line.starts_with("|---") {
            continue;
        }
        let found = line.matches(" |").count();
        assert_eq!(found, *cells.get_or_insert(found), "{line}");
    }
}
