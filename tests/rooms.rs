//! Imports run one way: commands, operations, adapters, documents. See ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from the top down, with what belongs to none: a room may use itself and those below it.
const ROOMS: [&str; 5] = ["commands", "operations", "kms", "adapters", "documents"];

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

/// The words behind those chains of `super::` in a file that leave its room. `module` is the file's path as a module, with
/// the room first.
fn out_of_the_room(module: &[String], text: &str) -> Vec<String> {
    let (code, tests) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((text, ""));
    // Tests in the file are a module below it.
    let leaves = |text: &str, depth: usize| -> Vec<String> {
        climbs(text).into_iter().filter(|(steps, _)| *steps >= depth).map(|(_, word)| word).collect()
    };
    let mut words = leaves(code, module.len());
    words.extend(leaves(tests, module.len() + 1));
    words
}

/// The path of a file below `root` as a module.
fn module_of(root: &Path, file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(root).unwrap().with_extension("");
    let mut module: Vec<String> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
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
        // Between rooms, `crate::` is said: so a reader sees it, and so does this test.
        let out = out_of_the_room(&module_of(&root, &file), &text);
        wrong.extend(out.into_iter().map(|name| format!("{} leaves its room for {name:?}", inside.display())));
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

#[test]
fn a_way_out_of_a_room_by_super_is_seen() {
    let out = |file: &str, text: &str| out_of_the_room(&module_of(Path::new("/src"), Path::new(file)), text);
    let text = "use super::super::operations::verify;";
    assert_eq!(out("/src/adapters/node.rs", text), ["operations"]);
    assert_eq!(out("/src/adapters/kubernetes/mod.rs", text), ["operations"]);
    assert_eq!(out("/src/adapters/kubernetes/stored.rs", text), Vec::<String>::new());
    assert_eq!(out("/src/kms/mod.rs", "use super::commands::run;"), ["commands"]);
    assert_eq!(
        out("/src/adapters/a/b.rs", "super::super::super::{operations::x, commands}"),
        ["operations", "commands"]
    );
    // What tests in a file climb out of first is their own module.
    let tests = |path: &str| format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n    use {path};\n}}\n");
    assert_eq!(out("/src/adapters/node.rs", &tests("super::super::etcd::Etcd")), Vec::<String>::new());
    assert_eq!(out("/src/adapters/node.rs", &tests("super::super::super::operations::x")), ["operations"]);
}

/// The paths that follow each `crate::ROOM::` or `super::` in a file, as the first two words; lists in braces are opened.
fn uses(text: &str) -> Vec<(String, String)> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let code = without_tests(&code);
    let code = code.as_str();
    let word =
        |text: &str| text.trim_start().chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = &code[at + start.len()..];
        let room = word(rest);
        let Some(rest) = rest[room.len()..].strip_prefix("::") else { continue };
        let modules: Vec<String> = match rest.strip_prefix('{') {
            Some(list) => {
                // The first words at the list's own depth.
                let mut depth = 0;
                let inner: String = list
                    .chars()
                    .take_while(|&c| {
                        depth += i32::from(c == '{') - i32::from(c == '}');
                        depth >= 0
                    })
                    .collect();
                let mut depth = 0;
                let outer = |c: char| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                };
                inner.split(outer).map(word).filter(|word| !word.is_empty()).collect()
            }
            None => vec![word(rest)],
        };
        found.extend(modules.into_iter().map(|module| (room.clone(), module)));
    }
    found
}

/// A file without its tests: a module of them at its end, and lines that are for tests alone.
fn without_tests(code: &str) -> String {
    let end = ["mod tests {", "pub(crate) mod tests {"]
        .into_iter()
        .filter_map(|module| code.find(&format!("#[cfg(test)]\n{module}")));
    let mut kept = String::new();
    let mut lines = code[..end.min().unwrap_or(code.len())].lines();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            lines.next();
            continue;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// Of a graph by its edges, a circle; `None` if there is none.
fn circle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        node: &str,
        edges: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if path.iter().any(|one| one == node) {
            path.push(node.to_owned());
            return true;
        }
        if done.contains(node) {
            return false;
        }
        path.push(node.to_owned());
        for next in edges.get(node).into_iter().flatten() {
            if visit(next, edges, path, done) {
                return true;
            }
        }
        path.pop();
        done.insert(node.to_owned());
        false
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|node| {
        let mut path = Vec::new();
        visit(node, edges, &mut path, &mut done).then_some(path)
    })
}

