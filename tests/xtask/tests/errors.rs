//! What a task says when it fails.

use std::process::Command;

/// A folder that cannot be made stands for all that can go wrong.
#[test]
fn an_error_is_one_message_without_a_backtrace() {
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("kind")
        .env("XDG_CACHE_HOME", "/dev/null/cache")
        .env("RUST_BACKTRACE", "full")
        .env_remove("KPROV_KIND")
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message, "xtask: error: cannot make /dev/null/cache/kprov-xtask: Not a directory (os error 20)\n");
    assert!(output.stdout.is_empty());
}
