//! Which cluster a command is about, and what is known of it.

use kube::Client;
use zeroize::Zeroizing;

use crate::adapters::node::Node;
use crate::adapters::{kubeconfig, kubernetes};
use crate::documents::keys::KeyRing;
use crate::documents::names::{ClusterName, NameError};
use crate::documents::record::Record;
use crate::documents::render::KubernetesVersion;
use crate::operations::cluster::{self, ClusterError, Context, Found};
use crate::operations::verify;

use super::Result;

/// The variable of kind's that names the cluster where the command line does not.
const NAME: &str = "KIND_CLUSTER_NAME";

/// What kind's variable names cannot be a cluster.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{NAME} is set to {value:?}, which is no cluster's name: {error}")]
#[diagnostic(code(kprov::cluster::name_variable))]
struct BadVariable {
    value: String,
    error: NameError,
}

/// The name that was given, or the one that `KIND_CLUSTER_NAME` says, as with kind.
pub(super) fn chosen(given: Option<&ClusterName>) -> Result<Option<ClusterName>> {
    if given.is_some() {
        return Ok(given.cloned());
    }
    match std::env::var(NAME) {
        Ok(value) if !value.is_empty() => match value.parse() {
            Ok(name) => Ok(Some(name)),
            Err(error) => Err(BadVariable { value, error }.into()),
        },
        _ => Ok(None),
    }
}

/// The name that was given, or that of the only cluster there is: on the engine, or half made in kprov's records.
pub(super) async fn name(context: &Context, given: Option<&ClusterName>) -> Result<ClusterName> {
    if let Some(chosen) = chosen(given)? {
        return Ok(chosen);
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

/// A cluster that is looked at, with all that is known of it.
pub(super) struct Opened {
    pub(super) found: Found,
    pub(super) nodes: Vec<Node>,
    pub(super) record: Option<Record>,
    pub(super) keys: Option<KeyRing>,
    pub(super) kubeconfig: Zeroizing<String>,
}

impl Opened {
    pub(super) async fn client(&self) -> Result<Client> {
        Ok(kubernetes::client(&self.kubeconfig).await?)
    }

    /// All evidence, held against what the cluster was made from where that is known.
    pub(super) async fn evidence(&self, context: &Context, client: &Client) -> Result<verify::Report> {
        let version: Option<KubernetesVersion> =
            self.record.as_ref().map(|record| record.version.parse()).transpose()?;
        let cgroup_v1 = context.engine.info().await?.cgroup_version == "1";
        let known = self.record.as_ref().zip(version.as_ref());
        let inputs =
            known.map(|(record, version)| record.inputs(version, self.keys.as_ref(), &context.templates, cgroup_v1));
        let target = verify::Target {
            client,
            nodes: &self.nodes,
            inputs: inputs.as_ref(),
            since: kubernetes::ready::Since::Ever,
        };
        Ok(verify::verify(&target).await?)
    }
}

/// Finds a cluster, and its kubeconfig on its first control plane.
pub(super) async fn open(context: &Context, cluster: Option<&ClusterName>) -> Result<Opened> {
    let mut found = cluster::find(&context.engine, chosen(cluster)?.as_ref()).await?;
    if cluster::recover_unless_whole(context, &found).await? {
        found = cluster::find(&context.engine, Some(&found.name)).await?;
    }
    let nodes = found.nodes(&context.engine);
    let control_planes = found.control_planes(&context.engine)?;
    // Each asks the engine, and one need not wait for the other.
    // A record of a cluster of the same name on another engine says nothing of this one.
    let (admin, record) = tokio::join!(
        control_planes.first().read_text(kubeconfig::ADMIN),
        cluster::record_if_here(context, &found.name)
    );
    let admin = admin?;
    let (address, port) =
        found.api_server().ok_or_else(|| ClusterError::NotRunning { name: found.name.to_string() })?;
    let server = format!("https://{}", std::net::SocketAddr::new(address, port));
    let kubeconfig = kubeconfig::for_cluster(&admin, &found.name, &server)?;
    let record = record?;
    let keys = if record.is_some() { context.store().load_keys(&found.name)? } else { None };
    Ok(Opened { nodes, record, keys, kubeconfig, found })
}