#[test]
fn modules_of_a_room_use_each_other_in_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ROOMS {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in sources(&root.join(room)) {
            let module = file.strip_prefix(root.join(room)).unwrap().iter().next().unwrap();
            let module = module.to_str().unwrap().trim_end_matches(".rs").to_owned();
            if file.ends_with("tests.rs") || module == "mod" {
                continue;
            }
            for (other, used) in uses(&fs::read_to_string(&file).unwrap()) {
                if other == room && used != module {
                    edges.entry(module.clone()).or_default().insert(used);
                }
            }
        }
        assert_eq!(circle(&edges), None, "in {room}");
    }
}

/// What each chain of `super::` in a file leads to: how many steps up, and the words that follow, as in [`uses`].
fn climbs(text: &str) -> Vec<(usize, String)> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let code = without_tests(&code);
    let code = code.as_str();
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("super::") {
        rest = &rest[at..];
        let mut steps = 0;
        while let Some(next) = rest.strip_prefix("super::") {
            (steps, rest) = (steps + 1, next);
        }
        // As a path of its own, its words are found by the same reader.
        found.extend(uses(&format!("crate::x::{rest}")).into_iter().take(words(rest)).map(|(_, word)| (steps, word)));
    }
    found
}

/// How many words a path begins with: one, or as many as a list in braces has.
fn words(rest: &str) -> usize {
    match rest.strip_prefix('{') {
        Some(_) => uses(&format!("crate::x::{}", &rest[..=rest.find(';').unwrap_or(rest.len() - 1)])).len(),
        None => 1,
    }
}

#[test]
fn files_of_a_folder_use_each_other_in_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // Of each folder, which of its files and folders uses which.
    let mut folders: BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in sources(&root) {
        let module = module_of(&root, &file);
        if module.last().is_some_and(|last| last == "tests") {
            continue;
        }
        for (steps, word) in climbs(&fs::read_to_string(&file).unwrap()) {
            let Some(depth) = module.len().checked_sub(steps) else { continue };
            let (folder, inside) = (root.join(module[..depth].iter().collect::<PathBuf>()), &module[depth]);
            let is_module = folder.join(&word).is_dir() || folder.join(format!("{word}.rs")).is_file();
            if is_module && word != *inside {
                folders.entry(folder).or_default().entry(inside.clone()).or_default().insert(word);
            }
        }
    }
    assert!(folders.len() > 10, "only {} folders were found", folders.len());
    for (folder, edges) in folders {
        assert_eq!(circle(&edges), None, "in {}", folder.display());
    }
}

#[test]
fn a_circle_is_seen() {
    let text = "use crate::documents::keys;\nuse crate::documents::{a::{b, c}, d};\n// crate::documents::no\n#[cfg(test)]\nuse crate::documents::e;";
    let found: Vec<String> = uses(text).into_iter().map(|(_, module)| module).collect();
    assert_eq!(found, ["keys", "a", "d"]);
    let text = "use super::error::Finding;\nuse super::{a::{b, c}, d};\nsuper::super::e::f();\n// super::no";
    let found = climbs(text);
    assert_eq!(found, [(1, "error"), (1, "a"), (1, "d"), (2, "e")].map(|(steps, word)| (steps, word.to_owned())));
    let edges = |pairs: &[(&str, &str)]| {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (one, other) in pairs {
            edges.entry((*one).to_owned()).or_default().insert((*other).to_owned());
        }
        edges
    };
    assert_eq!(circle(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(circle(&edges(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap(), ["a", "b", "c", "b"]);
}

#[test]
fn what_comes_behind_the_name_of_the_tests_is_seen() {
    let text = "mod a;\n#[cfg(test)]\nmod tests;\nuse crate::b;\n#[cfg(test)]\nmod tests {\nuse crate::c;\n}\n";
    assert_eq!(without_tests(text), "mod a;\nuse crate::b;\n");
}
