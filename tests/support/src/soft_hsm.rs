//! A token of SoftHSM2, an HSM in software, in a folder of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::run::Run;

/// The variable by which SoftHSM2 finds its configuration.
const VARIABLE: &str = "SOFTHSM2_CONF";

/// Where Debian's package has the module.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// The token's label.
const TOKEN: &str = "class";

/// The token's PIN.
pub const PIN: &str = "pin-of-the-class-4711";

/// A token. Removed when dropped.
#[derive(Debug)]
pub struct SoftHsm {
    folder: TempDir,
}

impl SoftHsm {
    /// Makes a token without a key, and a plugin's configuration for it.
    ///
    /// # Panics
    /// If SoftHSM2 is not there.
    #[must_use]
    pub fn new() -> Self {
        assert!(Path::new(MODULE).exists(), "{MODULE} is missing: `cargo xtask test` installs softhsm2");
        let folder = tempfile::Builder::new()
            .prefix("kprov-test-hsm-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .expect("a temporary folder");
        let hsm = Self { folder };
        std::fs::create_dir(hsm.tokens()).expect("a folder");
        std::fs::create_dir(hsm.path("run")).expect("a folder");
        std::fs::set_permissions(hsm.path("run"), std::fs::Permissions::from_mode(0o700)).expect("a mode");
        let text = format!("directories.tokendir = {}\nobjectstore.backend = file\n", hsm.tokens().display());
        hsm.write("softhsm2.conf", &text);
        let mut init = Command::new("softhsm2-util");
        init.args(["--init-token", "--free", "--label", TOKEN, "--so-pin", "of-the-officer", "--pin", PIN]);
        Run::of(hsm.seen_by(&mut init)).done();
        hsm.set_pin(PIN);
        let pin = hsm.path("pin");
        let config =
            format!("pkcs11: {{module: {MODULE}, token: {TOKEN}, key: kek, pin: {{file: {}}}}}", pin.display());
        hsm.write("config.yaml", &config);
        hsm
    }

    /// Has a command see this token.
    pub fn seen_by<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(VARIABLE, self.path("softhsm2.conf"))
    }

    /// What a plugin is configured by.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path("config.yaml")
    }

    /// A folder for a plugin's socket, which nobody else gets into.
    #[must_use]
    pub fn socket_folder(&self) -> PathBuf {
        self.path("run")
    }

    /// Has plugins log in by this PIN from the next login on.
    pub fn set_pin(&self, pin: &str) {
        self.write("pin", pin);
    }

    /// Takes the token away, as if it were pulled out.
    ///
    /// # Panics
    /// If it is not there.
    pub fn take_away(&self) {
        std::fs::rename(self.tokens(), self.path("elsewhere")).expect("the token is there");
        std::fs::create_dir(self.tokens()).expect("a folder");
    }

    /// Puts it back.
    ///
    /// # Panics
    /// If it has not been taken away.
    pub fn put_back(&self) {
        std::fs::remove_dir(self.tokens()).expect("an empty folder");
        std::fs::rename(self.path("elsewhere"), self.tokens()).expect("the token is elsewhere");
    }

    fn tokens(&self) -> PathBuf {
        self.path("tokens")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    }
}

impl Default for SoftHsm {
    fn default() -> Self {
        Self::new()
    }
}
