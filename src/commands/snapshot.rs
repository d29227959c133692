//! `kprov snapshot`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use age::secrecy::SecretString;
use serde_json::{Value, json};

use crate::adapters::paths::{self, Paths, PathsError};
use crate::adapters::states::{Listed, States};
use crate::commands::grammar::{Global, SnapshotCommand};
use crate::documents::names::SnapshotName;
use crate::documents::snapshot::{Held, PortableError, StateManifest};
use crate::operations::carry::{self, CarryError, Offer};
use crate::operations::cluster;
use crate::progress::printable;

use super::{Result, context, present, reporter, target, up};

/// The variable that may hold the passphrase.
const VARIABLE: &str = "KPROV_PASSPHRASE";

/// A passphrase that cannot be had.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum PassphraseError {
    /// Its file is not there.
    #[error("there is no file {path}", path = .0.display())]
    #[diagnostic(code(kprov::snapshot::no_file))]
    Missing(PathBuf),
    /// The two passphrases that were typed differ.
    #[error("the two passphrases differ")]
    #[diagnostic(code(kprov::snapshot::passphrase), help("nothing was written; try again"))]
    Typo,
}

pub(super) async fn snapshot(global: &Global, command: SnapshotCommand) -> Result<ExitCode> {
    match command {
        SnapshotCommand::Save { name, cluster, with_images } => {
            let context = context(global).await?;
            let cluster = target::name(&context, cluster.as_ref()).await?;
            let saved = cluster::save_snapshot(&context, &cluster, &name, with_images).await;
            context.reporter.close();
            let manifest = saved?;
            present::result(global.output, &describe(Some(&name), &manifest), || {
                format!("Kept {cluster} as {name}, {}.\n", size(manifest.size()))
            });
        }
        SnapshotCommand::Restore { name, cluster, retain } => {
            let start = Instant::now();
            let context = context(global).await?;
            let outcome = cluster::restore_snapshot(&context, &name, cluster.as_ref(), retain).await;
            return up::complete(global, &context, outcome, start, false).await;
        }
        SnapshotCommand::Ls => list(global)?,
        SnapshotCommand::Rm { name } => {
            states()?.remove(&name)?;
            present::result(global.output, &json!({"removed": name}), || format!("Removed {name}.\n"));
        }
        SnapshotCommand::Export { name, file, plain, passphrase_file } => {
            export(global, &name, &file, plain, passphrase_file.as_deref())?;
        }
        SnapshotCommand::Import { file, name, trust, passphrase_file } => {
            import(global, &file, name, trust, passphrase_file.as_deref())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn states() -> Result<States> {
    Ok(States::at(&Paths::from_process()?))
}

fn describe(name: Option<&SnapshotName>, manifest: &StateManifest) -> Value {
    json!({
        "name": name,
        "cluster": manifest.record.name,
        "profile": manifest.record.profile.metadata.name,
        "kubernetesVersion": manifest.record.version,
        "image": manifest.record.image,
        "imageId": manifest.record.image_id,
        "created": manifest.created,
        "nodes": manifest.nodes.len(),
        "withImages": manifest.nodes.iter().any(|node| node.images.is_some()),
        "bytes": manifest.size(),
    })
}

fn list(global: &Global) -> Result<()> {
    let (listed, damaged) = states()?.list();
    let reporter = reporter(global);
    for error in damaged {
        reporter.warn(&error.to_string());
    }
    let value: Vec<Value> = listed.iter().map(|one| describe(one.name.as_ref(), &one.manifest)).collect();
    present::result(global.output, &value, || {
        if listed.is_empty() {
            return "No snapshots. `kprov snapshot save NAME` takes one.\n".to_owned();
        }
        let row = |one: &Listed| {
            let time = k8s_openapi::jiff::Timestamp::from_second(one.manifest.created);
            vec![
                one.name.as_ref().map_or("- (golden)", SnapshotName::as_str).to_owned(),
                one.manifest.record.name.to_string(),
                one.manifest.record.version.clone(),
                time.map(|time| time.strftime("%Y-%m-%d %H:%M").to_string()).unwrap_or_default(),
                size(one.manifest.size()),
            ]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        present::table(&["SNAPSHOT", "CLUSTER", "KUBERNETES", "TAKEN (UTC)", "SIZE"], &rows)
    });
    Ok(())
}

fn export(
    global: &Global,
    name: &SnapshotName,
    file: &Path,
    plain: bool,
    passphrase_file: Option<&Path>,
) -> Result<()> {
    if file.exists() {
        return Err(CarryError::Exists(file.to_owned()).into());
    }
    let passphrase = if plain {
        reporter(global).warn(
            "the file will hold the cluster's certificate authority, its service account key and its encryption keys \
             UNENCRYPTED: whoever reads it owns the cluster",
        );
        None
    } else {
        Some(passphrase(passphrase_file, true)?)
    };
    let bytes = carry::export(&states()?, name, file, passphrase.as_ref())?;
    present::result(
        global.output,
        &json!({"snapshot": name, "file": file, "bytes": bytes, "encrypted": !plain}),
        || format!("Wrote {} ({}).\n", file.display(), size(bytes)),
    );
    Ok(())
}

fn import(
    global: &Global,
    file: &Path,
    name: Option<SnapshotName>,
    trust: bool,
    passphrase_file: Option<&Path>,
) -> Result<()> {
    let states = states()?;
    if let Some(name) = &name {
        states.check_free(name)?;
    }
    let offer = carry::look_into(file, || passphrase(passphrase_file, false))?;
    let name = name.unwrap_or_else(|| offer.name().clone());
    let reporter = reporter(global);
    for line in holds(&offer) {
        reporter.info(&line);
    }
    let trusted = trust || agreed(&offer);
    reporter.close();
    let (holds, exported) = (json!(offer.contents), json!(offer.origin()));
    let manifest = offer.take(&states, &name, trusted, &super::templates(global, &Paths::from_process()?)?)?;
    let mut value = describe(Some(&name), &manifest);
    value["holds"] = holds;
    value["exported"] = exported;
    present::result(global.output, &value, || {
        format!(
            "{name} is the cluster {}, of the image {}.\n\nGo on:\n  kprov up --from {name}\n",
            manifest.record.name, manifest.record.image
        )
    });
    Ok(())
}

/// What a snapshot from elsewhere holds, for whoever is to take it, a line each.
fn holds(offer: &Offer) -> Vec<String> {
    let contents = &offer.contents;
    let exported = match offer.origin() {
        Some(origin) => format!("{} (kprov {}), {}", origin.by, origin.kprov, time(origin.at)),
        None => "it does not say".to_owned(),
    };
    let list = |items: &[String]| if items.is_empty() { "none".to_owned() } else { items.join("; ") };
    let images = match contents.with_images.as_slice() {
        [] => "none but the node image's".to_owned(),
        nodes => format!("loaded ones for {}", nodes.join(", ")),
    };
    let missing = offer.manifest().held.as_ref().map(Held::warnings).unwrap_or_default();
    let rows = [
        ("Exported by", exported),
        ("Taken", time(contents.taken)),
        ("Cluster", format!("{}, of the profile {}", contents.cluster, contents.profile)),
        ("Kubernetes", contents.kubernetes_version.clone()),
        ("Node image", contents.image.clone()),
        ("Nodes", contents.nodes.join(", ")),
        ("Images", images),
        ("Unproven", list(&missing)),
        ("Host mounts", list(&contents.mounts)),
        ("Host ports", list(&contents.ports)),
        (
            "Privileges",
            "its nodes are privileged containers, as all nodes are: what runs in it can become root here".to_owned(),
        ),
    ];
    rows.into_iter().map(|(what, text)| format!("{what}: {}", text.replace('\n', " "))).collect()
}

/// Whether the user, who is there to be asked, takes what it asks for.
fn agreed(offer: &Offer) -> bool {
    let terminal = console::Term::stderr();
    if offer.contents.beyond.is_empty() || !(terminal.is_term() && std::io::stdin().is_terminal()) {
        return false;
    }
    let beyond: String = offer.contents.beyond.iter().map(|line| format!("  - it {line}\n")).collect();
    let question = format!("It asks for more than a cluster of the default profile has:\n{beyond}Take it? [y/N] ");
    let asked = terminal.write_str(&printable(&question)).and_then(|()| terminal.read_line());
    asked.is_ok_and(|answer| matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A time, in seconds since 1970, for people.
fn time(seconds: i64) -> String {
    let time = k8s_openapi::jiff::Timestamp::from_second(seconds);
    time.map(|time| time.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default()
}

/// The passphrase: from a file, from the environment, or typed; a new one twice.
fn passphrase(file: Option<&Path>, new: bool) -> Result<SecretString> {
    let first_line = |text: &str| SecretString::from(text.lines().next().unwrap_or_default().to_owned());
    if let Some(file) = file {
        let bytes = paths::read(file)?.ok_or_else(|| PassphraseError::Missing(file.to_owned()))?;
        return Ok(first_line(&String::from_utf8_lossy(&bytes)));
    }
    if let Ok(text) = std::env::var(VARIABLE) {
        return Ok(SecretString::from(text));
    }
    let terminal = console::Term::stderr();
    if !terminal.is_term() {
        return Err(PortableError::NoPassphrase.into());
    }
    let ask = |question: &str| -> Result<zeroize::Zeroizing<String>> {
        let failed = |error| PathsError::Read { path: "/dev/tty".into(), error };
        terminal.write_str(question).map_err(failed)?;
        Ok(zeroize::Zeroizing::new(terminal.read_secure_line().map_err(failed)?))
    };
    let typed = ask("Passphrase: ")?;
    if new && *typed != *ask("Again: ")? {
        return Err(PassphraseError::Typo.into());
    }
    Ok(SecretString::from(typed.as_str().to_owned()))
}

fn size(bytes: u64) -> String {
    if bytes < 1024 * 1024 { format!("{} KiB", bytes.div_ceil(1024)) } else { format!("{} MiB", bytes / 1024 / 1024) }
}
