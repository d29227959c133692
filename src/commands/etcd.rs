//! `kprov etcd keys` and `kprov etcd get`.

use std::process::ExitCode;

use serde_json::json;

use crate::adapters::etcd::{Etcd, EtcdEntry};
use crate::commands::grammar::{EtcdCommand, Global};
use crate::documents::names::ClusterName;
use crate::documents::stored;

use super::{Result, context, present};

/// Why a value cannot be shown.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum EtcdError {
    /// There is no such key.
    #[error("etcd has no key {0}")]
    #[diagnostic(
        code(kprov::etcd::no_key),
        help("`kprov etcd keys PREFIX` lists keys, such as `kprov etcd keys secrets/default`")
    )]
    NoKey(String),
}

pub(super) async fn etcd(global: &Global, cluster: Option<&ClusterName>, command: EtcdCommand) -> Result<ExitCode> {
    let context = context(global).await?;
    let found = crate::operations::cluster::find(&context.engine, cluster).await?;
    let etcd = Etcd::on(found.control_planes(&context.engine)?.first().clone());
    match command {
        EtcdCommand::Keys { prefix } => {
            let keys = etcd.keys(&absolute(&prefix)).await?;
            present::result(global.output, &keys, || keys.iter().map(|key| format!("{key}\n")).collect());
        }
        EtcdCommand::Get { key, raw } => {
            let key = absolute(&key);
            let entry = etcd.get(&key).await?.ok_or(EtcdError::NoKey(key))?;
            if raw {
                present::print(&entry.value);
            } else {
                show(global, &entry);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(global: &Global, entry: &EtcdEntry) {
    let stored = stored::classify(&entry.value);
    let fields = stored::fields(&entry.value);
    let value = json!({
        "key": entry.key,
        "modRevision": entry.mod_revision,
        "bytes": entry.value.len(),
        "stored": stored,
        "prefix": stored.to_string(),
        "fields": fields,
    });
    present::result(global.output, &value, || {
        format!(
            "Key       {}\nRevision  {}\nBytes     {}\nStored    {stored}\n\n{}\n{}",
            entry.key,
            entry.mod_revision,
            entry.value.len(),
            stored::hexdump(&entry.value),
            fields.iter().map(|field| format!("{field}\n")).collect::<String>(),
        )
    });
}

/// Keys of API objects may be written without the prefix that all of them share.
pub(super) fn absolute(key: &str) -> String {
    if key.starts_with('/') { key.to_owned() } else { format!("{}{key}", crate::adapters::etcd::ROOT) }
}
