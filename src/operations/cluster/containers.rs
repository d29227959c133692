//! What the containers of a cluster look like from outside: kind's contract, as container specifications.
//!
//! Pure: the engine is asked by whoever calls.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::adapters::engine::{ContainerSpec, PublishedPort, Restart};
use crate::documents::profile::{Profile, Propagation, Protocol, Role};
use crate::documents::render::{API_SERVER_PORT, NodePlan, load_balancer_name, registries, role_name};

use super::{
    LABEL_CLUSTER, LABEL_DIGEST, LABEL_GENERATION, LABEL_OWNER, LABEL_PROFILE, LABEL_REGISTRIES, LABEL_ROLE,
    ROLE_LOAD_BALANCER,
};

/// All that the containers of one cluster have in common.
#[derive(Debug, Clone)]
pub(super) struct Frame<'a> {
    pub(super) cluster: &'a str,
    pub(super) profile: &'a Profile,
    /// Where the profile's relative paths start.
    pub(super) base: &'a Path,
    pub(super) digest: &'a str,
    /// The generation of nodes that they belong to.
    pub(super) generation: u64,
    /// The image, by its id or reference.
    pub(super) image: &'a str,
    pub(super) api_server_port: u16,
    /// Whether a load balancer publishes the API server, rather than the control plane.
    pub(super) load_balancer: bool,
    pub(super) storage_driver: &'a str,
    /// Proxy variables with all that must not go through a proxy.
    pub(super) proxies: &'a [String],
}

/// The addresses that a container is to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
}

impl Fixed {
    /// Those that are given.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [self.ipv4.map(IpAddr::from), self.ipv6.map(IpAddr::from)].into_iter().flatten()
    }
}

