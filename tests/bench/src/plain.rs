//! What kind is asked for: a plain cluster of so many nodes.

use std::process::Command;

use test_support::{Run, Sandbox};

/// A file of kind's for so many control planes and workers.
///
/// Where the engine has only cgroup v1 and the image's kubelet refuses to run there (1.35 and later), the file says that
/// it may, as people on such machines have to write, too.
pub(crate) fn file(control_planes: usize, workers: usize) -> String {
    let mut file = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n".to_owned();
    file.push_str(&"- role: control-plane\n".repeat(control_planes));
    file.push_str(&"- role: worker\n".repeat(workers));
    if docker(&["info", "--format", "{{.CgroupVersion}}"]) == "1" && minor() >= 35 {
        file.push_str(
            "kubeadmConfigPatches:\n- |\n  kind: KubeletConfiguration\n  \
             apiVersion: kubelet.config.k8s.io/v1beta1\n  failCgroupV1: false\n",
        );
    }
    file
}

/// The minor version of the image's Kubernetes, from the file that every such image has.
pub(crate) fn minor() -> u32 {
    let version = docker(&["run", "--rm", "--network=none", "--entrypoint=cat", &Sandbox::image(), "/kind/version"]);
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    minor.unwrap_or_else(|| panic!("the image says that its version is {version:?}"))
}

/// Whether kind has what it puts in front of several control planes, or gets it: pulled once, it is there.
pub(crate) fn has_load_balancer() -> bool {
    // kind 0.33's (pkg/cluster/internal/loadbalancer/const.go).
    const IMAGE: &str = "docker.io/envoyproxy/envoy:v1.36.2";
    let done = |arguments: &[&str]| Run::of(Command::new("docker").args(arguments)).code == Some(0);
    done(&["image", "inspect", IMAGE]) || done(&["pull", "--quiet", IMAGE])
}

fn docker(arguments: &[&str]) -> String {
    Run::of(Command::new("docker").args(arguments)).ok().stdout.trim().to_owned()
}
