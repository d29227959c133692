//! Debian packages, fetched with apt but kept apart from the machine's own.
//!
//! Lists and sources are private to the cache folder, so that a package of another Debian release can be had without
//! touching the machine's apt configuration.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    cache,
    sh::{self, cmd},
};

/// The Debian release that the node image is made of.
pub(crate) const NODE_SUITE: &str = "bookworm";
/// The Debian release whose Docker Engine is used.
pub(crate) const ENGINE_SUITE: &str = "trixie";
/// The Debian release that has a current kind.
pub(crate) const KIND_SUITE: &str = "sid";

/// The keys that Debian signs its releases with.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What unpacks source packages, with the packages that have it.
pub(crate) const SOURCE_TOOLS: [(&str, &str); 2] = [("dpkg-source", "dpkg-dev"), ("patch", "patch")];

/// Where Debian's packages come from.
pub(crate) fn mirror() -> String {
    std::env::var("KPROV_DEBIAN_MIRROR").unwrap_or_else(|_| "http://deb.debian.org/debian".into())
}

/// The machine's architecture, in Debian's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The packages of one Debian release.
pub(crate) struct Apt {
    folder: PathBuf,
    suite: &'static str,
}

impl Apt {
    /// Opens a release, with package lists no older than a day.
    pub(crate) fn open(suite: &'static str) -> Result<Self> {
        for tool in ["apt-get", "dpkg-deb"] {
            if sh::find(tool).is_none() {
                bail!("this needs Debian's packages, and this machine has no {tool}");
            }
        }
        if !Path::new(KEYRING).is_file() {
            bail!("this needs Debian's archive keys in {KEYRING} (package debian-archive-keyring)");
        }
        let folder = cache::root()?.join(format!("apt-{suite}"));
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        let apt = Self { folder, suite };
        let _lock = apt.lock()?;
        apt.configure()?;
        if !apt.is_fresh() {
            apt.update()?;
        }
        Ok(apt)
    }

    /// Keeps others away from the lists, for as long as it is held: no longer than a download takes, since what is made of
    /// the packages is made side by side.
    fn lock(&self) -> Result<File> {
        let lock = File::create(self.folder.join("lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    fn configure(&self) -> Result<()> {
        let folder = self.folder.display();
        let configuration = format!(
            r#"Dir::State::Lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
        );
        fs::write(self.folder.join("apt.conf"), configuration)?;
        // What the machine has installed must not decide which version is downloaded.
        fs::write(self.folder.join("status"), "")?;
        let source = format!("[signed-by={KEYRING}] {} {} main", mirror(), self.suite);
        let mut sources = format!("deb {source}\n");
        // The list of a release's sources is as long as that of its packages.
        if self.suite == NODE_SUITE {
            sources += &format!("deb-src {source}\n");
        }
        fs::write(self.folder.join("sources.list"), sources)?;
        Ok(())
    }

    fn is_fresh(&self) -> bool {
        fs::metadata(self.folder.join("updated"))
            .and_then(|file| file.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age < Duration::from_secs(24 * 3600)))
    }

    fn update(&self) -> Result<()> {
        sh::run(self.apt_get().args(["-qq", "update"])).with_context(|| {
            format!(
                "cannot get Debian's package lists from {}; try again, or name a mirror of Debian in KPROV_DEBIAN_MIRROR",
                mirror()
            )
        })?;
        fs::write(self.folder.join("updated"), "")?;
        Ok(())
    }

    fn apt_get(&self) -> Command {
        let mut command = cmd("apt-get", [] as [&str; 0]);
        command.env("APT_CONFIG", self.folder.join("apt.conf"));
        command
    }

    /// Downloads packages and unpacks them into a folder, without installing them.
    pub(crate) fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        let archives = tempfile::tempdir_in(&self.folder)?;
        let lock = self.lock()?;
        let download = || sh::run(self.apt_get().args(["-qq", "download"]).args(packages).current_dir(archives.path()));
        // A list of yesterday can name a version that is no longer there.
        if download().is_err() {
            self.update()?;
            download().with_context(|| {
                format!(
                    "cannot download {} from {}; try again, or name a mirror of Debian in KPROV_DEBIAN_MIRROR",
                    packages.join(", "),
                    mirror()
                )
            })?;
        }
        drop(lock);
        for archive in cache::files(archives.path())? {
            sh::run(cmd("dpkg-deb", ["--extract"]).arg(archive).arg(into))?;
        }
        Ok(())
    }

    /// Downloads a source package and unpacks it, with Debian's changes applied.
    pub(crate) fn unpack_source(&self, package: &str, into: &Path) -> Result<()> {
        need(&SOURCE_TOOLS)?;
        let archives = tempfile::tempdir_in(&self.folder)?;
        let lock = self.lock()?;
        sh::run(self.apt_get().args(["-qq", "source", "--download-only"]).arg(package).current_dir(archives.path()))?;
        let description = cache::files(archives.path())?
            .into_iter()
            .find(|file| file.extension().is_some_and(|extension| extension == "dsc"))
            .with_context(|| format!("source package {package} has no description"))?;
        drop(lock);
        // apt has checked the signature of the list that has the checksums of these files.
        sh::run(cmd("dpkg-source", ["--no-check", "-q", "-x"]).arg(description).arg(into))
    }
}

/// Makes sure that the machine has some programs, given with their packages: on Debian, as root, installs those that are
/// missing; elsewhere says what is missing.
pub(crate) fn need(programs: &[(&str, &str)]) -> Result<()> {
    /// One installation at a time.
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);

    let missing: Vec<&str> =
        programs.iter().filter(|(program, _)| sh::find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(" ");
    if sh::find("apt-get").is_none() {
        bail!("this needs programs that the machine lacks; Debian has them in these packages: {missing}");
    }
    if !sh::is_root() {
        bail!("this needs packages that the machine lacks; install them as root: apt-get install {missing}");
    }
    eprintln!("xtask: installing {missing}");
    let install = || {
        let mut install = system_apt_get(["install", "--yes", "--no-install-recommends"]);
        install.args(missing.split(' '));
        install
    };
    // Lists that are missing or of yesterday are the usual reason for a failure.
    if sh::output(&mut install()).is_err() {
        sh::output(&mut system_apt_get(["update"]))
            .and_then(|_| sh::output(&mut install()))
            .with_context(|| format!("cannot install {missing}; try `apt-get update && apt-get install {missing}`"))?;
    }
    Ok(())
}

/// apt-get, working on the machine itself. A machine that has just booted may be updating itself, and is waited for.
fn system_apt_get<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = cmd("apt-get", ["-qq", "-o", "DPkg::Lock::Timeout=300"]);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
