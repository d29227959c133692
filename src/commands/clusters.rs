//! Commands on clusters that are there: `ls`, `status`, `verify`, `kubeconfig` and `down`.

use std::io::IsTerminal;
use std::process::ExitCode;

use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::adapters::kubernetes::ready;
use crate::adapters::node::Node;
use crate::adapters::{kubeconfig, kubernetes};
use crate::commands::grammar::Global;
use crate::documents::keys::KeyRing;
use crate::documents::names::ClusterName;
use crate::documents::profile::Role;
use crate::documents::record::Record;
use crate::documents::render::KubernetesVersion;
use crate::operations::cluster::{self, ClusterError, Context, Found, Whose};
use crate::operations::verify::{self, Report};

use super::{Result, context, present};

/// The name that was given, or that of the only cluster there is: on the engine, or half made in kprov's records.
pub(super) async fn name(context: &Context, given: Option<&ClusterName>) -> Result<ClusterName> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    match cluster::find(&context.engine, None).await {
        Ok(found) => Ok(found.name),
        Err(ClusterError::None) => {
            let mut names = context.store().names();
            match names.len() {
                0 => Err(ClusterError::None.into()),
                1 => Ok(names.remove(0)),
                _ => Err(ClusterError::Ambiguous { known: names.iter().map(ToString::to_string).collect() }.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn ls(global: &Global) -> Result<ExitCode> {
    let context = context(global).await?;
    let clusters = cluster::list(&context.engine).await?;
    let value: Vec<Value> = clusters
        .iter()
        .map(|cluster| {
            let (running, all) = cluster.running();
            json!({"cluster": cluster.name, "profile": cluster.profile(), "containers": all, "running": running,
                "apiServer": cluster.api_server().map(|(address, port)| format!("https://{address}:{port}"))})
        })
        .collect();
    present::result(global.output, &value, || {
        let rows: Vec<Vec<String>> = clusters
            .iter()
            .map(|cluster| {
                let (running, all) = cluster.running();
                vec![
                    cluster.name.to_string(),
                    cluster.profile().unwrap_or("- (made by kind)").to_owned(),
                    format!("{running}/{all} running"),
                    cluster.api_server().map_or_else(|| "-".to_owned(), |(address, port)| format!("{address}:{port}")),
                ]
            })
            .collect();
        if rows.is_empty() {
            return "No clusters. `kprov up` makes one.\n".to_owned();
        }
        present::table(&["CLUSTER", "PROFILE", "NODES", "API SERVER"], &rows)
    });
    Ok(ExitCode::SUCCESS)
}

/// A cluster that is looked at, with all that is known of it.
pub(super) struct Opened {
    pub(super) found: Found,
    pub(super) nodes: Vec<Node>,
    pub(super) record: Option<Record>,
    keys: Option<KeyRing>,
    pub(super) kubeconfig: Zeroizing<String>,
}

impl Opened {
    pub(super) async fn client(&self) -> Result<Client> {
        Ok(kubernetes::client(&self.kubeconfig).await?)
    }
}

/// Finds a cluster, and its kubeconfig on its first control plane.
pub(super) async fn open(context: &Context, cluster: Option<&ClusterName>) -> Result<Opened> {
    let found = cluster::find(&context.engine, cluster).await?;
    let nodes = found.nodes(&context.engine);
    let control_planes = found.control_planes(&context.engine)?;
    let admin = control_planes.first().read_text("/etc/kubernetes/admin.conf").await?;
    let (address, port) =
        found.api_server().ok_or_else(|| ClusterError::NotRunning { name: found.name.to_string() })?;
    let server = format!("https://{}", std::net::SocketAddr::new(address, port));
    let kubeconfig = kubeconfig::for_cluster(&admin, &found.name, &server)?;
    // A record of a cluster of the same name on another engine says nothing of this one.
    let record = match cluster::record_here(context, &found.name).await {
        Err(ClusterError::Elsewhere { .. }) => None,
        other => other?,
    };
    let keys = if record.is_some() { context.store().load_keys(&found.name)? } else { None };
    Ok(Opened { nodes, record, keys, kubeconfig, found })
}

pub(super) async fn status(global: &Global, cluster: Option<&ClusterName>) -> Result<ExitCode> {
    let context = context(global).await?;
    let found = cluster::find(&context.engine, cluster).await?;
    let record = context.store().load(&found.name)?;
    let ready = match open(&context, Some(&found.name)).await {
        Ok(opened) => ready_nodes(&opened).await,
        Err(_) => None,
    };
    let nodes: Vec<Value> = found
        .containers
        .iter()
        .map(|container| {
            let (ipv4, ipv6) = container.addresses.get(cluster::NETWORK).copied().unwrap_or_default();
            let state = ready.as_ref().and_then(|ready| ready.get(&container.name));
            json!({"name": container.name, "role": container.labels.get(cluster::LABEL_ROLE),
                "container": container.state, "ready": state, "ipv4": ipv4, "ipv6": ipv6})
        })
        .collect();
    let value = json!({
        "cluster": found.name,
        "profile": found.profile(),
        "digest": found.digest(),
        "status": record.as_ref().map(|record| record.status),
        "kubernetesVersion": record.as_ref().map(|record| &record.version),
        "image": record.as_ref().map(|record| &record.image),
        "apiServer": found.api_server().map(|(address, port)| format!("https://{}", std::net::SocketAddr::new(address, port))),
        "encryption": record.as_ref().and_then(|record| record.profile.spec.encryption.as_ref()).map(|encryption| json!({
            "providers": encryption.providers.iter().map(|provider| provider.kind.name()).collect::<Vec<_>>(),
            "resources": encryption.resources,
        })),
        "nodes": nodes,
    });
    present::result(global.output, &value, || status_text(&value));
    Ok(ExitCode::SUCCESS)
}

/// Whether each node is Ready; `None` if the API server does not answer.
async fn ready_nodes(opened: &Opened) -> Option<std::collections::HashMap<String, bool>> {
    let client = opened.client().await.ok()?;
    let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(client);
    let nodes = tokio::time::timeout(std::time::Duration::from_secs(5), api.list(&ListParams::default())).await;
    let is_ready = |node: &k8s_openapi::api::core::v1::Node| {
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Some(nodes.ok()?.ok()?.items.iter().map(|node| (node.name_any(), is_ready(node))).collect())
}

fn status_text(value: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let list = |value: &Value| {
        let items: Vec<String> = value.as_array().into_iter().flatten().map(text).collect();
        items.join(", ")
    };
    let encryption = match &value["encryption"] {
        Value::Null => "none".to_owned(),
        encryption => format!("{} on {}", list(&encryption["providers"]), list(&encryption["resources"])),
    };
    let mut lines = String::new();
    for (name, shown) in [
        ("Cluster", text(&value["cluster"])),
        ("Profile", text(&value["profile"])),
        ("Status", text(&value["status"])),
        ("Kubernetes", text(&value["kubernetesVersion"])),
        ("Image", text(&value["image"])),
        ("Digest", text(&value["digest"])),
        ("API server", text(&value["apiServer"])),
        ("Encryption", encryption),
    ] {
        lines.push_str(&format!("{name:<12} {shown}\n"));
    }
    let rows: Vec<Vec<String>> = value["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|node| {
            let ready = match &node["ready"] {
                Value::Bool(true) => "Ready",
                Value::Bool(false) => "NotReady",
                _ => "-",
            };
            vec![
                text(&node["name"]),
                text(&node["role"]),
                text(&node["container"]),
                ready.to_owned(),
                text(&node["ipv4"]),
            ]
        })
        .collect();
    format!("{lines}\n{}", present::table(&["NODE", "ROLE", "CONTAINER", "READY", "ADDRESS"], &rows))
}

pub(super) async fn verify(global: &Global, cluster: Option<&ClusterName>) -> Result<ExitCode> {
    let context = context(global).await?;
    let opened = open(&context, cluster).await?;
    let client = opened.client().await?;
    let version: Option<KubernetesVersion> = opened.record.as_ref().map(|record| record.version.parse()).transpose()?;
    let cgroup_v1 = context.engine.info().await?.cgroup_version == "1";
    let inputs = opened
        .record
        .as_ref()
        .zip(version.as_ref())
        .map(|(record, version)| record.inputs(version, opened.keys.as_ref(), &context.templates, cgroup_v1));
    let step = context.reporter.stage("Gathering evidence");
    let target = verify::Target { client: &client, nodes: &opened.nodes, inputs: inputs.as_ref(), since: None };
    let report = verify::verify(&target).await?;
    step.done();
    context.reporter.close();
    present::result(
        global.output,
        &json!({"cluster": opened.found.name, "ok": report.is_ok(), "evidence": report}),
        || evidence(&report, true),
    );
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn wait(
    global: &Global,
    cluster: Option<&ClusterName>,
    nodes_only: bool,
    timeout: std::time::Duration,
) -> Result<ExitCode> {
    let context = context(global).await?;
    let opened = open(&context, cluster).await?;
    let client = opened.client().await?;
    let names = |nodes: &mut dyn Iterator<Item = &Node>| nodes.map(|node| node.name.clone()).collect::<Vec<_>>();
    let expected = ready::Expectation {
        nodes: names(&mut opened.nodes.iter()),
        control_planes: names(&mut opened.nodes.iter().filter(|node| node.role == Role::ControlPlane)),
        pods: !nodes_only,
        since: None,
    };
    let step = context.reporter.stage("Waiting until every node and system pod is Ready");
    ready::wait(&client, &expected, timeout, |pending| {
        if let Some(first) = pending.first() {
            step.detail(&format!("{first} ({} in all)", pending.len()));
        }
    })
    .await?;
    step.done();
    context.reporter.close();
    present::result(global.output, &json!({"cluster": opened.found.name, "ready": true}), || {
        format!("{} is ready.\n", opened.found.name)
    });
    Ok(ExitCode::SUCCESS)
}

/// How much of each check's evidence is shown where not all of it is asked for.
const SHORT: usize = 96;

/// The evidence as text: all of it, or the beginning of each check's.
pub(super) fn evidence(report: &Report, all: bool) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let mark = if check.ok { "ok  " } else { "FAIL" };
        let evidence = if all || !check.ok { check.evidence.clone() } else { shortened(&check.evidence) };
        text.push_str(&format!("{mark} {}: {evidence}\n", check.name));
    }
    if let Some(canary) = &report.canary {
        let indented: String = canary.first_bytes.lines().map(|line| format!("       {line}\n")).collect();
        text.push_str(&format!("     the canary's first bytes in etcd ({}):\n{indented}", canary.stored));
    }
    text
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= SHORT {
        return text.to_owned();
    }
    text.chars().take(SHORT).chain(['…']).collect()
}

pub(super) async fn kubeconfig(global: &Global, cluster: Option<&ClusterName>, merge: bool) -> Result<ExitCode> {
    let context = context(global).await?;
    let opened = open(&context, cluster).await?;
    if merge {
        let file = context.kubeconfig.merge(&opened.kubeconfig)?;
        let entry = kubeconfig::entry_name(&opened.found.name);
        present::result(global.output, &json!({"context": entry, "kubeconfig": file}), || {
            format!("The context {entry} is in {}.\n", file.display())
        });
    } else {
        present::print(opened.kubeconfig.as_bytes());
    }
    Ok(ExitCode::SUCCESS)
}

/// Some of several clusters could not be removed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{} of {total} clusters could not be removed; the others are gone", failed.len())]
#[diagnostic(code(kprov::cluster::several))]
struct SomeRemain {
    total: usize,
    #[related]
    failed: Vec<ClusterError>,
}

/// Nobody has said that the only cluster is to be removed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("the cluster {cluster:?} is not removed: nobody has named it or said yes")]
#[diagnostic(
    code(kprov::cluster::unconfirmed),
    help("`kprov down {cluster}` removes it, and so does `kprov down --yes`")
)]
struct Unconfirmed {
    cluster: String,
}

/// The only cluster, once the user has agreed that it goes.
async fn only_one(context: &Context, yes: bool) -> Result<ClusterName> {
    let name = name(context, None).await?;
    let unconfirmed = || Unconfirmed { cluster: name.to_string() };
    let terminal = console::Term::stderr();
    if yes {
        return Ok(name);
    }
    if !(terminal.is_term() && std::io::stdin().is_terminal()) {
        return Err(unconfirmed().into());
    }
    let asked = terminal.write_str(&format!("Remove the cluster {name}, with all that is in it? [y/N] "));
    let answer = asked.and_then(|()| terminal.read_line()).map_err(|_| unconfirmed())?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(name),
        _ => Err(unconfirmed().into()),
    }
}

