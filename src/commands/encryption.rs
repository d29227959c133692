//! `kprov encryption`.

use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use crate::adapters::etcd::{Etcd, EtcdEntry};
use crate::commands::grammar::{EncryptWith, EncryptionCommand, EncryptionHow, Global};
use crate::documents::encryption::Verb;
use crate::documents::keys::ProviderKind;
use crate::documents::names::ClusterName;
use crate::documents::profile::{self, SearchPath};
use crate::documents::stored;
use crate::operations::cluster;
use crate::operations::encryption::{
    self, EncryptionStatus, Outcome, Plugin, Proof, Request, Rotated, Scrubbed, Subject,
};
use crate::progress::counted;

use super::{Result, context, present, target};

/// How many lines of a value are shown: the prefix, and enough of what follows.
const SHOWN: usize = 10;

pub(super) async fn encryption(global: &Global, command: EncryptionCommand) -> Result<ExitCode> {
    match command {
        EncryptionCommand::Status { cluster } => status(global, cluster.as_ref()).await,
        EncryptionCommand::Enable { provider, resources, key, kms, how } => {
            let kms = plugin(provider, &kms)?;
            let request =
                Request { verb: Verb::Enable, provider: Some(provider.into()), resources, key, kms, retire: false };
            change(global, &how, Some(request)).await
        }
        EncryptionCommand::Rotate { key, retire, how } => {
            let request = Request { verb: Verb::Rotate, provider: None, resources: Vec::new(), key, kms: None, retire };
            change(global, &how, Some(request)).await
        }
        EncryptionCommand::Migrate { to, key, kms, how } => {
            let kms = plugin(to, &kms)?;
            let request = Request {
                verb: Verb::Migrate,
                provider: Some(to.into()),
                resources: Vec::new(),
                key,
                kms,
                retire: false,
            };
            change(global, &how, Some(request)).await
        }
        EncryptionCommand::Disable { how } => {
            let request = Request {
                verb: Verb::Disable,
                provider: None,
                resources: Vec::new(),
                key: None,
                kms: None,
                retire: false,
            };
            change(global, &how, Some(request)).await
        }
        EncryptionCommand::Resume { how } => change(global, &how, None).await,
        EncryptionCommand::Undo { how } => undo(global, &how).await,
    }
}

impl From<EncryptWith> for ProviderKind {
    fn from(provider: EncryptWith) -> Self {
        match provider {
            EncryptWith::Aescbc => Self::Aescbc,
            EncryptWith::Aesgcm => Self::Aesgcm,
            EncryptWith::Secretbox => Self::Secretbox,
            EncryptWith::Kms => Self::Kms,
        }
    }
}

/// A profile has no KMS.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("the profile {0} names no KMS")]
#[diagnostic(
    code(kprov::encryption::no_kms),
    help("`--kms PROFILE` wants one with a provider `type: kms`, such as kms-vault")
)]
struct NoKms(String);

/// The KMS that a profile names, and where its relative paths start; `None` for other providers.
fn plugin(provider: EncryptWith, reference: &str) -> Result<Option<Box<Plugin>>> {
    if provider != EncryptWith::Kms {
        return Ok(None);
    }
    let loaded = profile::load(reference, &[], &SearchPath::of_this_process())?;
    let kms = loaded.profile.kms().cloned().ok_or_else(|| NoKms(reference.to_owned()))?;
    Ok(Some(Box::new(Plugin { kms, base: loaded.base })))
}

/// A cluster's name and all its control planes. Its record, if there is one, has to be of this very cluster: what is
/// changed is written into it.
async fn control_planes(
    context: &cluster::Context,
    cluster: Option<&ClusterName>,
) -> Result<(ClusterName, cluster::ControlPlanes)> {
    let found = cluster::find(&context.engine, cluster).await?;
    let record = cluster::record_here(context, &found.name).await?;
    let nodes = found.all_control_planes(&context.engine, record.as_ref())?;
    Ok((found.name, nodes))
}