impl Frame<'_> {
    fn labels(&self, role: &str) -> Vec<(String, String)> {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        vec![
            label(LABEL_CLUSTER, self.cluster),
            label(LABEL_ROLE, role),
            label(LABEL_OWNER, "kprov"),
            label(LABEL_PROFILE, &self.profile.metadata.name),
            label(LABEL_DIGEST, self.digest),
            label(LABEL_GENERATION, &self.generation.to_string()),
        ]
    }

    /// The labels of a node, which name the registries that it uses.
    fn node_labels(&self, role: Role) -> Vec<(String, String)> {
        let mut labels = self.labels(role_name(role));
        let names = registry_names(self.profile, self.base);
        if !names.is_empty() {
            labels.push((LABEL_REGISTRIES.to_owned(), names.join(",")));
        }
        labels
    }

    fn api_server(&self) -> PublishedPort {
        PublishedPort {
            container: API_SERVER_PORT,
            protocol: "tcp",
            address: self.profile.spec.networking.api_server_address(),
            host: self.api_server_port,
        }
    }

    /// A node's container.
    pub(super) fn node(&self, plan: &NodePlan, fixed: Fixed) -> ContainerSpec {
        let mut env = self.proxies.to_vec();
        // The image's entrypoint writes it into the node's resolv.conf.
        env.extend(
            self.profile
                .spec
                .networking
                .dns_search
                .as_ref()
                .map(|search| format!("KIND_DNS_SEARCH={}", search.join(" "))),
        );
        let mut ports: Vec<PublishedPort> = plan
            .ports
            .iter()
            .map(|port| PublishedPort {
                container: port.container_port,
                protocol: match port.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                    Protocol::Sctp => "sctp",
                },
                address: port.listen_address.unwrap_or_else(|| self.profile.spec.networking.listen_address()),
                host: port.host_port,
            })
            .collect();
        if plan.role == Role::ControlPlane {
            env.push("KUBECONFIG=/etc/kubernetes/admin.conf".to_owned());
            if !self.load_balancer {
                ports.push(self.api_server());
            }
        }
        let mut binds = vec!["/lib/modules:/lib/modules:ro".to_owned()];
        // kubelet looks for the device behind its folder; these drivers hide it elsewhere (kind issue 1416).
        if matches!(self.storage_driver, "btrfs" | "zfs" | "xfs") {
            binds.push("/dev/mapper:/dev/mapper".to_owned());
        }
        binds.extend(plan.mounts.iter().map(|mount| {
            let host: PathBuf = self.base.join(&mount.host_path).components().collect();
            let options: Vec<&str> = [
                mount.read_only.then_some("ro"),
                mount.selinux_relabel.then_some("Z"),
                match mount.propagation {
                    Propagation::None => None,
                    Propagation::HostToContainer => Some("rslave"),
                    Propagation::Bidirectional => Some("rshared"),
                },
            ]
            .into_iter()
            .flatten()
            .collect();
            let options = if options.is_empty() { String::new() } else { format!(":{}", options.join(",")) };
            format!("{}:{}{options}", host.display(), mount.container_path)
        }));
        ContainerSpec {
            name: plan.name.clone(),
            hostname: None,
            image: plan.image.clone().unwrap_or_else(|| self.image.to_owned()),
            command: None,
            entrypoint: None,
            user: None,
            // Unlike kind's, which the engine starts again once: the second reboot of a host would be their end.
            restart: Restart::UnlessStopped,
            labels: self.node_labels(plan.role),
            env,
            network: self.profile.spec.networking.docker_network().to_owned(),
            ipv4: fixed.ipv4,
            ipv6: fixed.ipv6,
            ports,
            binds,
            tmpfs: vec!["/tmp".to_owned(), "/run".to_owned()],
            volumes: vec!["/var".to_owned()],
            sysctls: Vec::new(),
            cpus: plan.limits.cpus,
            memory: plan.limits.memory_bytes(),
            hosts: self.profile.spec.networking.hosts.iter().map(|(name, at)| format!("{name}:{at}")).collect(),
            privileged: true,
        }
    }

    /// The container in front of several control planes.
    pub(super) fn load_balancer(&self, image: &str, fixed: Fixed) -> ContainerSpec {
        ContainerSpec {
            name: load_balancer_name(self.cluster),
            image: image.to_owned(),
            restart: Restart::UnlessStopped,
            labels: self.labels(ROLE_LOAD_BALANCER),
            network: self.profile.spec.networking.docker_network().to_owned(),
            ipv4: fixed.ipv4,
            ipv6: fixed.ipv6,
            ports: vec![self.api_server()],
            // Lets the balancer listen on its port without being root.
            sysctls: vec![("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())],
            ..Default::default()
        }
    }
}

/// The names of the registries that kprov runs for a profile.
fn registry_names(profile: &Profile, base: &Path) -> Vec<String> {
    let registry = profile.spec.registry.as_ref();
    registry.map(|registry| registries(registry, base)).unwrap_or_default().into_iter().map(|plan| plan.name).collect()
}

/// The proxy variables of a profile, or of this process, for a node, with everything inside the cluster exempt from them.
pub(super) fn proxies(
    variable: impl Fn(&str) -> Option<String>,
    profile: &Profile,
    base: &Path,
    nodes: &[NodePlan],
    subnets: &[IpNet],
) -> Vec<String> {
    let get = |name: &str| match &profile.spec.networking.proxy {
        Some(proxy) => proxy.variable(name),
        None => variable(name).or_else(|| variable(&name.to_lowercase())).filter(|value| !value.is_empty()),
    };
    let set: Vec<_> = ["HTTP_PROXY", "HTTPS_PROXY"].into_iter().filter_map(|name| Some((name, get(name)?))).collect();
    if set.is_empty() {
        return Vec::new();
    }
    let networking = &profile.spec.networking;
    let mut exempt: Vec<String> = get("NO_PROXY").into_iter().collect();
    exempt.extend([networking.service_subnet().to_owned(), networking.pod_subnet().to_owned()]);
    exempt.extend(subnets.iter().map(ToString::to_string));
    exempt.extend(nodes.iter().map(|node| node.name.clone()));
    exempt.extend(registry_names(profile, base));
    exempt.extend([".svc", ".svc.cluster", ".svc.cluster.local"].map(str::to_owned));
    set.into_iter()
        .chain([("NO_PROXY", exempt.join(","))])
        .flat_map(|(name, value)| [format!("{name}={value}"), format!("{}={value}", name.to_lowercase())])
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::documents::render::plan_nodes;

    use super::*;

    fn profile() -> Profile {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "p"},
            "spec": {"nodes": [
                {"role": "control-plane", "ports": [{"containerPort": 80, "hostPort": 8080}]},
                {"role": "worker", "mounts": [
                    {"hostPath": "data", "containerPath": "/data", "readOnly": true},
                    {"hostPath": "/m", "containerPath": "/m", "selinuxRelabel": true, "propagation": "Bidirectional"}
                ]}
            ]}
        }))
        .unwrap()
    }

    fn frame(profile: &Profile) -> Frame<'_> {
        Frame {
            cluster: "c",
            profile,
            base: Path::new("/home/me"),
            digest: "d",
            generation: 0,
            image: "sha256:1",
            api_server_port: 40000,
            load_balancer: false,
            storage_driver: "overlay2",
            proxies: &[],
        }
    }

    #[test]
    fn a_control_plane_publishes_the_api_server() {
        let profile = profile();
        let nodes = plan_nodes(&profile, "c");
        let spec = frame(&profile).node(&nodes[0], Fixed::default());
        assert_eq!(spec.name, "c-control-plane");
        assert!(spec.labels.contains(&(LABEL_ROLE.to_owned(), "control-plane".to_owned())));
        let ports: Vec<_> = spec.ports.iter().map(|port| (port.container, port.host)).collect();
        assert_eq!(ports, [(80, 8080), (6443, 40000)]);
        assert_eq!(spec.ports[1].address, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(spec.env, ["KUBECONFIG=/etc/kubernetes/admin.conf"]);
    }

    #[test]
    fn a_worker_publishes_nothing_and_mounts_what_it_is_told() {
        let profile = profile();
        let nodes = plan_nodes(&profile, "c");
        let spec = frame(&profile).node(&nodes[1], Fixed::default());
        assert!(spec.ports.is_empty());
        assert_eq!(spec.binds, ["/lib/modules:/lib/modules:ro", "/home/me/data:/data:ro", "/m:/m:Z,rshared"]);
        assert!(spec.privileged);
    }

    #[test]
    fn what_is_inside_does_not_go_through_a_proxy() {
        let profile = profile();
        let nodes = plan_nodes(&profile, "c");
        let base = Path::new("/");
        let none = proxies(|_| None, &profile, base, &nodes, &[]);
        assert!(none.is_empty());
        let mut own = profile.clone();
        let proxy = |value| Some(serde_json::from_value(value).unwrap());
        own.spec.networking.proxy = proxy(serde_json::json!({"https": "http://own:1", "noProxy": ["a", "b"]}));
        let from_here = |name: &str| (name == "HTTP_PROXY").then(|| "http://here:1".to_owned());
        let set = proxies(from_here, &own, base, &nodes, &[]);
        assert!(
            set.contains(&"https_proxy=http://own:1".to_owned()) && set.iter().any(|one| one.contains("=a,b,10.96"))
        );
        assert!(!set.iter().any(|one| one.contains("here")));
        own.spec.networking.proxy = proxy(serde_json::json!({}));
        assert!(proxies(from_here, &own, base, &nodes, &[]).is_empty());
        let variable = |name: &str| (name == "https_proxy").then(|| "http://p:1".to_owned());
        let set = proxies(variable, &profile, base, &nodes, &["172.18.0.0/16".parse().unwrap()]);
        assert!(set.contains(&"HTTPS_PROXY=http://p:1".to_owned()));
        assert!(set.contains(
            &"no_proxy=10.96.0.0/16,10.244.0.0/16,172.18.0.0/16,c-control-plane,c-worker,.svc,.svc.cluster,.svc.cluster.local"
                .to_owned()
        ));
    }
}
