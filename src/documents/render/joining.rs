//! What kubeadm's phase `bootstrap-token` leaves in a cluster, but for the token: the rules for nodes that join later by
//! one, the public ConfigMap by which they find the cluster, and the rule by which kubelets renew their certificates.

use serde::Serialize;

use super::{KubernetesVersion, RenderError, Templates, templates};

/// The group of those who have a bootstrap token of kubeadm's default kind.
const TOKENS: &str = "system:bootstrappers:kubeadm:default-node-token";

#[derive(Serialize)]
struct Binding {
    name: &'static str,
    role: &'static str,
    kind: &'static str,
    subject: &'static str,
}

#[derive(Serialize)]
struct JoiningValues<'a> {
    bindings: Vec<Binding>,
    kubeconfig: &'a str,
}

/// The manifest. `kubeconfig` says where the cluster is and who vouches for it, and names no user.
///
/// # Errors
/// [`RenderError::Template`] if the user's template in place of the built-in one cannot be rendered.
pub fn joining_manifest(
    templates: &Templates,
    version: &KubernetesVersion,
    kubeconfig: &str,
) -> Result<String, RenderError> {
    let binding = |name, role, kind, subject| Binding { name, role, kind, subject };
    // cmd/kubeadm/app/phases/bootstraptoken/node/tlsbootstrap.go
    let mut bindings = vec![
        binding("kubeadm:get-nodes", "kubeadm:get-nodes", "Group", TOKENS),
        binding("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", "Group", TOKENS),
        binding(
            "kubeadm:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            "Group",
            TOKENS,
        ),
        binding(
            "kubeadm:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            "Group",
            "system:nodes",
        ),
    ];
    if version.binds_kubelet_api_admin() {
        bindings.push(binding(
            "kubeadm:apiserver-kubelet-client",
            "system:kubelet-api-admin",
            "User",
            "kube-apiserver-kubelet-client",
        ));
    }
    Ok(templates.render(templates::JOINING, JoiningValues { bindings, kubeconfig })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_kubeadms_and_there_is_no_token() {
        let rendered = |version: &str| {
            joining_manifest(&Templates::built_in(), &version.parse().unwrap(), "clusters:\n- name: \"\"\n").unwrap()
        };
        let old = rendered("v1.20.2");
        insta::assert_snapshot!(old);
        assert!(!old.contains("kind: Secret"));
        assert!(!old.contains("kubelet-api-admin") && rendered("v1.36.2").contains("kubelet-api-admin"));
    }
}
