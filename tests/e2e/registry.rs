//! What nodes get from outside: images of registries beside clusters, which two clusters use at once; certificates, proxies, limits.

use std::net::TcpListener;

use test_support::{Engine, Job, Sandbox};

use super::KPROV;
use super::day::Image;

/// A registry of somebody else's, on a network of somebody else's, which go with the test.
struct Elsewhere<'a> {
    engine: &'a Engine,
    network: String,
    name: String,
}

impl<'a> Elsewhere<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let engine = sandbox.engine();
        let (network, name) = (format!("{}.lab", sandbox.cluster), format!("{}-upstream", sandbox.cluster));
        engine.docker(&["network", "create", &network]).done();
        let config = sandbox.write(
            "upstream.yml",
            "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\nhttp: {addr: ':5000'}\n",
        );
        let config = format!("{}:/config.yml:ro", config.display());
        let run = ["run", "--detach", "--name", &name, "--network", &network, "--publish", "127.0.0.1::5000"];
        let rest = ["--volume", &config, "--entrypoint", "registry", &image(), "serve", "/config.yml"];
        engine.docker(&[&run[..], &rest[..]].concat()).done();
        Self { engine, network, name }
    }

    /// Where the host reaches it.
    fn at_host(&self) -> String {
        let port = self.engine.docker(&["port", &self.name, "5000/tcp"]).ok().stdout;
        port.lines().next().unwrap().replace("127.0.0.1", "localhost")
    }

    fn take_away(&self) {
        let _ = self.engine.docker(&["rm", "--force", "--volumes", &self.name]);
    }
}

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        self.take_away();
        let all = self.engine.docker(&["ps", "--all", "--quiet", "--filter", "label=dev.kprov.registry"]).stdout;
        for id in all.lines().filter(|_| std::thread::panicking()) {
            let _ = self.engine.docker(&["rm", "--force", "--volumes", id]);
        }
        let _ = self.engine.docker(&["network", "rm", &self.network]);
    }
}

/// The image of registries.
fn image() -> String {
    std::env::var("KPROV_REGISTRY_IMAGE").unwrap_or_else(|_| "kprov/registry:latest".to_owned())
}

/// Pushes an image under another name, which the engine forgets then.
fn push(sandbox: &Sandbox, image: &str, to: &str) {
    let engine = sandbox.engine();
    engine.docker(&["tag", image, to]).done();
    engine.docker(&["push", to]).done();
    engine.docker(&["image", "rm", to]).done();
}

/// Runs a pod whose image is pulled anew, and gives what it says.
fn say(sandbox: &Sandbox, cluster: &str, image: &str, word: &str) -> String {
    let script = format!(
        r#"kubectl delete pod {word} --ignore-not-found --now >/dev/null 2>&1
           crictl rmi {image} >/dev/null 2>&1 || ctr -n k8s.io images rm {image} >/dev/null 2>&1 || true
           n=0; until kubectl get serviceaccount default >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 100 ]; sleep 0.2; done
           kubectl run {word} --image={image} --image-pull-policy=Always --restart=Never --command -- /bin/dash -c 'echo {word}' >/dev/null
           n=0
           until [ "$(kubectl get pod {word} -o jsonpath='{{.status.phase}}')" = Succeeded ]; do
             n=$((n + 1)); [ $n -lt 300 ] || {{ kubectl describe pod {word}; exit 1; }}; sleep 0.2
           done
           kubectl logs {word}"#
    );
    sandbox.kprov(&["exec", &format!("{cluster}-control-plane"), "--", "sh", "-euc", &script]).ok().stdout
}

