//! Where nodes get images from, whom they trust, and how much of the machine their pods are promised: as was asked for?

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use k8s_openapi::api::core::v1::Node as ApiNode;
use kube::{Api, Client};

use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::Node;
use crate::documents::profile::{Limits, Registry};
use crate::documents::render::{REGISTRY_FOLDER, added_authority, plan_nodes, registry_hosts};

use super::{Check, Target, VerifyError};

/// Says what containerd runs with: the folders that it looks into for registries, and which of ours has what it is told.
const REGISTRIES: &str = include_str!("scripts/registries.sh");

/// All that a Debian system trusts.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// All of it; nothing where the profile asks for nothing.
pub(super) async fn checks(target: &Target<'_>) -> Result<Vec<Check>, VerifyError> {
    let Some(inputs) = target.inputs else { return Ok(Vec::new()) };
    let spec = &inputs.profile.spec;
    let plans = plan_nodes(inputs.profile, inputs.cluster);
    let checks = target.nodes.iter().map(async |node| {
        let mut checks = Vec::new();
        if let Some(registry) = &spec.registry {
            checks.push(registries(node, registry).await?);
        }
        if !spec.ca_certificates.is_empty() {
            checks.push(authorities(node, spec.ca_certificates.len()).await?);
        }
        let limits = plans.iter().find(|plan| plan.name == node.name).map(|plan| &plan.limits);
        if let Some(limits) = limits.filter(|limits| !limits.is_none()) {
            checks.push(promised(target.client, node, limits).await?);
        }
        Ok::<_, VerifyError>(checks)
    });
    Ok(try_join_all(checks).await?.into_iter().flatten().collect())
}

/// containerd looks into our folder, and finds there what the profile names.
async fn registries(node: &Node, registry: &Registry) -> Result<Check, VerifyError> {
    let script = format!("FOLDER={REGISTRY_FOLDER}\n{REGISTRIES}");
    let said = node.script("looking at registries", &script).await?;
    let (path, found) = said.split_once('\n').unwrap_or((&said, ""));
    let found: BTreeSet<&str> = found.lines().collect();
    let wanted = registry_hosts(registry);
    let lacking: Vec<String> = wanted.iter().filter(|host| !found.contains(host.as_str())).cloned().collect();
    let name = format!("{}: registries", node.name);
    Ok(if !path.split([':', '"', '\'']).any(|folder| folder == REGISTRY_FOLDER) {
        Check::new(name, false, format!("containerd does not look into {REGISTRY_FOLDER} ({path})"))
    } else if lacking.is_empty() {
        Check::new(name, true, format!("containerd looks into {REGISTRY_FOLDER} for {}", wanted.join(", ")))
    } else {
        Check::new(name, false, format!("there is no hosts.toml for {} in {REGISTRY_FOLDER}", lacking.join(", ")))
    })
}

/// Each certificate that was added is in the bundle that everything on the node trusts.
async fn authorities(node: &Node, count: usize) -> Result<Check, VerifyError> {
    let bundle = node.read_file(BUNDLE).await?.unwrap_or_default();
    let bundle = String::from_utf8_lossy(&bundle);
    let mut lacking = Vec::new();
    for number in 1..=count {
        let file = added_authority(number);
        let text = node.read_file(&file).await?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if text.trim().is_empty() || !bundle.contains(text.trim()) {
            lacking.push(file);
        }
    }
    let name = format!("{}: trusted certificates", node.name);
    Ok(if lacking.is_empty() {
        Check::new(name, true, format!("{BUNDLE} has those of {count} files that were added"))
    } else {
        Check::new(name, false, format!("{BUNDLE} lacks what should be in {}", lacking.join(", ")))
    })
}

/// Pods are promised no more than the node may use.
async fn promised(client: &Client, node: &Node, limits: &Limits) -> Result<Check, VerifyError> {
    let api: Api<ApiNode> = Api::all(client.clone());
    let seen = api.get(&node.name).await.map_err(ApiError::request(format!("looking at the node {}", node.name)))?;
    let allocatable = seen.status.and_then(|status| status.allocatable).unwrap_or_default();
    let of = |resource: &str| allocatable.get(resource).map(|quantity| quantity.0.clone()).unwrap_or_default();
    let (cpu, memory) = (of("cpu"), of("memory"));
    let fits = |seen: Option<u64>, limit: Option<u64>| limit.is_none_or(|limit| seen.is_some_and(|seen| seen <= limit));
    let cpu_fits = fits(millis(&cpu), limits.cpus.map(|cpus| u64::from(cpus) * 1000));
    let memory_fits = fits(bytes(&memory), limits.memory_bytes());
    let asked = [limits.cpus.map(|cpus| format!("{cpus} CPUs")), limits.memory.clone()];
    let asked = asked.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let evidence = format!("pods are promised {cpu} CPUs and {memory}; the node may use {asked}");
    Ok(Check::new(format!("{}: limits", node.name), cpu_fits && memory_fits, evidence))
}

fn millis(quantity: &str) -> Option<u64> {
    match quantity.strip_suffix('m') {
        Some(millis) => millis.parse().ok(),
        None => quantity.parse::<u64>().ok()?.checked_mul(1000),
    }
}

fn bytes(quantity: &str) -> Option<u64> {
    let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40)];
    let (number, unit) =
        units.iter().find_map(|(name, unit)| Some((quantity.strip_suffix(name)?, *unit))).unwrap_or((quantity, 1));
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_what_kubelets_write() {
        assert_eq!((millis("2"), millis("1500m"), millis("x")), (Some(2000), Some(1500), None));
        for four in ["4194304Ki", "4096Mi", "4Gi", "4294967296"] {
            assert_eq!(bytes(four), Some(4 << 30), "{four}");
        }
        assert_eq!((bytes(""), bytes("4G")), (None, None));
    }
}
