//! A key in a token, SoftHSM2's: the plugin by itself, and a cluster whose plugin is on the host beside it.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use test_support::{PIN, Run, Sandbox, SoftHsm};

use super::kms::{kubectl, on_node, profile_with, reads, restart_api_server, until, writes};
use super::{KPROV, make_secret, stored};

/// A plugin on this host. Ends when dropped.
struct Plugin<'a> {
    sandbox: &'a Sandbox,
    hsm: &'a SoftHsm,
    child: Child,
}

impl<'a> Plugin<'a> {
    fn start(sandbox: &'a Sandbox, hsm: &'a SoftHsm) -> Self {
        let (socket, config) = (socket(hsm), hsm.config().display().to_string());
        let mut command = sandbox.kprov_command(&["kms", "serve", "--socket", &socket, "--config", &config]);
        let log = File::options().create(true).append(true).open(log(sandbox)).unwrap();
        let child = hsm.seen_by(&mut command).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let plugin = Self { sandbox, hsm, child };
        until("the plugin answers", || !plugin.ask(&["status"]).all().contains("does not answer"));
        plugin
    }

    fn ask(&self, what: &[&str]) -> Run {
        self.sandbox.kprov(&[&["kms"], what, &["--socket", &socket(self.hsm)]].concat())
    }

    fn well(&self, what: &str) {
        until(what, || self.ask(&["status"]).code == Some(0));
        self.ask(&["measure", "--calls", "50", "--at-a-time", "4"]).ok().says("50 right").done();
    }
}

impl Drop for Plugin<'_> {
    fn drop(&mut self) {
        // It has ended by itself, or does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket(hsm: &SoftHsm) -> String {
    hsm.socket_folder().join("kms.sock").display().to_string()
}

fn log(sandbox: &Sandbox) -> PathBuf {
    sandbox.path().join("plugin.log")
}

/// What a stored value tells of its key by either protocol: by v1, no more than the id's mark.
fn mark(id: &str) -> &str {
    id.split("-v").next().unwrap()
}

/// Makes one more version of the key; gives its id.
fn add_key(sandbox: &Sandbox, hsm: &SoftHsm) -> String {
    let config = hsm.config().display().to_string();
    let mut command = sandbox.kprov_command(&["kms", "add-key", "--config", &config, "-o", "json"]);
    let added = Run::of(hsm.seen_by(&mut command)).ok().json();
    added["keyId"].as_str().expect("an id").to_owned()
}

