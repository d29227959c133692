//! A node image whose own images are unpacked once for all.

use test_support::Sandbox;

use super::{KPROV, make_secret, stored};

/// Where containerd has what it has unpacked, on a node.
const SNAPSHOTS: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";

/// Removes the image again, however the test ends.
struct Cooled<'a>(&'a Sandbox);

impl Drop for Cooled<'_> {
    fn drop(&mut self) {
        let _ = self.0.kprov(&["warm", "--remove"]);
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_nodes_are_made_of_an_image_that_is_unpacked() {
    let sandbox = Sandbox::on_engine(KPROV, "warm");
    let cluster = sandbox.cluster.as_str();
    let image = Sandbox::image();
    let warm = || sandbox.kprov(&["warm", "--image", &image, "-o", "json"]).ok().json();
    let (made, again) = (warm(), warm());
    let _cooled = Cooled(&sandbox);
    assert_eq!((&made["made"], &again["made"]), (&true.into(), &false.into()));
    let (original, unpacked) = (made["image"].as_str().unwrap(), made["unpacked"].as_str().unwrap());
    assert!(again["unpacked"] == unpacked && original != unpacked, "{again}");
    // It is the original and one more layer, and starts the same.
    let inspect =
        |image: &str, what: &str| sandbox.engine().docker(&["inspect", "--format", what, image]).ok().stdout.clone();
    let layers = |image: &str| inspect(image, "{{range .RootFS.Layers}}{{println .}}{{end}}").trim().to_owned();
    let above = layers(unpacked).strip_prefix(layers(original).as_str()).map(|rest| rest.split_whitespace().count());
    assert_eq!(above, Some(1));
    for what in ["{{.Config.Env}}", "{{.Config.StopSignal}}"] {
        assert_eq!(inspect(original, what), inspect(unpacked, what));
    }

    // Whoever labels an image of their own so does not have nodes made of it.
    let labelled = format!("LABEL dev.kprov.unpacked={original}");
    let other = sandbox.engine().docker(&["create", &image]).ok().stdout.trim().to_owned();
    let foreign = sandbox.engine().docker(&["commit", "--change", &labelled, &other]).ok().stdout.trim().to_owned();
    sandbox.engine().docker(&["rm", "-v", &other]).done();

    sandbox.up(&["--profile", "secure-two-node"]).done();
    let nodes = ["control-plane", "worker"].map(|role| sandbox.node(role));
    let of = |node: &str| inspect(node, "{{.Image}}").trim().to_owned();
    // Nothing was unpacked on a node: its own folders there are those of its containers.
    let unpacked_here = |node: &str| {
        let script = format!(
            "find {SNAPSHOTS} -mindepth 2 -maxdepth 2 -name work | wc -l; find {SNAPSHOTS} -mindepth 1 -maxdepth 1 -type d | wc -l"
        );
        let counts = sandbox.kprov(&["exec", node, "--", "sh", "-euc", &script]).ok().stdout.clone();
        let counts: Vec<u32> = counts.split_whitespace().map(|count| count.parse().unwrap()).collect();
        counts[1] - counts[0]
    };
    let key = make_secret(&sandbox, "kept");
    let key = key.as_str();
    for round in ["up", "reset"] {
        for node in &nodes {
            assert_eq!(of(node), unpacked, "{round}: {node}");
            assert_eq!(unpacked_here(node), 0, "{round}: {node}");
        }
        sandbox.kprov(&["verify", cluster]).done();
        if round == "up" {
            stored(&sandbox, key, &[]).says("k8s:enc:");
            // A node that has lost all of its containerd's data has it again after a reset.
            let script = "systemctl stop containerd --no-block; rm -rf /var/lib/containerd/*";
            let _ = sandbox.kprov(&["exec", &nodes[0], "--", "sh", "-c", script]);
            sandbox.kprov(&["reset", cluster]).ok().never_says("from its profile");
        }
    }
    // Nodes are still made of it.
    sandbox.kprov(&["warm", "--remove"]).ok().says("Removed 0 unpacked images");
    sandbox.kprov(&["down", cluster]).done();
    sandbox.kprov(&["warm", "--remove"]).ok().says("Removed 1 unpacked image.");
    sandbox.up(&["--profile", "default"]).done();
    assert_eq!(of(&nodes[0]), original);
    sandbox.engine().docker(&["rmi", &foreign]).done();
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
