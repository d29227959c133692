//! `kprov up` and `kprov reset`.

use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use crate::adapters::kubeconfig;
use crate::commands::grammar::{self, Global};
use crate::documents::names::ClusterName;
use crate::documents::profile::{self, Profile, SearchPath};
use crate::operations::cluster::{self, ClusterError, Context, Outcome, Request};
use crate::operations::load;
use crate::progress::counted;

use super::waterfall::waterfall;
use super::{Result, context, present, target, verify};

pub(super) async fn up(global: &Global, arguments: &grammar::Up) -> Result<ExitCode> {
    let start = Instant::now();
    let source = &arguments.source;
    if let Some(snapshot) = &arguments.from {
        let context = Context { patience: arguments.wait, ..context(global).await? };
        let outcome = cluster::create_from(&context, snapshot, source.name.as_ref(), arguments.retain).await;
        return complete(global, &context, outcome, start, arguments.timings).await;
    }
    let mut loaded = profile::load_layers(&source.profile, &source.set, &SearchPath::of_this_process())?;
    choose_network(&mut loaded.profile)?;
    let name = super::profiles::cluster_name(source, &loaded)?;
    let context = Context { patience: arguments.wait, ..context(global).await? };
    for warning in &loaded.warnings {
        context.reporter.warn(&warning.to_string());
    }
    let request = Request {
        name,
        profile: loaded.profile,
        base: loaded.base,
        image: source.image.clone(),
        load_balancer_image: arguments.load_balancer_image.clone(),
        retain: arguments.retain,
    };
    // Before anything is made.
    load::fetch(&context, &request.profile.spec.preload).await?;
    if let Some(count) = arguments.count {
        return several(global, &context, &request, count, start).await;
    }
    let outcome = cluster::create(&context, &request).await;
    complete(global, &context, outcome, start, arguments.timings).await
}

/// Completes what has made a cluster, anew or again, and shows it, with the time of each step if asked.
pub(super) async fn complete(
    global: &Global,
    context: &Context,
    outcome: std::result::Result<Outcome, ClusterError>,
    start: Instant,
    timings: bool,
) -> Result<ExitCode> {
    let loaded = match &outcome {
        Ok(outcome) => load::preload(context, &outcome.record).await,
        Err(_) => Ok(()),
    };
    context.reporter.close();
    show(global, &outcome?, start, timings);
    loaded?;
    Ok(ExitCode::SUCCESS)
}

/// The variable of kind's that names the engine's network where the profile does not.
const NETWORK: &str = "KIND_EXPERIMENTAL_DOCKER_NETWORK";

/// What kind's variable names cannot be a network.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{NETWORK} cannot be used: {0}")]
#[diagnostic(code(kprov::cluster::network_variable))]
struct BadNetwork(String);

/// Puts the nodes on the network that kind's variable names, unless the profile names one.
fn choose_network(profile: &mut Profile) -> Result<()> {
    let named = std::env::var(NETWORK).ok().filter(|name| !name.is_empty());
    let network = &mut profile.spec.networking.docker_network;
    if let (None, Some(name)) = (&network, named) {
        profile::check_docker_network(&name).map_err(BadNetwork)?;
        *network = Some(name);
    }
    Ok(())
}

/// Some of several clusters could not be made.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{} of {total} clusters could not be made", failed.len())]
#[diagnostic(
    code(kprov::cluster::several),
    help("the others are up; `kprov ls` lists them, `kprov down --all` removes all")
)]
struct SomeFailed {
    total: usize,
    #[related]
    failed: Vec<ClusterError>,
}

/// Makes several clusters, and shows what became of each.
async fn several(
    global: &Global,
    context: &Context,
    request: &Request,
    count: u16,
    start: Instant,
) -> Result<ExitCode> {
    let requests = cluster::numbered(request, count)?;
    for request in &requests {
        profile::check_cluster_name(&request.name, &request.profile.spec)?;
    }
    let results = cluster::create_all(context, &requests).await;
    if let Ok(results) = &results {
        for outcome in results.iter().flatten() {
            load::preload(context, &outcome.record).await?;
        }
    }
    context.reporter.close();
    let results = results?;
    let seconds = (start.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let rows: Vec<Vec<String>> = requests
        .iter()
        .zip(&results)
        .map(|(request, result)| match result {
            Ok(outcome) => vec![
                request.name.to_string(),
                "up".to_owned(),
                kubeconfig::entry_name(&request.name),
                outcome.record.api_server_port.to_string(),
            ],
            Err(_) => vec![request.name.to_string(), "failed".to_owned(), "-".to_owned(), "-".to_owned()],
        })
        .collect();
    let value: Vec<_> = rows.iter().map(|row| json!({"cluster": row[0], "state": row[1], "context": row[2]})).collect();
    present::result(global.output, &json!({"clusters": value, "seconds": seconds}), || {
        format!("{}\n{seconds} s.\n", present::table(&["CLUSTER", "STATE", "CONTEXT", "PORT"], &rows))
    });
    let failed: Vec<ClusterError> = results.into_iter().filter_map(std::result::Result::err).collect();
    if failed.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(SomeFailed { total: requests.len(), failed }.into()) }
}

pub(super) async fn reset(
    global: &Global,
    cluster: Option<&ClusterName>,
    retain: bool,
    timings: bool,
) -> Result<ExitCode> {
    let start = Instant::now();
    let context = context(global).await?;
    let name = target::name(&context, cluster).await?;
    let outcome = cluster::reset(&context, &name, retain).await;
    complete(global, &context, outcome, start, timings).await
}

fn show(global: &Global, outcome: &Outcome, start: Instant, timings: bool) {
    let seconds = start.elapsed().as_secs_f64();
    let record = &outcome.record;
    let entry = kubeconfig::entry_name(&record.name);
    let mut value = json!({
        "cluster": record.name,
        "profile": record.profile.metadata.name,
        "kubernetesVersion": record.version,
        "image": record.image,
        "digest": record.digest,
        "nodes": record.nodes,
        "context": entry,
        "kubeconfig": outcome.kubeconfig,
        "seconds": (seconds * 10.0).round() / 10.0,
        "warnings": outcome.warnings,
        "evidence": outcome.report,
    });
    if timings {
        value["timings"] = json!(outcome.timings);
    }
    present::result(global.output, &value, || {
        let steps = if timings { format!("\n{}", waterfall(&outcome.timings)) } else { String::new() };
        format!(
            "{}{steps}\nThe cluster {} is up: Kubernetes {}, {}, {seconds:.1} s.\n  digest   {}\n  context  {entry} (in {})\n\n\
             Go on:\n  kubectl --context {entry} get nodes\n  kprov verify {}\n  kprov etcd keys secrets --cluster {}\n",
            verify::evidence(&outcome.report, false),
            record.name,
            record.version,
            counted(record.nodes.len(), "node"),
            record.digest,
            outcome.kubeconfig.display(),
            record.name,
            record.name,
        )
    });
}