async fn status(global: &Global, cluster: Option<&ClusterName>) -> Result<ExitCode> {
    let context = context(global).await?;
    let (name, nodes) = control_planes(&context, cluster).await?;
    let client = target::open(&context, Some(&name)).await?.client().await?;
    let status = encryption::status(&nodes, &client).await?;
    present::result(global.output, &json!({"cluster": name, "encryption": status}), || status_text(&status));
    Ok(ExitCode::SUCCESS)
}

fn status_text(status: &EncryptionStatus) -> String {
    let mut rows = Vec::new();
    for resource in &status.resources {
        let readers = resource.readers.join(", ");
        let mut first = Some((resource.resource.clone(), resource.writer.clone(), readers));
        for stored in &resource.stored {
            let (name, writer, readers) = first.take().unwrap_or_default();
            rows.push(vec![name, writer, stored.stored.clone(), stored.count.to_string(), readers]);
        }
        if let Some((name, writer, readers)) = first {
            rows.push(vec![name, writer, "-".to_owned(), "0".to_owned(), readers]);
        }
    }
    let mut text = present::table(&["RESOURCE", "WRITTEN BY", "STORED AS", "VALUES", "READABLE WITH"], &rows);
    if !status.same {
        text.push_str("\nThe control planes have different configurations.\n");
    }
    if let Some(journal) = &status.under_way {
        text.push_str(&format!(
            "\nUnfinished: {journal}, at \"{}\". `kprov encryption resume` goes on{}.\n",
            journal.phase.title(),
            if journal.turned_back().is_some() { ", `kprov encryption undo` turns back" } else { "" }
        ));
    }
    text
}

async fn change(global: &Global, how: &EncryptionHow, request: Option<Request>) -> Result<ExitCode> {
    run(global, how, async |subject| match &request {
        Some(request) => encryption::run(subject, request).await,
        None => encryption::resume(subject).await,
    })
    .await
}

async fn undo(global: &Global, how: &EncryptionHow) -> Result<ExitCode> {
    run(global, how, async |subject| encryption::undo(subject).await).await
}

