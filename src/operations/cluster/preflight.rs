//! Whether the engine and its host can carry what is about to be made.

use std::path::Path;

use crate::adapters::engine::{Engine, EngineInfo};
use crate::adapters::host::{Host, HostCheck, Load, Verdict};

use super::{ClusterError, Context};

/// All checks of the engine and, where that is this host, of the host, for `nodes` nodes.
#[must_use]
pub fn checks(engine: &Engine, info: &EngineInfo, nodes: u32) -> Vec<HostCheck> {
    let mut checks = Vec::new();
    if info.rootless {
        let check = if info.cgroup_version == "2" {
            HostCheck::new("rootless engine", Verdict::Warn, "nodes need delegated cgroup controllers")
                .with_help("see https://kind.sigs.k8s.io/docs/user/rootless")
        } else {
            HostCheck::new("rootless engine", Verdict::Fail, "a rootless engine needs cgroup v2 to run nodes")
        };
        checks.push(check);
    }
    if engine.is_local() {
        checks.extend(Host::this().checks(Load { nodes, engine_data: Some(Path::new(&info.root_dir)) }));
    }
    checks
}

/// Warns of what is short, and stops where it cannot do.
pub(super) fn require(context: &Context, info: &EngineInfo, nodes: u32) -> Result<(), ClusterError> {
    let checks = checks(&context.engine, info, nodes);
    let failed: Vec<HostCheck> = checks.iter().filter(|check| check.status == Verdict::Fail).cloned().collect();
    if !failed.is_empty() {
        return Err(ClusterError::Host { nodes, failed });
    }
    for check in checks.iter().filter(|check| check.status == Verdict::Warn) {
        context.reporter.warn(&check.to_string());
    }
    Ok(())
}
