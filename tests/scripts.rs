//! The scripts, those that run on nodes and those of tests and tasks, held against shellcheck where it is installed, and in
//! CI whether it is or not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn scripts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(scripts(&path));
        } else if path.extension().is_some_and(|extension| extension == "sh") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn shellcheck_has_nothing_to_say() {
    check("sh", &["src", "tests/faults", "tests/kind_files", "tests/node-image/build", "tests/xtask/fresh"]);
    check("bash", &["tests/e2e"]);
}

fn check(shell: &str, folders: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts: Vec<_> = folders.iter().flat_map(|folder| scripts(&root.join(folder))).collect();
    assert!(!scripts.is_empty());
    let shell = format!("--shell={shell}");
    match Command::new("shellcheck").args([&shell, "--severity=style"]).args(&scripts).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("shellcheck does not run ({error}): nothing is proven")
        }
        Err(error) => panic!("shellcheck does not run: {error}"),
    }
}
