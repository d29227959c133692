//! Several clusters at once: side by side as far as memory and cores allow, and each on its own.

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::adapters::engine::EngineInfo;
use crate::adapters::host::{Host, Load, Verdict};
use crate::documents::names::{ClusterName, NameError};
use crate::documents::profile::Role;

use super::delete::forget as forget_record;
use super::interrupt::interrupted;
use super::owner::record_here;
use super::{ClusterError, Context, Outcome, Removed, Request, Whose, create, delete, resolve_image};

/// How many clusters come up at a time on each core: most of a bring-up is waiting, but not all.
const PER_CORE: usize = 2;

/// How many clusters go down at a time: that is the disk's work.
const DOWN_AT_A_TIME: usize = 4;

/// The requests for `count` clusters like `request`, called NAME-1, NAME-2 and so on. Fixed host ports are counted
/// up as well, so that no two clusters want the same.
///
/// # Errors
/// [`NameError`] if the numbers make the name too long.
pub fn numbered(request: &Request, count: u16) -> Result<Vec<Request>, NameError> {
    let shift = |port: u16, by: u16| if port == 0 { 0 } else { port.saturating_add(by) };
    (0..count)
        .map(|index| {
            let mut one = request.clone();
            one.name = request.name.numbered(index + 1)?;
            let spec = &mut one.profile.spec;
            spec.networking.api_server_port = shift(spec.networking.api_server_port, index);
            for port in spec.nodes.iter_mut().flat_map(|node| &mut node.ports) {
                port.host_port = shift(port.host_port, index);
            }
            Ok(one)
        })
        .collect()
}

/// Makes several clusters. The failure of one does not keep the others from coming up.
///
/// # Errors
/// [`ClusterError::TooMany`] if the host has no memory for all of them, [`ClusterError::Engine`]; then none is made.
/// What becomes of each one is in the list, in the order of the requests.
pub async fn create_all(
    context: &Context,
    requests: &[Request],
) -> Result<Vec<Result<Outcome, ClusterError>>, ClusterError> {
    let info = context.engine.info().await?;
    check_memory(context, requests)?;
    // Read once, not by each of them at the same time.
    for request in requests {
        resolve_image(context, request.image()).await?;
    }
    let permits = Semaphore::new(at_a_time(&info));
    Ok(join_all(requests.iter().map(|request| async {
        let scoped = Context { reporter: context.reporter.scoped(&request.name), ..context.clone() };
        let _permit = tokio::select! {
            permit = permits.acquire() => permit,
            // After Ctrl-C, no further cluster is begun.
            () = interrupted() => return Err(ClusterError::Interrupted),
        };
        create(&scoped, request).await
    }))
    .await)
}

/// Removes several clusters. The failure of one does not keep the others.
///
/// One whose record belongs to another engine is left alone, record and keys included; with `forget`, they are
/// forgotten, and this engine's containers of that name stay.
pub async fn delete_all(
    context: &Context,
    names: &[ClusterName],
    whose: Whose,
    forget: bool,
) -> Vec<Result<Removed, ClusterError>> {
    let permits = Semaphore::new(DOWN_AT_A_TIME);
    let permits = &permits;
    join_all(names.iter().map(|name| async move {
        let _permit = permits.acquire().await;
        let _lock = context.store().lock(name)?;
        let step = context.reporter.stage(&format!("Removing the cluster {name}"));
        let removed = match record_here(context, name).await {
            Err(ClusterError::Elsewhere { .. }) if forget => forget_record(context, name)?,
            Err(error @ ClusterError::Elsewhere { .. }) => return Err(error),
            // Removing the cluster is what helps with a record that cannot be read.
            Ok(_) | Err(_) => delete(context, name, whose).await?,
        };
        step.done();
        Ok(removed)
    }))
    .await
}

fn at_a_time(info: &EngineInfo) -> usize {
    usize::try_from(info.cpus).unwrap_or(1).max(1) * PER_CORE
}

/// All of them stay, so memory has to do for all of them.
fn check_memory(context: &Context, requests: &[Request]) -> Result<(), ClusterError> {
    if !context.engine.is_local() {
        return Ok(());
    }
    let host = Host::this();
    let nodes = |requests: &[Request]| -> u32 {
        requests
            .iter()
            .map(|request| request.profile.spec.count(Role::ControlPlane) + request.profile.spec.count(Role::Worker))
            .sum()
    };
    let fits = |requests: &[Request]| {
        let checks = host.checks(Load { nodes: nodes(requests), engine_data: None });
        !checks.iter().any(|check| check.name == "memory" && check.status == Verdict::Fail)
    };
    if fits(requests) {
        return Ok(());
    }
    let possible = (0..requests.len()).rev().find(|&count| count == 0 || fits(&requests[..count])).unwrap_or(0);
    Err(ClusterError::TooMany { wanted: requests.len(), possible })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn names_and_fixed_ports_are_counted_up() {
        let profile = serde_json::from_value(serde_json::json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "p"},
            "spec": {
                "networking": {"apiServerPort": 7000},
                "nodes": [{"role": "control-plane", "ports": [
                    {"containerPort": 80, "hostPort": 8000}, {"containerPort": 81}
                ]}]
            }
        }))
        .unwrap();
        let base = PathBuf::new();
        let request = Request {
            name: "class".parse().unwrap(),
            profile,
            base,
            image: None,
            load_balancer_image: None,
            retain: false,
        };
        let requests = numbered(&request, 3).unwrap();
        let seen: Vec<_> = requests
            .iter()
            .map(|one| {
                let ports: Vec<u16> = one.profile.spec.nodes[0].ports.iter().map(|port| port.host_port).collect();
                (one.name.as_str(), one.profile.spec.networking.api_server_port, ports)
            })
            .collect();
        assert_eq!(
            seen,
            [("class-1", 7000, vec![8000, 0]), ("class-2", 7001, vec![8001, 0]), ("class-3", 7002, vec![8002, 0])]
        );
    }
}