pub(super) async fn down(global: &Global, cluster: Option<&ClusterName>, yes: bool, all: bool) -> Result<ExitCode> {
    let context = context(global).await?;
    // First: a kprov that was killed early may have left something, but no cluster.
    cluster::delete_leftovers(&context).await?;
    let (names, whose) = match cluster {
        Some(cluster) => (vec![cluster.clone()], Whose::Any),
        None if all => (ours(&context).await?, Whose::Own),
        None => (vec![only_one(&context, yes).await?], Whose::Any),
    };
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for (name, result) in names.iter().zip(cluster::delete_all(&context, &names, whose, yes).await) {
        match result {
            Ok(what) if what.is_nothing() => {
                let known =
                    cluster::list(&context.engine).await?.into_iter().map(|cluster| cluster.name.to_string()).collect();
                failed.push(ClusterError::Unknown { name: name.to_string(), known });
            }
            Ok(_) => removed.push(name),
            Err(error @ ClusterError::Elsewhere { .. }) if all => {
                context.reporter.info(&format!("Left alone: {error}."))
            }
            Err(error) => failed.push(error),
        }
    }
    if !failed.is_empty() {
        context.reporter.close();
        return Err(if failed.len() == 1 && names.len() == 1 {
            failed.remove(0).into()
        } else {
            SomeRemain { total: names.len(), failed }.into()
        });
    }
    context.reporter.close();
    present::result(global.output, &json!({"removed": removed}), || match removed.as_slice() {
        [] => "There was nothing to remove.\n".to_owned(),
        names => format!("Removed {}.\n", names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")),
    });
    Ok(ExitCode::SUCCESS)
}

/// The names of all clusters that kprov made or has a record of. Those of kind itself are not ours to remove.
async fn ours(context: &Context) -> Result<Vec<ClusterName>> {
    let mut names = context.store().names();
    for cluster in cluster::list(&context.engine).await? {
        if cluster.digest().is_some() && !names.contains(&cluster.name) {
            names.push(cluster.name);
        }
    }
    Ok(names)
}
