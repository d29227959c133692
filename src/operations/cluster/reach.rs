//! How this host reaches a cluster's API server.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use kube::Client;

use crate::adapters::node::Node;
use crate::adapters::{kubeconfig, kubernetes};
use crate::documents::profile::Profile;
use crate::documents::record::Record;
use crate::documents::render;

use super::{ClusterError, Context};

/// Where this host finds the API server, as a URL.
pub(super) fn server_url(profile: &Profile, port: u16) -> String {
    let address = match profile.spec.networking.api_server_address() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        address => address,
    };
    format!("https://{}", SocketAddr::new(address, port))
}

/// A client for a cluster that is there, by what kubeadm left on its first control plane.
///
/// # Errors
/// [`ClusterError::Node`] if that cannot be read, [`ClusterError::Kubeconfig`] or [`ClusterError::Api`] if it makes no
/// sense. The API server is not asked.
pub(super) async fn client_of(context: &Context, record: &Record) -> Result<Client, ClusterError> {
    let plan = render::plan_nodes(&record.profile, &record.name);
    let first = plan.first().ok_or(ClusterError::None)?;
    let node = Node::new(context.engine.clone(), &first.name, first.role);
    let admin = node.read_text(kubeconfig::ADMIN).await?;
    let server = server_url(&record.profile, record.api_server_port);
    let kubeconfig = kubeconfig::for_cluster(&admin, &record.name, &server)?;
    Ok(kubernetes::client(&kubeconfig).await?)
}
