//! `kprov status`: what a cluster is, and whether its nodes are there.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use crate::adapters::engine::{Container, ContainerState};
use crate::adapters::kms_plugin;
use crate::adapters::kubernetes::ready;
use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::documents::profile::{Kms, Role};
use crate::documents::record::{Record, RecordStatus};
use crate::operations::cluster::{self, Context, Found};

use super::target::{chosen, open};
use super::{Result, context, present};

/// How long the API server has to say which nodes are Ready.
const ANSWER: Duration = Duration::from_secs(5);

/// What is known of a cluster; of one that kprov has no record of, less.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    cluster: ClusterName,
    profile: Option<String>,
    digest: Option<String>,
    status: Option<RecordStatus>,
    kubernetes_version: Option<String>,
    image: Option<String>,
    api_server: Option<String>,
    encryption: Option<Encryption>,
    /// How each control plane's KMS plugin is, where the profile has one.
    kms: Vec<KmsStatus>,
    nodes: Vec<NodeStatus>,
}

/// What the profile says of encryption.
#[derive(Serialize)]
struct Encryption {
    providers: Vec<String>,
    resources: Vec<String>,
}

#[derive(Serialize)]
struct KmsStatus {
    node: String,
    /// None if the plugin does not answer.
    provider: Option<String>,
    key: Option<String>,
    /// None if all is well.
    problem: Option<String>,
}

#[derive(Serialize)]
struct NodeStatus {
    name: String,
    role: Option<String>,
    container: ContainerState,
    /// None if the API server does not answer, or does not know the node.
    ready: Option<bool>,
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

pub(super) async fn status(global: &Global, cluster: Option<&ClusterName>) -> Result<ExitCode> {
    let context = context(global).await?;
    let found = cluster::find(&context.engine, chosen(cluster)?.as_ref()).await?;
    let record = cluster::record_if_here(&context, &found.name).await?;
    let has_plugin = record.as_ref().and_then(|record| record.profile.kms()).is_some_and(Kms::is_own);
    let (ready, kms) = tokio::join!(ready_nodes(&context, &found.name), async {
        if has_plugin { plugins(&context, &found).await } else { Vec::new() }
    });
    let status = Status::of(&found, record.as_ref(), &ready, kms);
    present::result(global.output, &status, || status.text());
    Ok(ExitCode::SUCCESS)
}

/// Whether each node is Ready; nothing if the API server cannot be asked, which is no reason to show nothing else.
async fn ready_nodes(context: &Context, cluster: &ClusterName) -> BTreeMap<String, bool> {
    let asked = async {
        let client = open(context, Some(cluster)).await.ok()?.client().await.ok()?;
        tokio::time::timeout(ANSWER, ready::nodes(&client)).await.ok()?.ok()
    };
    asked.await.unwrap_or_default()
}

/// How the plugins are; what cannot be asked is told as its problem.
async fn plugins(context: &Context, found: &Found) -> Vec<KmsStatus> {
    let nodes = found.nodes(&context.engine);
    let asked = nodes.iter().filter(|node| node.role == Role::ControlPlane).map(|node| async {
        let status = |provider, key, problem| KmsStatus { node: node.name.clone(), provider, key, problem };
        match tokio::time::timeout(ANSWER, kms_plugin::report(node)).await {
            Ok(Ok(Ok(report))) => status(Some(report.provider), Some(report.key_id), report.problem),
            Ok(Ok(Err(problem))) => status(None, None, Some(problem)),
            Ok(Err(error)) => status(None, None, Some(error.to_string())),
            Err(_) => status(None, None, Some(format!("no answer within {} s", ANSWER.as_secs()))),
        }
    });
    join_all(asked).await
}

impl KmsStatus {
    fn line(&self) -> String {
        let provider = self.provider.as_deref().unwrap_or("no plugin");
        match &self.problem {
            Some(problem) => format!("{provider}, ILL: {problem} ({})", self.node),
            None => format!("{provider}, well, wraps by {} ({})", self.key.as_deref().unwrap_or("-"), self.node),
        }
    }
}

impl Status {
    fn of(found: &Found, record: Option<&Record>, ready: &BTreeMap<String, bool>, kms: Vec<KmsStatus>) -> Self {
        let encryption = record.and_then(|record| record.profile.spec.encryption.as_ref());
        let first = found.containers.first().and_then(|container| container.addresses.keys().next());
        // Of a cluster that kprov has no record of, its nodes' only one.
        let network = record.map(Record::network).or(first.map(String::as_str)).unwrap_or_default();
        Self {
            cluster: found.name.clone(),
            profile: found.profile().map(str::to_owned),
            digest: found.digest().map(str::to_owned),
            status: record.map(|record| record.status),
            kubernetes_version: record.map(|record| record.version.clone()),
            image: record.map(|record| record.image.clone()),
            api_server: found.api_server().map(|(address, port)| format!("https://{}", SocketAddr::new(address, port))),
            encryption: encryption.map(|encryption| Encryption {
                providers: encryption.providers.iter().map(|provider| provider.kind.name().to_owned()).collect(),
                resources: encryption.resources.clone(),
            }),
            kms,
            nodes: found.containers.iter().map(|container| NodeStatus::of(container, network, ready)).collect(),
        }
    }

    fn text(&self) -> String {
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let encryption = self.encryption.as_ref().map_or_else(
            || "none".to_owned(),
            |encryption| format!("{} on {}", encryption.providers.join(", "), encryption.resources.join(", ")),
        );
        let lines: String = [
            ("Cluster", self.cluster.to_string()),
            ("Profile", or_dash(self.profile.as_deref())),
            ("Status", self.status.map_or_else(|| "-".to_owned(), |status| status.to_string())),
            ("Kubernetes", or_dash(self.kubernetes_version.as_deref())),
            ("Image", or_dash(self.image.as_deref())),
            ("Digest", or_dash(self.digest.as_deref())),
            ("API server", or_dash(self.api_server.as_deref())),
            ("Encryption", encryption),
        ]
        .map(|(name, shown)| format!("{name:<12} {shown}\n"))
        .concat();
        let kms: String = self.kms.iter().map(|one| format!("{:<12} {}\n", "KMS", one.line())).collect();
        let rows: Vec<_> = self.nodes.iter().map(NodeStatus::cells).collect();
        format!("{lines}{kms}\n{}", present::table(&["NODE", "ROLE", "CONTAINER", "READY", "ADDRESS"], &rows))
    }
}

impl NodeStatus {
    fn of(container: &Container, network: &str, ready: &BTreeMap<String, bool>) -> Self {
        let (ipv4, ipv6) = container.addresses.get(network).copied().unwrap_or_default();
        Self {
            name: container.name.clone(),
            role: container.labels.get(cluster::LABEL_ROLE).cloned(),
            container: container.state,
            ready: ready.get(&container.name).copied(),
            ipv4,
            ipv6,
        }
    }

    fn cells(&self) -> Vec<String> {
        let ready = match self.ready {
            Some(true) => "Ready",
            Some(false) => "NotReady",
            None => "-",
        };
        vec![
            self.name.clone(),
            self.role.as_deref().unwrap_or("-").to_owned(),
            self.container.to_string(),
            ready.to_owned(),
            self.ipv4.map_or_else(|| "-".to_owned(), |address| address.to_string()),
        ]
    }
}
