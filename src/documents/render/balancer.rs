//! The load balancer in front of several control planes.
//!
//! Owns its configuration, for each of the programs that an image may hold.
//! Backends are found by name, through the engine's name server, so that no address is needed.

use serde::Serialize;

use crate::documents::profile::{IpFamily, Role};

use super::nodes::{API_SERVER_PORT, needs_load_balancer, plan_nodes};
use super::{Inputs, RenderError, kms, templates};

/// The program that balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadBalancer {
    /// haproxy, as in the image made of Debian packages.
    Haproxy,
    /// Envoy, as in the image that kind itself uses (pkg/cluster/internal/loadbalancer/const.go).
    Envoy,
}

#[derive(Serialize)]
struct LoadBalancerValues<'a> {
    api_port: u16,
    ipv6: bool,
    ipv6_only: bool,
    anonymous: bool,
    /// A health check that no server is taken out for: an ill KMS would be all servers' at once.
    excluded: Option<&'static str>,
    backends: Vec<&'a str>,
}

/// The configuration of the load balancer; `None` if there is but one control plane and so no load balancer.
///
/// haproxy reads it with `haproxy -f`, Envoy with `envoy -c`. A control plane gets
/// connections while its `/readyz` says so; one that stops saying so loses those that it has.
///
/// # Errors
/// [`RenderError::Template`] if the template fails.
pub fn load_balancer_config(inputs: &Inputs<'_>, program: LoadBalancer) -> Result<Option<String>, RenderError> {
    let nodes = plan_nodes(inputs.profile, inputs.cluster);
    if !needs_load_balancer(&nodes) {
        return Ok(None);
    }
    let spec = &inputs.profile.spec;
    let values = LoadBalancerValues {
        api_port: API_SERVER_PORT,
        ipv6: spec.networking.ip_family != IpFamily::Ipv4,
        ipv6_only: spec.networking.ip_family == IpFamily::Ipv6,
        // Without anonymous requests a health check gets a 401 from a healthy server too.
        anonymous: spec.api_server.extra_args.get("anonymous-auth").is_none_or(|value| value != "false"),
        excluded: kms::health_check(inputs)?,
        backends: nodes.iter().filter(|node| node.role == Role::ControlPlane).map(|node| node.name.as_str()).collect(),
    };
    let template = match program {
        LoadBalancer::Haproxy => templates::HAPROXY,
        LoadBalancer::Envoy => templates::ENVOY,
    };
    Ok(Some(inputs.templates.render(template, values)?))
}