#[test]
#[ignore = "needs SoftHSM2: cargo xtask test"]
fn a_token_wraps_and_its_plugin_outlives_its_absence() {
    let (sandbox, hsm) = (Sandbox::without_engine(KPROV), SoftHsm::new());
    let mut plugin = Plugin::start(&sandbox, &hsm);
    plugin.ask(&["status"]).fails().says("the key kek of the token class: there is no such AES key");
    let first = add_key(&sandbox, &hsm);
    assert!(first.contains("-v1-"), "{first}");
    plugin.well("the first key wraps");
    plugin.ask(&["status"]).ok().says("Provider pkcs11").says(&first).done();
    let second = add_key(&sandbox, &hsm);
    assert!(second.contains("-v2-"), "{second}");
    plugin.ask(&["status"]).ok().says(&second).done();
    plugin.well("the second key wraps");

    // Pulled out, and put back.
    hsm.take_away();
    plugin.ask(&["status"]).fails().says("Health the token class: ");
    plugin.ask(&["measure", "--calls", "1"]).fails();
    assert!(plugin.child.try_wait().unwrap().is_none(), "the plugin has ended");
    hsm.put_back();
    plugin.well("put back");

    // A PIN that is refused is tried once: tokens lock themselves.
    hsm.take_away();
    plugin.ask(&["status"]).fails();
    hsm.set_pin("9999-wrong");
    hsm.put_back();
    until("the PIN is refused", || plugin.ask(&["status"]).stdout.contains("has refused this PIN"));
    let log = || std::fs::read_to_string(log(&sandbox)).unwrap();
    hsm.set_pin(PIN);
    plugin.well("the right PIN");

    // Killed, and started over its own socket.
    plugin.child.kill().unwrap();
    plugin.child.wait().unwrap();
    drop(plugin);
    let plugin = Plugin::start(&sandbox, &hsm);
    plugin.well("started again");
    plugin.ask(&["metrics"]).ok().says("kprov_kms_up 1").says(&second).never_says(PIN).done();
    let arguments = std::fs::read(format!("/proc/{}/cmdline", plugin.child.id())).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(PIN));
    assert!(!log().contains(PIN) && !log().contains("9999"), "{}", log());
    assert!(log().contains("\"logged in\""), "{}", log());
    drop(plugin);
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_a_clusters_key_is_in_a_token_on_the_host() {
    let (sandbox, hsm) = (Sandbox::on_engine(KPROV, "hsm"), SoftHsm::new());
    let kms = format!("{{host: {}}}", hsm.socket_folder().display());
    let profile = profile_with(&sandbox, "hsm", &kms, "");
    // Without the plugin, that is what is told, and soon.
    sandbox.up(&["--profile", &profile]).fails().says("the KMS plugin whose socket").says("kprov kms serve --socket");
    let first = add_key(&sandbox, &hsm);
    let plugin = Plugin::start(&sandbox, &hsm);
    sandbox.up(&["--profile", &profile]).ok().says("KMS plugin: pkcs11 works, and wraps by").says(&first).done();
    let key = make_secret(&sandbox, "before");
    stored(&sandbox, &key, &[]).says("k8s:enc:kms:").says(mark(&first)).never_says("mypassword").done();
    let kprov = |arguments: &[&str]| sandbox.kprov(arguments);
    let encryption = |change: &[&str]| kprov(&[&["encryption"], change, &[&sandbox.cluster]].concat());
    let well = |what: &str| {
        until(what, || reads(&sandbox, "before") && kprov(&["verify", &sandbox.cluster]).code == Some(0));
        eprintln!("{what}: well");
    };
    kprov(&["status", &sandbox.cluster]).ok().says("pkcs11, well, wraps by").done();
    kprov(&["kms", "status", &sandbox.cluster]).ok().says("Provider pkcs11").done();

    // Pulled out: told, nothing is begun, and nothing is stored in the clear.
    hsm.take_away();
    kprov(&["status", &sandbox.cluster]).ok().says("ILL").says("the token class: ").done();
    kprov(&["verify", &sandbox.cluster]).fails().says("the token class: ");
    assert!(reads(&sandbox, "before"), "what is in memory");
    for change in [&["migrate", "--to", "secretbox"][..], &["rotate"], &["disable"]] {
        encryption(change).fails().says("the token class: ");
        encryption(&["status"]).ok().never_says("Unfinished").done();
    }
    restart_api_server(&sandbox);
    until("the API server answers", || kubectl(&sandbox, &["get", "--raw=/version"]).code == Some(0));
    assert!(!reads(&sandbox, "before"));
    assert_ne!(writes(&sandbox, "meanwhile").code, Some(0));
    assert_eq!(kprov(&["etcd", "keys", "secrets/default/meanwhile", "--cluster", &sandbox.cluster]).stdout, "");
    sandbox.engine().docker(&["restart", &sandbox.node("control-plane")]).done();
    hsm.put_back();
    well("put back");

    // Rotated by its owner; kprov rewrites.
    let second = add_key(&sandbox, &hsm);
    until("the plugin tells of the new key", || kprov(&["kms", "status", &sandbox.cluster]).stdout.contains(&second));
    encryption(&["rotate", "--retire"]).ok().says("The KMS is not kprov's").done();
    stored(&sandbox, &key, &[]).says(mark(&second)).done();
    well("rotated");

    // The plugin is killed, and started again; the nodes are made anew.
    drop(plugin);
    kprov(&["verify", &sandbox.cluster]).fails().says("KMS plugin");
    let plugin = Plugin::start(&sandbox, &hsm);
    well("started again");
    kprov(&["reset", &sandbox.cluster]).done();
    make_secret(&sandbox, "before");
    kprov(&["encryption", "rotate", &sandbox.cluster]).done();
    well("reset");

    // Away, and back; what is on the host stays as it is.
    encryption(&["migrate", "--to", "secretbox", "--no-scrub"]).done();
    assert_ne!(on_node(&sandbox, &["ls", "/kind/kprov/kms"]).code, Some(0));
    plugin.well("left alone");
    let own = encryption(&["migrate", "--to", "kms", "--kms", "kms-local"]).fails();
    own.says("where a KMS plugin of its own would listen");
    encryption(&["migrate", "--to", "kms", "--kms", &profile, "--no-scrub"]).done();
    well("back again");
    kprov(&["down", &sandbox.cluster]).done();
    plugin.well("after the cluster");

    // Nodes that were made without the folder cannot be given it.
    sandbox.up(&["--set", "nodes=[{role: control-plane}]"]).done();
    let run = encryption(&["enable", "--provider", "kms", "--kms", &profile]).fails();
    run.says("does not see the folder");
    encryption(&["status"]).ok().never_says("Unfinished").done();
    kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}
