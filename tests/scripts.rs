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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts: Vec<_> = ["src", "tests/kind_files", "tests/node-image/build", "tests/xtask/fresh"]
        .into_iter()
        .flat_map(|folder| scripts(&root.join(folder)))
        .collect();
    assert!(!scripts.is_empty());
    match Command::new("shellcheck").args(["--shell=sh", "--severity=style"]).args(&scripts).output() {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("shellcheck does not run ({error}): nothing is proven")
        }
        Err(error) => panic!("shellcheck does not run: {error}"),
    }
}