async fn run(
    global: &Global,
    how: &EncryptionHow,
    change: impl AsyncFnOnce(&Subject<'_>) -> std::result::Result<Outcome, encryption::EncryptionError>,
) -> Result<ExitCode> {
    let start = Instant::now();
    let context = context(global).await?;
    let name = target::name(&context, how.cluster.as_ref()).await?;
    let _lock = cluster::lock(&context, &name).await?;
    let (_, nodes) = control_planes(&context, Some(&name)).await?;
    let opened = target::open(&context, Some(&name)).await?;
    let client = opened.client().await?;
    let subject = Subject {
        context: &context,
        cluster: &name,
        control_planes: &nodes,
        nodes: &opened.nodes,
        client: &client,
        restart: encryption::restarts(&nodes, how.restart, how.no_outage),
        scrub: !how.no_scrub,
        renew_logs: !how.no_outage || nodes.len() > 1,
    };
    let shown = how.show.as_deref().map(super::etcd::absolute);
    let before = look(&nodes, shown.as_deref()).await?;
    let outcome = change(&subject).await;
    context.reporter.close();
    let outcome = outcome?;
    let after = look(&nodes, shown.as_deref()).await?;
    let status = encryption::status(&nodes, &client).await?;
    let seconds = start.elapsed().as_secs_f64();
    let entry = |entry: &Option<EtcdEntry>| {
        let entry = entry.as_ref()?;
        Some(
            json!({"stored": stored::classify(&entry.value).to_string(), "bytes": entry.value.len(), "fields": stored::fields(&entry.value)}),
        )
    };
    let value = json!({
        "cluster": name,
        "done": outcome.walk.as_ref().map(ToString::to_string),
        "rewritten": outcome.rewritten,
        "rotated": outcome.rotated,
        "proof": outcome.proof,
        "scrubbed": outcome.scrubbed,
        "seconds": (seconds * 10.0).round() / 10.0,
        "key": shown, "before": entry(&before), "after": entry(&after),
        "encryption": status,
    });
    present::result(global.output, &value, || {
        let done = match &outcome.walk {
            Some(walk) => {
                let proof = outcome.proof.map(proof_text).unwrap_or_default();
                format!(
                    "Done: {walk}. {} rewritten, {seconds:.1} s.{proof}\n{}",
                    counted(outcome.rewritten, "value"),
                    scrubbed_text(&outcome.scrubbed)
                )
            }
            None => match &outcome.rotated {
                Some(rotated) => rotated_text(rotated, outcome.rewritten, seconds),
                None => "Everything is as asked for already.\n".to_owned(),
            },
        };
        let compared = shown.as_deref().map(|key| compared(key, before.as_ref(), after.as_ref())).unwrap_or_default();
        format!("{compared}{}\n{done}", status_text(&status))
    });
    Ok(ExitCode::SUCCESS)
}

fn rotated_text(rotated: &Rotated, rewritten: usize, seconds: f64) -> String {
    let Rotated { from, to, values, note } = rotated;
    let from = if from == to { String::new() } else { format!(" from {from}") };
    format!(
        "Done: rotate in the KMS{from} to {to}. {} rewritten, {seconds:.1} s. {} looked through in etcd: all are wrapped by that key.\n{note}\n",
        counted(rewritten, "value"),
        counted(*values, "value"),
    )
}

fn proof_text(proof: Proof) -> String {
    let Proof { values, concerned } = proof;
    let seen = format!(" All {values} values in etcd were looked through: none needs a key that went.");
    match concerned {
        0 => format!("{seen} Nothing is stored of these resources, so nothing is proven for them."),
        1 => format!("{seen} 1 of them is of these resources."),
        _ => format!("{seen} {concerned} of them are of these resources."),
    }
}

/// What is left of the time before, said as it is.
fn scrubbed_text(members: &[Scrubbed]) -> String {
    let mut text = String::new();
    for Scrubbed { node, before, after, kept } in members {
        let held = if before.is_empty() { "none".to_owned() } else { before.join(", ") };
        let left = if after.is_empty() { "none".to_owned() } else { after.join(", ") };
        text.push_str(&format!(
            "{node}: of etcd's files, these held what was stored before: {held}. Still do: {left}.\n"
        ));
        if let Some(reason) = kept {
            text.push_str(&format!(
                "{node}: its write-ahead log is kept: {reason}\n{node}: etcd drops it by itself some hundred MB of writes later; `kprov encryption rotate` tries again.\n"
            ));
        }
    }
    if !members.is_empty() {
        text.push_str(
            "Not looked at: blocks that the host's file system has freed, and states that were kept earlier.\n",
        );
    }
    text
}

async fn look(nodes: &cluster::ControlPlanes, key: Option<&str>) -> Result<Option<EtcdEntry>> {
    match key {
        Some(key) => Ok(Etcd::on(nodes.first().clone()).get(key).await?),
        None => Ok(None),
    }
}

/// The same key before and after, side by side.
fn compared(key: &str, before: Option<&EtcdEntry>, after: Option<&EtcdEntry>) -> String {
    let column = |entry: Option<&EtcdEntry>| -> Vec<String> {
        let Some(entry) = entry else { return vec!["(no such key)".to_owned()] };
        let dump = stored::hexdump(&entry.value[..entry.value.len().min(16 * SHOWN)]);
        // The offset and the printable characters: a whole hexdump is too wide for two columns.
        let lines = dump.lines().map(|line| {
            let (_, ascii) = line.split_once('|').unwrap_or(("", line));
            format!("{} |{ascii}", line.get(..8).unwrap_or_default())
        });
        std::iter::once(stored::classify(&entry.value).to_string()).chain(lines).collect()
    };
    let (left, right) = (column(before), column(after));
    let rows: Vec<Vec<String>> = (0..left.len().max(right.len()))
        .map(|line| [&left, &right].map(|column| column.get(line).cloned().unwrap_or_default()).to_vec())
        .collect();
    format!("{key}\n\n{}\n", present::table(&["BEFORE", "AFTER"], &rows))
}
