//! Node images that are not as kprov knows them: the cluster is proven in the end, or one clear error says what is wrong.
//!
//! The images are the tests' own, altered on the engine. A few are part of `cargo xtask test`, all of `cargo xtask test --faults`.

use std::time::Instant;

use test_support::{Run, Sandbox};

const KPROV: &str = env!("CARGO_BIN_EXE_kprov");

/// What is said when kubeadm's own way is taken after the fast one.
const FALLS_BACK: &str = "so it is kubeadm's own way now, from clean nodes";

/// An image, and the container that it was made in. Removed when dropped.
struct Image<'a> {
    sandbox: &'a Sandbox,
    name: String,
}

impl<'a> Image<'a> {
    /// The tests' image after a shell script has run in it.
    fn altered(sandbox: &'a Sandbox, script: &str) -> Self {
        let name = sandbox.cluster.clone();
        let docker = |arguments: &[&str]| sandbox.engine().docker(arguments).done();
        docker(&["run", "--name", &name, "--entrypoint", "sh", &Sandbox::image(), "-euc", script]);
        let (entry, none) = (r#"ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]"#, "CMD []");
        docker(&["commit", "--change", entry, "--change", none, &name, &name]);
        docker(&["rm", "--volumes", &name]);
        Self { sandbox, name }
    }

    /// `kprov up` with this image.
    fn up(&self, arguments: &[&str]) -> Run {
        let start = ["up", "--name", &self.sandbox.cluster, "--image", &self.name];
        let run = self.sandbox.kprov(&[&start, arguments].concat());
        run.never_says("xtask").never_says("panicked")
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        let _ = self.sandbox.engine().docker(&["rm", "--force", "--volumes", &self.name]);
        let _ = self.sandbox.engine().docker(&["rmi", "--force", &self.name]);
    }
}

/// A script that puts `program` in the place of the program at `path`, which is called `$0.real` from then on.
fn wrapped(path: &str, program: &str) -> String {
    format!("mv {path} {path}.real; printf '%s\\n' '#!/bin/sh' '{program}' > {path}; chmod 755 {path}")
}

/// A kubeadm without one of its phases.
fn without_phase(phase: &str) -> String {
    let refuse =
        format!(r#"case "$*" in *"phase {phase}"*) echo "unknown phase" >&2; exit 1;; esac; exec $0.real "$@""#);
    wrapped("/usr/bin/kubeadm", &refuse)
}

/// A kubelet that knows no flag `--provider-id`.
fn refusing_kubelet() -> String {
    let refuse =
        r#"case "$*" in *--provider-id*) echo "unknown flag: --provider-id" >&2; exit 1;; esac; exec $0.real "$@""#;
    wrapped("/usr/bin/kubelet", refuse)
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_kubeadm_without_a_phase_makes_the_cluster_by_its_own_way() {
    let sandbox = Sandbox::on_engine(KPROV, "phase");
    let image = Image::altered(&sandbox, &without_phase("control-plane"));
    // Who asks for the fast way gets it or an error.
    image.up(&["--set", "bootstrap=phased"]).fails().says("unknown phase").never_says(FALLS_BACK);
    image.up(&[]).ok().says(FALLS_BACK).says("the nodes' logs are in").done();
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    let token = "kubectl get secrets -n kube-system -o name";
    let secrets = sandbox.kprov(&["exec", &sandbox.node("control-plane"), "--", "sh", "-c", token]).ok();
    secrets.never_says("bootstrap-token");
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    drop(image);
    sandbox.assert_clean();
}

/// What is asked of containerd where nothing but a shell runs.
const CONTAINERD: &str = "containerd > /dev/null 2>&1 & until ctr version > /dev/null 2>&1; do sleep 0.1; done";

/// The test image's own network agent in the shape of kind's images: their names, and manifests of that form.
fn in_kinds_shape() -> String {
    let image = |name: &str, of: &str| format!("ctr --namespace k8s.io images tag {name} docker.io/kindest/{of}");
    let file = |path: &str, text: &str| format!("cat > {path} << 'END'\n{text}\nEND");
    [
        CONTAINERD.to_owned(),
        image("docker.io/kprov/net:1", "kindnetd:v20250512-df8de77b"),
        image("$(ctr --namespace k8s.io images ls -q | grep /pause:)", "local-path-provisioner:v20250521-9b1ef2f4"),
        "kill $!; wait $! || true; rm -rf /run/containerd".to_owned(),
        file("/kind/manifests/default-cni.yaml", include_str!("strange_images/kindnet.yaml")),
        file("/kind/manifests/default-storage.yaml", include_str!("strange_images/local-path.yaml")),
    ]
    .join("\n")
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn kinds_own_network_and_storage_are_installed_as_kind_does_it() {
    let sandbox = Sandbox::on_engine(KPROV, "kinds");
    let image = Image::altered(&sandbox, &in_kinds_shape());
    image.up(&["--profile", "secure-two-node"]).ok().never_says(FALLS_BACK).done();
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    let asked = |node: &str, script: &str| {
        let run = sandbox.kprov(&["exec", &sandbox.node(node), "--", "sh", "-euc", script]).ok();
        run.stdout.trim().to_owned()
    };
    let environment = "kubectl --namespace kube-system get daemonset kindnet \
        --output 'jsonpath={range .spec.template.spec.containers[0].env[*]}{.name}={.value}{\"\\n\"}{end}'";
    let environment = asked("control-plane", environment);
    let endpoint = format!("CONTROL_PLANE_ENDPOINT={}:6443", sandbox.node("control-plane"));
    for wanted in ["POD_SUBNET=10.244.0.0/16", &endpoint] {
        assert!(environment.lines().any(|line| line == wanted), "{wanted} is not in\n{environment}");
    }
    // In the seconds before kindnet has come around to it, as kprov does for it.
    for node in ["control-plane", "worker"] {
        assert!(asked(node, "cat /etc/cni/net.d/10-kindnet.conflist").contains("\"name\": \"kindnet\""), "{node}");
    }
    let pods = asked("control-plane", "kubectl get pods -A --field-selector=status.phase=Running -o name");
    assert_eq!(pods.matches("pod/kindnet-").count(), 2, "{pods}");
    assert_eq!(pods.matches("pod/local-path-provisioner-").count(), 1, "{pods}");
    assert_eq!(
        asked("control-plane", "kubectl get storageclass standard -o jsonpath={.provisioner}"),
        "rancher.io/local-path"
    );
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    drop(image);
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_kubelet_that_keeps_ending_is_quoted_soon() {
    let sandbox = Sandbox::on_engine(KPROV, "kubelet");
    let image = Image::altered(&sandbox, &refusing_kubelet());
    let start = Instant::now();
    image.up(&[]).fails().says("the kubelet keeps ending").says("unknown flag: --provider-id").never_says(FALLS_BACK);
    assert!(start.elapsed().as_secs() < 90, "after {} s", start.elapsed().as_secs());
    drop(image);
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn an_image_without_a_cni_is_refused_at_once() {
    let sandbox = Sandbox::on_engine(KPROV, "nocni");
    let image = Image::altered(&sandbox, "rm -r /kind/manifests");
    image.up(&[]).fails().says("has no CNI of its own (/kind/manifests/default-cni.yaml)").says("disableDefaultCNI");
    drop(image);
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_users_own_mistake_is_not_tried_twice() {
    let sandbox = Sandbox::on_engine(KPROV, "mistake");
    for (set, said) in [
        ("controllerManager.extraArgs.bogus-flag=1", "the controller manager did not come up"),
        ("etcd.extraArgs.bogus-flag=1", "etcd did not come up"),
    ] {
        sandbox.up(&["--set", set]).fails().says(said).says("bogus-flag").never_says(FALLS_BACK);
    }
    sandbox.assert_clean();
}

/// What comes of `kprov up` with an altered image.
enum End {
    /// A proven cluster, made by the fast way.
    Fast,
    /// A proven cluster, made by kubeadm's own way after the fast one.
    Plain,
    /// An error that says this.
    Error(&'static str),
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_strange_images_end_in_proof_or_one_clear_error() {
    const CNI: &str = "/kind/manifests/default-cni.yaml";
    const STORAGE: &str = "/kind/manifests/default-storage.yaml";
    let before = |unit: &str, command: &str| {
        let folder = format!("/etc/systemd/system/{unit}.service.d");
        format!("mkdir -p {folder}; printf '[Service]\\nExecStartPre={command}\\n' > {folder}/90-test.conf")
    };
    let read_only = "/var/lib/kubelet/kubeadm-flags.env";
    let mut failed = Vec::new();
    for (what, script, end) in [
        ("a CNI of another name", format!("sed -i 's/kprov-net/other-net/' {CNI}"), End::Fast),
        (
            "a CNI without a field for the subnet",
            format!("sed -i 's|\"{{{{ .PodSubnet }}}}\"|10.244.0.0/16|' {CNI}"),
            End::Fast,
        ),
        ("fields in the CNI that are not known", format!("sed -i '1i # {{{{ .Other }}}}' {CNI}"), End::Fast),
        (
            "a CNI that the API does not know",
            format!("printf -- '---\\napiVersion: v9\\nkind: Odd\\nmetadata: {{name: a}}\\n' >> {CNI}"),
            End::Error("Odd"),
        ),
        ("no storage class", format!("rm {STORAGE}"), End::Fast),
        (
            "a storage class in a list",
            format!(
                "printf 'apiVersion: v1\\nkind: List\\nitems:\\n' > /l; sed 's/^/  /; s/^  apiV/- apiV/' {STORAGE} | grep -v '^  #' >> /l; mv /l {STORAGE}"
            ),
            End::Plain,
        ),
        ("a kubelet that starts late", before("kubelet", "/bin/sleep 20"), End::Fast),
        ("a systemd that boots slowly", before("containerd", "/bin/sleep 25"), End::Fast),
        (
            "a read-only file",
            format!(
                "mkdir -p /var/lib/kubelet; touch {read_only}; {}",
                before("containerd", &format!("/bin/mount --bind -o ro {read_only} {read_only}"))
            ),
            End::Error("kubeadm-flags.env"),
        ),
        ("no phase for kubelets", without_phase("kubelet-start"), End::Plain),
        ("no phase for certificates", without_phase("certs"), End::Plain),
        ("no phase for kube-proxy", without_phase("addon kube-proxy"), End::Plain),
        ("a file in the way", "touch /kind/manifests-later; chmod 444 /kind/manifests-later".to_owned(), End::Plain),
        ("no iptables on the node", "rm -f /usr/sbin/iptables /usr/sbin/ip6tables".to_owned(), End::Fast),
        ("no ctr", "rm /usr/bin/ctr".to_owned(), End::Error("ctr")),
        ("no crictl", "rm /usr/local/bin/crictl".to_owned(), End::Fast),
        (
            "a configuration that containerd does not take",
            "sed -i '1i = =' /etc/containerd/config.toml".to_owned(),
            End::Error("the container did not boot"),
        ),
        ("another kubelet", refusing_kubelet(), End::Error("the kubelet keeps ending")),
        ("no version", "rm /kind/version".to_owned(), End::Error("is no kind node image")),
    ] {
        let sandbox = Sandbox::on_engine(KPROV, "strange");
        let image = Image::altered(&sandbox, &script);
        let start = Instant::now();
        let run = image.up(&[]);
        let fell_back = run.all().contains(FALLS_BACK);
        let (right, wanted) = match end {
            End::Fast => (run.code == Some(0) && !fell_back, "a proven cluster by the fast way"),
            End::Plain => (run.code == Some(0) && fell_back, "a proven cluster by kubeadm's own way"),
            End::Error(said) => (run.code == Some(1) && run.all().contains(said), said),
        };
        eprintln!("{what}: {} s, {}", start.elapsed().as_secs(), if right { "right" } else { "WRONG" });
        if !right {
            failed.push(format!("{what}: wanted {wanted}\n{run}"));
        }
        let _ = sandbox.kprov(&["down", &sandbox.cluster]);
        drop(image);
        sandbox.assert_clean();
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}
