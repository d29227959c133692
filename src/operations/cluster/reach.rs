//! How this host reaches a cluster's API server.

use std::net::SocketAddr;

use kube::Client;

use crate::adapters::node::Node;
use crate::adapters::{kubeconfig, kubernetes};
use crate::documents::profile::Profile;
use crate::documents::record::Record;
use crate::documents::render;

use super::{ClusterError, Context};

/// Where this host finds the API server, as a URL. Where it listens at every address, its certificate has that very address and
/// `localhost`, and no other of this host's.
pub(super) fn server_url(profile: &Profile, port: u16) -> String {
    let address = profile.spec.networking.api_server_address();
    if address.is_unspecified() {
        return format!("https://localhost:{port}");
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_is_reached_by_a_name_that_its_certificate_has() {
        for (listens, url) in [
            ("127.0.0.1", "https://127.0.0.1:6443"),
            ("0.0.0.0", "https://localhost:6443"),
            ("::", "https://localhost:6443"),
            ("::1", "https://[::1]:6443"),
            ("192.0.2.7", "https://192.0.2.7:6443"),
        ] {
            let profile: Profile = serde_json::from_value(serde_json::json!({
                "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "test"},
                "spec": {"nodes": [{"role": "control-plane"}], "networking": {"apiServerAddress": listens}},
            }))
            .unwrap();
            let names = render::cert_sans(&profile);
            let url_is = server_url(&profile, 6443);
            assert_eq!(url_is, url);
            let host = url_is.trim_start_matches("https://").trim_end_matches(":6443").trim_matches(['[', ']']);
            assert!(names.iter().any(|name| name == host), "{host} is none of {names:?}");
        }
    }
}
