//! Imports run one way: commands, operations, adapters, documents. See ARCHITECTURE.md.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the top down, with what belongs to none: a room may use itself and those below it.
const ROOMS: [&str; 4] = ["commands", "operations", "adapters", "documents"];

/// Used by every room, and uses none.
const SHARED: &str = "progress";

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The words that follow each `crate::` in a text, comments left out; of a list in braces, each of its first words.
fn named(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let word = |text: &str| text.trim_start().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
    code.match_indices("crate::")
        .flat_map(|(at, start)| {
            let rest = &code[at + start.len()..];
            match rest.strip_prefix('{') {
                Some(list) => list.split_once('}').map_or(list, |(list, _)| list).split(',').map(word).collect(),
                None => vec![word(rest)],
            }
        })
        .collect()
}

/// The imports of a file that run upward or sideways into nothing known.
fn upward(room: &str, text: &str) -> Vec<String> {
    let allowed: &[&str] = match ROOMS.iter().position(|known| *known == room) {
        Some(place) => &ROOMS[place..],
        None => &[],
    };
    named(text)
        .into_iter()
        .filter(|name| !allowed.contains(&name.as_str()) && name != SHARED && *name != room)
        .collect()
}

#[test]
fn imports_run_downward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for file in sources(&root) {
        let inside = file.strip_prefix(&root).unwrap();
        if inside.components().count() == 1 {
            continue;
        }
        let room = inside.iter().next().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        looked_at += 1;
        wrong.extend(upward(room, &text).into_iter().map(|name| format!("{} uses {name}", inside.display())));
    }
    assert!(looked_at > 80, "only {looked_at} files were found");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn an_import_that_runs_upward_is_seen() {
    assert_eq!(upward("documents", "use crate::adapters::node::Node;"), ["adapters"]);
    assert_eq!(upward("adapters", "use crate::{documents::keys, operations::verify};"), ["operations"]);
    assert_eq!(upward("operations", "let x = crate::commands::run();"), ["commands"]);
    assert_eq!(upward("commands", "use crate::documents::keys;\n// crate::nonsense"), Vec::<String>::new());
    assert_eq!(upward("progress", "use crate::documents::keys;"), ["documents"]);
}
