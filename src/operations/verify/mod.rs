//! Evidence that a cluster is what it was meant to be.
//!
//! Looks at what runs and at what is stored, never at what was asked for: process command
//! lines, raw values in etcd, file modes, the kubelets' running configuration. What is
//! expected comes from the profile where kprov made the cluster, and from the nodes' own
//! EncryptionConfiguration otherwise.

mod canary;
mod checks;
mod expected;
mod kms;
mod kube_proxy;
mod machine;
mod modes;

use kube::Client;
use serde::Serialize;

use crate::adapters::kubernetes::{ApiError, ready};
use crate::adapters::node::{Node, NodeError};
use crate::documents::render::{Inputs, RenderError};

pub use canary::Canary;
pub use checks::READY;
pub use expected::{Expected, Resource};
pub use kube_proxy::{StandIn, await_kube_proxy, check_name as kube_proxy_check, checks as kube_proxy_checks};
pub use modes::restrict_file_modes;

/// Why there is no evidence, or why it does not suffice.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum VerifyError {
    /// Something does not hold.
    #[error("{} of {total} checks failed:\n{}", failed.len(), failed.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
    #[diagnostic(code(kprov::verify::failed), help("`kprov verify` shows every check with its evidence"))]
    Failed {
        /// What does not hold, a line each.
        failed: Vec<String>,
        /// How many checks there were.
        total: usize,
    },
    /// The EncryptionConfiguration on a node makes no sense.
    #[error("{node}: the EncryptionConfiguration cannot be read: {reason}")]
    #[diagnostic(code(kprov::verify::configuration))]
    Configuration {
        /// The node.
        node: String,
        /// What is wrong, without any of its text.
        reason: String,
    },
    /// A node could not be looked at.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Node(#[from] NodeError),
    /// The API server could not be asked.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Api(#[from] ApiError),
    /// What is expected could not be told.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Render(#[from] RenderError),
}

/// What to look at.
pub struct Target<'a> {
    /// A client for the cluster.
    pub client: &'a Client,
    /// The nodes, the first control plane first.
    pub nodes: &'a [Node],
    /// What the cluster was made from, if kprov made it.
    pub inputs: Option<&'a Inputs<'a>>,
    /// If given, nodes and pods are Ready only on evidence younger than this.
    pub since: ready::Since,
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// Whether there was nothing to look at: nothing speaks against it, and nothing for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unproven: bool,
    /// What was seen.
    pub evidence: String,
}

impl Check {
    fn new(name: impl Into<String>, ok: bool, evidence: impl Into<String>) -> Self {
        Self { name: name.into(), ok, unproven: false, evidence: evidence.into() }
    }

    /// One for which there was nothing to look at.
    fn unproven(name: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self { unproven: true, ..Self::new(name, true, evidence) }
    }
}

/// How the values of one resource are stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Census {
    /// The resource, as in the EncryptionConfiguration.
    pub resource: String,
    /// How a new value is to be stored.
    pub expected: String,
    /// Each way in which values are stored, and how many are.
    pub stored: Vec<(String, usize)>,
}

/// All evidence.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Every check.
    pub checks: Vec<Check>,
    /// The Secret that was written, read back from etcd, and removed.
    pub canary: Option<Canary>,
    /// What is stored under each encrypted resource.
    pub census: Vec<Census>,
}

impl Report {
    /// Whether everything holds.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }

    /// Nothing, if everything holds.
    ///
    /// # Errors
    /// [`VerifyError::Failed`] with all that does not.
    pub fn require(&self) -> Result<(), VerifyError> {
        self.require_but(&[])
    }

    /// Nothing, if everything holds but for checks of these names.
    ///
    /// # Errors
    /// [`VerifyError::Failed`] with all that does not.
    pub fn require_but(&self, except: &[String]) -> Result<(), VerifyError> {
        let failed: Vec<String> = self
            .checks
            .iter()
            .filter(|check| !check.ok && !except.contains(&check.name))
            .map(|check| format!("{}: {}", check.name, check.evidence))
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(VerifyError::Failed { failed, total: self.checks.len() }) }
    }

    /// The names of the checks that fail.
    #[must_use]
    pub fn failed(&self) -> Vec<String> {
        self.checks.iter().filter(|check| !check.ok).map(|check| check.name.clone()).collect()
    }
}

/// Gathers all evidence. Checks that fail are in the report; an error means that something could not be looked at.
///
/// # Errors
/// [`VerifyError`] if a node, the API server or etcd could not be asked at all.
pub async fn verify(target: &Target<'_>) -> Result<Report, VerifyError> {
    let (running, containers) = checks::containers(target.nodes).await?;
    // Nothing can be seen inside a node that does not run; the others are looked at all the same.
    let seen = &Target { nodes: &running, since: target.since.clone(), ..*target };
    let expected = Expected::of(seen).await?;
    let (ready, processes, files, kubelets, machine, proxies, stored) = tokio::join!(
        checks::ready(target),
        checks::processes(seen, &expected),
        checks::files(seen, &expected),
        checks::kubelets(seen, &expected),
        machine::checks(seen),
        kube_proxy::checks(seen),
        checks::stored(seen, &expected),
    );
    let (stored, canary, census) = stored?;
    let mut all = Vec::new();
    for part in [containers, ready?, processes?, files?, kubelets?, machine?, proxies?, stored] {
        all.extend(part);
    }
    Ok(Report { checks: all, canary, census })
}