/// The registries that kprov has on the engine.
fn registries(sandbox: &Sandbox) -> Vec<String> {
    let list = ["ps", "--all", "--filter", "label=dev.kprov.registry", "--format", "{{.Names}}"];
    sandbox.engine().docker(&list).ok().stdout.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_two_clusters_get_images_from_one_cache_and_one_registry() {
    let sandbox = Sandbox::on_engine(KPROV, "registry");
    let (one, two) = (sandbox.cluster.clone(), format!("{}b", sandbox.cluster));
    let elsewhere = Elsewhere::new(&sandbox);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let theirs = Image::new(&sandbox, "theirs");
    push(&sandbox, &theirs.name, &format!("{}/lab/theirs:1", elsewhere.at_host()));
    let profile = format!(
        "apiVersion: kprov.dev/v1alpha1\nkind: Profile\nmetadata: {{name: registries}}\nspec:\n  \
         networking: {{dockerNetwork: {}}}\n  registry:\n    image: {}\n    local: {{port: {port}}}\n    \
         caches: [{{of: 'upstream.lab:5000', upstream: 'http://{}:5000'}}]\n",
        elsewhere.network,
        image(),
        elsewhere.name
    );
    sandbox.write("registries.yaml", profile);

    // Both at once: only one of them makes the registries.
    let node_image = Sandbox::image();
    let jobs = [&one, &two].map(|name| {
        let up = ["up", "--name", name, "--image", &node_image, "--profile", "registries.yaml", "-o", "json"];
        Job::start(&mut sandbox.kprov_command(&up))
    });
    for job in jobs {
        job.wait().done();
    }
    let there = registries(&sandbox);
    assert_eq!(there.len(), 2, "{there:?}");
    let cache = there.iter().find(|name| name.starts_with("kprov-cache-upstream.lab-5000-")).unwrap();

    for cluster in [&one, &two] {
        assert_eq!(say(&sandbox, cluster, "upstream.lab:5000/lab/theirs:1", "through"), "through\n");
    }
    let own = format!("localhost:{port}/own:1");
    push(&sandbox, &theirs.name, &own);
    for cluster in [&one, &two] {
        assert_eq!(say(&sandbox, cluster, &own, "pushed"), "pushed\n");
    }
    let kubectl = ["kubectl", "-n", "kube-public", "get", "configmap", "local-registry-hosting", "-o", "yaml"];
    let node = sandbox.node("control-plane");
    let hosting = sandbox.kprov(&[&["exec", &node, "--"], &kubectl[..]].concat()).ok();
    hosting.says(&format!("localhost:{port}")).says("kprov-registry:5000").done();

    // Without its upstream the cache goes on, also if it starts anew.
    elsewhere.take_away();
    assert_eq!(say(&sandbox, &one, "upstream.lab:5000/lab/theirs:1", "without"), "without\n");
    sandbox.engine().docker(&["restart", "--time", "1", cache]).done();
    let alone = [
        "exec",
        cache,
        "sh",
        "-c",
        "n=0; until [ -e /kprov/registry/alone ]; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.3; done",
    ];
    sandbox.engine().docker(&alone).done();
    assert_eq!(say(&sandbox, &two, "upstream.lab:5000/lab/theirs:1", "alone"), "alone\n");

    // Removed by hand: whoever starts next makes it anew, and every node trusts it.
    sandbox.engine().docker(&["rm", "--force", "--volumes", "kprov-registry"]).done();
    sandbox.kprov(&["stop", &one]).done();
    sandbox.kprov(&["start", &one]).ok().says("kprov-registry is no more").done();
    push(&sandbox, &theirs.name, &own);
    for cluster in [&one, &two] {
        assert_eq!(say(&sandbox, cluster, &own, "anew"), "anew\n");
    }
    // Nodes that are new, too.
    sandbox.kprov(&["reset", &two]).done();
    assert_eq!(say(&sandbox, &two, &own, "reset"), "reset\n");

    sandbox.kprov(&["down", &one]).done();
    assert_eq!(registries(&sandbox).len(), 2, "the other cluster uses them");
    sandbox.kprov(&["down", &two]).done();
    assert_eq!(registries(&sandbox), [""; 0]);
    drop((theirs, elsewhere));
    sandbox.assert_clean();
}

/// Somebody's authority, whose key nobody has.
const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBlDCCATmgAwIBAgIUXFEnvCbiCtyUERsQ07pwB5b90+8wCgYIKoZIzj0EAwIw
HzEdMBsGA1UEAwwUa3Byb3YgdGVzdCBhdXRob3JpdHkwHhcNMjYxMTI2MTAyOTEw
WhcNMzYxMTIzMTAyOTEwWjAfMR0wGwYDVQQDDBRrcHJvdiB0ZXN0IGF1dGhvcml0
eTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPTG7RkGvOSLIzlnk4Hy/KmXjBXk
ICytO4szGRSGMuW3tAlPp7H9VpG02G0WWm77qwwx6iwwAY5KodJiZWtgHIqjUzBR
MB0GA1UdDgQWBBTQpslLNXFNvdDmubIYBuIzj/1CQzAfBgNVHSMEGDAWgBTQpslL
NXFNvdDmubIYBuIzj/1CQzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0kA
MEYCIQDTgM7CTjbU3NyHWQRLMQMmqENOfQbofxtEUXmMFBFhFAIhAMDzszgFHeQ+
hedTBtw2l0rw16QiA+Pl4qhx9XpbU523
-----END CERTIFICATE-----
";

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_nodes_trust_and_may_use_what_they_are_told() {
    let sandbox = Sandbox::on_engine(KPROV, "machine");
    let (cluster, node) = (sandbox.cluster.as_str(), sandbox.node("control-plane"));
    sandbox.write("company.pem", AUTHORITY);
    sandbox.write(
        "machine.yaml",
        "apiVersion: kprov.dev/v1alpha1\nkind: Profile\nmetadata: {name: machine}\nspec:\n  caCertificates: [company.pem]\n  \
         networking: {proxy: {https: 'http://127.0.0.1:9', noProxy: [.company.example]}}\n  \
         nodes: [{role: control-plane, limits: {cpus: 1, memory: 3Gi}}]\n",
    );
    sandbox.up(&["--profile", "machine.yaml"]).done();
    for _ in 0..2 {
        let verified = sandbox.kprov(&["verify", cluster]).ok();
        verified
            .says(&format!("{node}: limits"))
            .says("pods are promised 1 CPUs and 3Gi; the node may use 1 CPUs and 3Gi")
            .says(&format!("{node}: trusted certificates"))
            .done();
        let limits = ["inspect", "--format", "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}", &node];
        assert_eq!(sandbox.engine().docker(&limits).ok().stdout.trim(), "1000000000 3221225472");
        let proxy =
            "systemctl show containerd kubelet --property=Environment; systemctl show-environment; cat /proc/1/environ";
        sandbox
            .kprov(&["exec", &node, "--", "sh", "-c", proxy])
            .ok()
            .says("127.0.0.1:9")
            .says(".company.example")
            .done();
        sandbox.kprov(&["reset", cluster]).done();
    }
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
