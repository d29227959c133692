//! The load balancer in front of several control planes: its image and its configuration.
//!
//! What it is told comes from `render`; what its container looks like from `containers`.

use crate::adapters::engine::Image;
use crate::documents::files::FileEntry;
use crate::documents::render::{self, Inputs, LoadBalancer};

use super::image::have_image;
use super::{ClusterError, Context};

/// The image that kind 0.33 uses (pkg/cluster/internal/loadbalancer/const.go).
pub(super) const DEFAULT_IMAGE: &str = "docker.io/envoyproxy/envoy:v1.36.2";

/// A balancer that was built here, of haproxy: for hosts that reach no registry.
const BUILT_IMAGE: &str = "kprov/haproxy:latest";

/// A load balancer that is about to be made.
#[derive(Debug, Clone)]
pub(super) struct Balancer {
    /// The image's reference.
    pub(super) reference: String,
    /// The image's id.
    pub(super) image: String,
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
        config: FileEntry::new(path, 0o644, config),
    }))
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
