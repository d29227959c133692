//! `kprov snapshot`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use age::secrecy::SecretString;
use serde_json::{Value, json};

use crate::adapters::paths::{self, Paths, PathsError};
use crate::adapters::states::{Listed, States};
use crate::commands::grammar::{Global, SnapshotCommand};
use crate::documents::names::SnapshotName;
use crate::documents::snapshot::{self, PortableError, StateManifest};
use crate::operations::cluster;

use super::{Result, context, present, reporter, target, up};

/// The variable that may hold the passphrase.
const VARIABLE: &str = "KPROV_PASSPHRASE";

/// A file that cannot be written or read.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum FileError {
    /// It is there already.
    #[error("{path} exists already", path = .0.display())]
    #[diagnostic(code(kprov::snapshot::file_exists), help("choose another file"))]
    Exists(PathBuf),
    /// It is not there.
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
            context.reporter.close();
            up::show(global, &outcome?, start);
        }
        SnapshotCommand::Ls => list(global)?,
        SnapshotCommand::Rm { name } => {
            states()?.remove(&name)?;
            present::result(global.output, &json!({"removed": name}), || format!("Removed {name}.\n"));
        }
        SnapshotCommand::Export { name, file, plain, passphrase_file } => {
            export(global, &name, &file, plain, passphrase_file.as_deref())?;
        }
        SnapshotCommand::Import { file, name, passphrase_file } => {
            import(global, &file, name, passphrase_file.as_deref())?;
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
    let draft = states()?.draft(name)?;
    if file.exists() {
        return Err(FileError::Exists(file.to_owned()).into());
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
    let bytes = snapshot::write_portable(name, &draft, passphrase.as_ref())?;
    // New, or nothing: a file that appeared meanwhile is not ours to replace.
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).and_then(|mut out| {
        let done = out.write_all(&bytes).and_then(|()| out.sync_all());
        if done.is_err() {
            let _ = std::fs::remove_file(file);
        }
        done
    });
    written.map_err(|error| PathsError::Write { path: file.to_owned(), error })?;
    present::result(
        global.output,
        &json!({"snapshot": name, "file": file, "bytes": bytes.len(), "encrypted": !plain}),
        || format!("Wrote {} ({}).\n", file.display(), size(bytes.len() as u64)),
    );
    Ok(())
}

fn import(global: &Global, file: &Path, name: Option<SnapshotName>, passphrase_file: Option<&Path>) -> Result<()> {
    let bytes = paths::read(file)?.ok_or_else(|| FileError::Missing(file.to_owned()))?;
    let states = states()?;
    if let Some(name) = &name {
        states.check_free(name)?;
    }
    let passphrase = if snapshot::is_encrypted(&bytes) { Some(passphrase(passphrase_file, false)?) } else { None };
    let (own_name, draft) = snapshot::read_portable(&bytes, passphrase.as_ref())?;
    let name = name.unwrap_or(own_name);
    states.keep_named(&draft, &name)?;
    present::result(global.output, &describe(Some(&name), &draft.manifest), || {
        format!(
            "{name} is the cluster {}, of the image {}.\n\nGo on:\n  kprov up --from {name}\n",
            draft.manifest.record.name, draft.manifest.record.image
        )
    });
    Ok(())
}

/// The passphrase: from a file, from the environment, or typed; a new one twice.
fn passphrase(file: Option<&Path>, new: bool) -> Result<SecretString> {
    let first_line = |text: &str| SecretString::from(text.lines().next().unwrap_or_default().to_owned());
    if let Some(file) = file {
        let bytes = paths::read(file)?.ok_or_else(|| FileError::Missing(file.to_owned()))?;
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
        return Err(FileError::Typo.into());
    }
    Ok(SecretString::from(typed.as_str().to_owned()))
}

fn size(bytes: u64) -> String {
    if bytes < 1024 * 1024 { format!("{} KiB", bytes.div_ceil(1024)) } else { format!("{} MiB", bytes / 1024 / 1024) }
}
