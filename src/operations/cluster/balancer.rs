//! The load balancer in front of several control planes: its image and its configuration.
//!
//! What it is told comes from `render`; what its container looks like from `containers`.

use crate::adapters::engine::{EngineError, Image};
use crate::documents::files::{FileEntry, pack};
use crate::documents::names::ClusterName;
use crate::documents::record::Record;
use crate::documents::render::{self, Inputs, LoadBalancer};

use super::image::have_image;
use super::{ClusterError, Context};

/// The image that kind 0.33 uses (pkg/cluster/internal/loadbalancer/const.go).
pub(super) const DEFAULT_IMAGE: &str = "docker.io/envoyproxy/envoy:v1.36.2";

/// A balancer that was built here, of haproxy: for hosts that reach no registry.
const BUILT_IMAGE: &str = "kprov/haproxy:latest";

/// The longest configuration that is looked at; ours have some hundred lines.
const LONGEST: usize = 1 << 20;

/// How long a balancer may take to end where it has to be started anew, in seconds.
const GRACE: i32 = 5;

/// A load balancer that is about to be made.
#[derive(Debug, Clone)]
pub(super) struct Balancer {
    /// The image's reference.
    pub(super) reference: String,
    /// The image's id.
    pub(super) image: String,
    /// Its program.
    program: LoadBalancer,
    /// Its configuration, where the program in the image looks for it.
    pub(super) config: FileEntry,
}

/// Finds or pulls the image, and renders the configuration; `None` where there is but one control plane.
///
/// # Errors
/// [`ClusterError::Engine`] if there is no image, [`ClusterError::Render`].
pub(super) async fn prepare(
    context: &Context,
    inputs: &Inputs<'_>,
    wanted: Option<&str>,
) -> Result<Option<Balancer>, ClusterError> {
    if !render::needs_load_balancer(&render::plan_nodes(inputs.profile, inputs.cluster)) {
        return Ok(None);
    }
    let (reference, image) = choose_image(context, wanted).await?;
    let (program, path) = program(&image);
    let config = render::load_balancer_config(inputs, program)?;
    Ok(config.map(|config| Balancer {
        reference: reference.to_owned(),
        image: image.id,
        program,
        config: FileEntry::new(path, 0o644, config),
    }))
}

/// Tells the load balancer of a cluster that runs what its profile means by now; nothing to do where there is none, or where it
/// knows. What it asks of API servers depends on their KMS: one that is ill is ill for all of them at once, and no reason to
/// send nobody to any of them.
///
/// # Errors
/// [`ClusterError::Engine`] if it cannot be told, [`ClusterError::Render`].
pub(super) async fn tell(context: &Context, record: &Record) -> Result<(), ClusterError> {
    let version = record.version.parse()?;
    let inputs = record.inputs(&version, None, &context.templates, false);
    let Some(balancer) = prepare(context, &inputs, record.load_balancer_image.as_deref()).await? else { return Ok(()) };
    let (engine, name) = (&context.engine, render::load_balancer_name(&record.name));
    let known = engine.read_file(&name, &balancer.config.path, LONGEST).await?;
    if known.is_some_and(|known| *known == *balancer.config.content) {
        return Ok(());
    }
    let step = context.reporter.step(&name, "Telling the load balancer how API servers are asked");
    engine.put_archive(&name, pack(std::slice::from_ref(&balancer.config))).await?;
    match balancer.program {
        // It reads its file again, and connections stay.
        LoadBalancer::Haproxy => match engine.kill_container(&name, "SIGHUP").await {
            // One that does not run reads it when it starts.
            Err(EngineError::Conflict { .. }) => {}
            told => told?,
        },
        LoadBalancer::Envoy => {
            engine.stop_container(&name, GRACE).await?;
            engine.start_container(&name).await?;
        }
    }
    step.done();
    Ok(())
}

/// The same when a change of the encryption is complete. `asks_kms`: whether API servers ask a KMS now. Where the record says
/// otherwise, a profile has no words for what they do, and all stays as it is.
///
/// # Errors
/// As those of `tell`, and [`ClusterError::Records`] if the record cannot be read.
pub async fn tell_balancer(context: &Context, cluster: &ClusterName, asks_kms: bool) -> Result<(), ClusterError> {
    match context.store().load(cluster)? {
        Some(record) if record.profile.kms().is_some() == asks_kms => tell(context, &record).await,
        _ => Ok(()),
    }
}

/// The image that is wanted, or kind's, or, where no registry can be reached, the one that was built here.
async fn choose_image<'a>(context: &Context, wanted: Option<&'a str>) -> Result<(&'a str, Image), ClusterError> {
    let reference = wanted.unwrap_or(DEFAULT_IMAGE);
    match have_image(context, reference).await {
        Ok(image) => Ok((reference, image)),
        Err(error) => match context.engine.image(BUILT_IMAGE).await? {
            Some(image) if wanted.is_none() => {
                context.reporter.info(&format!("The load balancer is {BUILT_IMAGE}, since kind's cannot be pulled."));
                Ok((BUILT_IMAGE, image))
            }
            _ => Err(error),
        },
    }
}

/// The program that an image starts, and where it reads its configuration.
fn program(image: &Image) -> (LoadBalancer, &'static str) {
    if image.command.iter().any(|word| word.contains("haproxy")) {
        (LoadBalancer::Haproxy, "/usr/local/etc/haproxy/haproxy.cfg")
    } else {
        (LoadBalancer::Envoy, "/etc/envoy/envoy.yaml")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_tells_its_program() {
        let image =
            |words: &[&str]| Image { id: String::new(), command: words.iter().map(|&word| word.to_owned()).collect() };
        assert_eq!(program(&image(&["/usr/sbin/haproxy", "-W"])).0, LoadBalancer::Haproxy);
        assert_eq!(program(&image(&["envoy", "-c", "/etc/envoy/envoy.yaml"])).0, LoadBalancer::Envoy);
    }
}
