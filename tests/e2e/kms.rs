//! The key leaves the host: clusters under a KMS, its outages, and what somebody has who has stolen all but its server.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use test_support::{OpenBao, Run, Sandbox};

use super::thief::{Loot, assert_nowhere_on};
use super::{KPROV, make_secret, stored};

/// The server beside the sandbox's cluster.
fn server(sandbox: &Sandbox) -> String {
    format!("{}-openbao", sandbox.cluster)
}

/// Runs a command on the control plane.
pub(super) fn on_node(sandbox: &Sandbox, command: &[&str]) -> Run {
    let node = sandbox.node("control-plane");
    sandbox.kprov(&[&["exec", &node, "--"], command].concat())
}

pub(super) fn kubectl(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    on_node(sandbox, &[&["kubectl", "--request-timeout=10s"], arguments].concat())
}

/// Waits until `holds`, for as long as an API server may take to come up.
pub(super) fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(180), "not within 3 minutes: {what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Ends the API server; the kubelet starts another one, which has unwrapped nothing yet.
pub(super) fn restart_api_server(sandbox: &Sandbox) {
    let id = || on_node(sandbox, &["pgrep", "-x", "kube-apiserver"]).stdout;
    let before = id();
    on_node(sandbox, &["pkill", "-KILL", "-x", "kube-apiserver"]).done();
    until("another API server runs", || {
        let now = id();
        !now.is_empty() && now != before
    });
}

pub(super) fn reads(sandbox: &Sandbox, name: &str) -> bool {
    let read = kubectl(sandbox, &["get", "secret", name, "--output=jsonpath={.data.password}"]);
    // The base64 of `mypassword`.
    read.code == Some(0) && read.stdout.contains("bXlwYXNzd29yZA==")
}

pub(super) fn writes(sandbox: &Sandbox, name: &str) -> Run {
    kubectl(sandbox, &["create", "secret", "generic", name, "--from-literal=password=mypassword"])
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_key_in_a_kms_is_not_on_the_host() {
    let sandbox = Sandbox::on_engine(KPROV, "kms");
    let one = ["--set", "nodes=[{role: control-plane}]"];
    sandbox.up(&[&["--profile", "kms-vault"][..], &one].concat()).says("KMS plugin: vault works").done();
    let key = make_secret(&sandbox, "before");
    stored(&sandbox, &key, &[]).says("kms.key").says("vault-v1-").never_says("mypassword");
    let verify = || sandbox.kprov(&["verify", &sandbox.cluster]);
    until("the new Secret is among what is verified", || verify().code == Some(0));
    sandbox.kprov(&["status", &sandbox.cluster]).ok().says("vault, well, wraps by vault-v1-").done();

    // What the plugin logs in by is where it has to be, and nowhere else.
    let secret = on_node(&sandbox, &["cat", "/kind/kprov/kms/secret-id"]).ok().stdout.trim().to_owned();
    assert!(secret.len() > 30, "{secret}");
    on_node(&sandbox, &["stat", "-c", "%a %U", "/kind/kprov/kms/secret-id"]).ok().says("600 root").done();
    let engine = sandbox.engine();
    for container in [sandbox.node("control-plane"), server(&sandbox)] {
        engine.docker(&["inspect", &container]).ok().never_says(&secret).done();
        engine.docker(&["logs", &container]).never_says(&secret).done();
    }
    on_node(&sandbox, &["ps", "axww"]).never_says(&secret);
    on_node(&sandbox, &["journalctl", "-u", "kprov-kms", "--no-pager"]).ok().never_says(&secret).done();
    let record = std::fs::read_to_string(sandbox.data().join("clusters").join(&sandbox.cluster).join("cluster.json"));
    assert!(!record.unwrap().contains(&secret));

    // Stolen: all of the host but the server, which is a container of its own. The login is among the loot, and no key.
    engine.docker(&["stop", &server(&sandbox)]).done();
    engine.docker(&["stop", &sandbox.node("control-plane")]).done();
    let loot = Loot::of(&sandbox);
    assert!(!loot.holding(&secret).is_empty());
    assert_eq!(loot.holding("mypassword"), [""; 0], "in the clear");
    assert_nowhere_on(&sandbox.node("control-plane"), "mypassword");
    assert_eq!(loot.decrypt(&key), None, "a key to it lies on the host");

    // The API server itself, with every file that it has, reads nothing, and writes nothing in the clear.
    engine.docker(&["start", &sandbox.node("control-plane")]).done();
    until("the API server answers", || kubectl(&sandbox, &["get", "--raw=/version"]).code == Some(0));
    assert!(!reads(&sandbox, "before"));
    assert_ne!(writes(&sandbox, "meanwhile").code, Some(0));
    assert_eq!(sandbox.kprov(&["etcd", "keys", "secrets/default/meanwhile", "--cluster", &sandbox.cluster]).stdout, "");
    sandbox.kprov(&["status", &sandbox.cluster]).ok().says("ILL").says("-openbao:8200").done();
    verify().fails();

    // It comes back by itself, and nothing is lost.
    engine.docker(&["start", &server(&sandbox)]).done();
    until("the Secret can be read again", || reads(&sandbox, "before"));
    until("everything is well", || verify().code == Some(0));

    // Rotated there, rewritten here, and back to the first day, whose values an older version has wrapped.
    sandbox.kprov(&["encryption", "rotate", &sandbox.cluster]).ok().says("rotate in the KMS").says("vault-v2-").done();
    stored(&sandbox, &key, &[]).says("vault-v2-").done();
    assert!(reads(&sandbox, "before"));
    sandbox.kprov(&["reset", &sandbox.cluster]).done();
    assert!(!reads(&sandbox, "before"), "it was not there on the first day");
    // Given up there, only once nothing needs it; the first day did.
    let retire = ["encryption", "rotate", "--retire", &sandbox.cluster];
    sandbox.kprov(&retire).ok().says("has given up all versions before 3").done();
    let read = administer(&sandbox, "read -field=min_decryption_version transit/keys/kprov");
    assert_eq!(read.trim(), "3");
    verify().ok().says("vault-v3-").done();
    sandbox.kprov(&["reset", &sandbox.cluster]).ok().says("There is no golden state").done();

    // A plugin that is killed comes back, and a stale socket is no hindrance.
    let main = ["systemctl", "show", "-p", "MainPID", "--value", "kprov-kms"];
    let process = on_node(&sandbox, &main).ok().stdout.trim().to_owned();
    on_node(&sandbox, &["kill", "-KILL", &process]).done();
    until("another plugin runs", || {
        let now = on_node(&sandbox, &main).stdout.trim().to_owned();
        now != process && now != "0" && !now.is_empty()
    });
    make_secret(&sandbox, "after");
    assert!(reads(&sandbox, "after"));

    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

/// Runs `bao` on the server beside the cluster as who administers the key.
fn administer(sandbox: &Sandbox, arguments: &str) -> String {
    let script = format!(
        "BAO_TOKEN=$(bao write -field=token auth/approle/login role_id=admin secret_id=@/kprov/openbao/admin.secret); \
         export BAO_TOKEN; bao {arguments}"
    );
    sandbox.engine().docker(&["exec", &server(sandbox), "sh", "-euc", &script]).ok().stdout
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn outages_of_a_kms_are_told_and_cost_nothing() {
    let sandbox = Sandbox::on_engine(KPROV, "kmsout");
    sandbox.up(&["--profile", "kms-vault", "--set", "nodes=[{role: control-plane}]"]).done();
    make_secret(&sandbox, "before");
    let engine = sandbox.engine();
    let kprov = |arguments: &[&str]| sandbox.kprov(arguments);
    let told = |what: &str| {
        kprov(&["status", &sandbox.cluster]).ok().says("ILL").says(what).done();
        kprov(&["verify", &sandbox.cluster]).fails().says(what).says("not looked at: the KMS does not work");
    };
    let well = |what: &str| {
        until(what, || reads(&sandbox, "before") && kprov(&["verify", &sandbox.cluster]).code == Some(0));
        eprintln!("{what}: well again");
    };

    // Sealed. What it has in memory, an API server reads; nobody begins what could not be ended.
    administer(&sandbox, "operator seal");
    told("sealed");
    assert!(reads(&sandbox, "before"));
    let plain = || kprov(&["etcd", "keys", "secrets/default/meanwhile", "--cluster", &sandbox.cluster]).stdout;
    if writes(&sandbox, "meanwhile").code != Some(0) {
        assert_eq!(plain(), "");
    }
    for change in [&["migrate", "--to", "secretbox"][..], &["rotate"], &["disable"]] {
        kprov(&[&["encryption"], change, &[&sandbox.cluster]].concat()).fails().says("sealed");
        kprov(&["encryption", "status", &sandbox.cluster]).ok().never_says("Unfinished").done();
    }
    restart_api_server(&sandbox);
    until("the API server answers", || kubectl(&sandbox, &["get", "--raw=/version"]).code == Some(0));
    assert!(!reads(&sandbox, "before"));
    // A state is files: it needs no KMS until somebody goes back to it.
    let snapshot = format!("{}-sealed", sandbox.cluster);
    kprov(&["snapshot", "save", &snapshot, "--cluster", &sandbox.cluster]).done();
    engine.docker(&["restart", "--time", "1", &server(&sandbox)]).done();
    well("sealed");

    // Every login revoked: the plugin logs in anew.
    let script = "list -format=json auth/token/accessors | tr -dc 'a-zA-Z0-9\\n' | while read -r one; do \
                  if [ -n \"$one\" ]; then bao write auth/token/revoke-accessor accessor=\"$one\" || true; fi; done";
    assert!(administer(&sandbox, script).contains("Success"));
    writes(&sandbox, "revoked").done();
    well("revoked");

    // Another CA: nothing is sent to who cannot show the right certificate.
    let swap = "cd /kind/kprov/kms; cp -p ca.crt /root/ca.crt; cat /etc/kubernetes/pki/ca.crt > ca.crt; \
                systemctl restart kprov-kms";
    on_node(&sandbox, &["sh", "-euc", swap]).done();
    told("its certificate is not signed by the CA that the plugin was given");
    let back = "cat /root/ca.crt > /kind/kprov/kms/ca.crt; rm /root/ca.crt; systemctl restart kprov-kms";
    on_node(&sandbox, &["sh", "-euc", back]).done();
    well("another CA");

    // The version of the key that wrapped is given up, as if it were deleted: that cannot be read, and is told.
    administer(&sandbox, "write -f transit/keys/kprov/rotate");
    administer(&sandbox, "write transit/keys/kprov/config min_decryption_version=2");
    restart_api_server(&sandbox);
    until("the API server answers", || kubectl(&sandbox, &["get", "--raw=/version"]).code == Some(0));
    assert!(!reads(&sandbox, "before"));
    kubectl(&sandbox, &["get", "secret", "before"]).fails().says("too old");
    kprov(&["verify", &sandbox.cluster]).fails().says("vault-v1-");
    administer(&sandbox, "write transit/keys/kprov/config min_decryption_version=1");
    until("the Secret can be read again", || reads(&sandbox, "before"));
    kprov(&["encryption", "rotate", &sandbox.cluster]).done();
    well("given up");

    // Killed: who goes back to a state starts it.
    engine.docker(&["kill", &server(&sandbox)]).done();
    told("-openbao:8200");
    kprov(&["snapshot", "restore", &snapshot]).done();
    until("the Secret of the state can be read", || reads(&sandbox, "before"));
    // Its values are of the key's version of then.
    kprov(&["verify", &sandbox.cluster]).fails().says("vault-v1-");
    kprov(&["encryption", "rotate", &sandbox.cluster]).done();
    well("restored");

    // Gone for good, and its key with it.
    engine.docker(&["rm", "--force", "--volumes", &server(&sandbox)]).done();
    told("-openbao:8200");
    kprov(&["snapshot", "restore", &snapshot]).fails().says("is no more");
    kprov(&["reset", &sandbox.cluster])
        .ok()
        .says("is no more")
        .says("making the cluster again from its profile")
        .done();
    assert!(!reads(&sandbox, "before"));
    make_secret(&sandbox, "before");
    well("made again");
    kprov(&["snapshot", "rm", &snapshot]).done();
    kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_key_beside_the_data_is_stolen_with_it() {
    let sandbox = Sandbox::on_engine(KPROV, "stolen");
    sandbox.up(&["--profile", "secure-two-node", "--set", "nodes=[{role: control-plane}]"]).done();
    let key = make_secret(&sandbox, "e2e");
    let node = sandbox.node("control-plane");
    let steal = || {
        sandbox.engine().docker(&["stop", &node]).done();
        let loot = Loot::of(&sandbox);
        assert_eq!(loot.holding("mypassword"), [""; 0], "in the clear");
        let plain = loot.decrypt(&key).expect("the thief reads it");
        assert!(String::from_utf8_lossy(&plain).contains("mypassword"));
    };
    stored(&sandbox, &key, &[]).says("k8s:enc:aescbc:").never_says("mypassword").done();
    steal();
    sandbox.engine().docker(&["start", &node]).done();
    until("the API server answers", || reads(&sandbox, "e2e"));
    // A KMS whose key is a file on the node changes nothing.
    sandbox.kprov(&["encryption", "migrate", &sandbox.cluster, "--to", "kms", "--kms", "kms-local"]).done();
    stored(&sandbox, &key, &[]).says("k8s:enc:kms:").never_says("mypassword").done();
    steal();
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_cluster_goes_to_a_kms_and_back() {
    let sandbox = Sandbox::on_engine(KPROV, "kmsmove");
    sandbox.up(&[]).done();
    let key = make_secret(&sandbox, "e2e");
    let encryption = |arguments: &[&str]| sandbox.kprov(&[&["encryption"], arguments, &[&sandbox.cluster]].concat());
    // Whose KMS is ill is not dead: up to 1.28, probes of the API server's life have to leave it out.
    let manifest = "grep -c 'livez?exclude=kms-provider' /etc/kubernetes/manifests/kube-apiserver.yaml || true";
    let left_out = || on_node(&sandbox, &["sh", "-c", manifest]).stdout.trim().to_owned();
    let version = on_node(&sandbox, &["cat", "/kind/version"]).ok().stdout;
    let minor: u32 = version.split('.').nth(1).unwrap().parse().unwrap();
    let dies = minor < 29;
    encryption(&["enable", "--provider", "kms", "--kms", "kms-local"]).ok().says("from identity to kms local").done();
    assert_eq!(left_out(), if dies { "2" } else { "0" });
    stored(&sandbox, &key, &[]).says("local-").never_says("mypassword").done();
    encryption(&["rotate"]).ok().says("rotate in the KMS from local-").done();
    assert!(reads(&sandbox, "e2e"));
    encryption(&["migrate", "--to", "secretbox"]).ok().says("k8s:enc:secretbox:v1:key1:").done();
    encryption(&["migrate", "--to", "kms", "--kms", "kms-local"]).ok().says("k8s:enc:kms:").done();
    assert!(reads(&sandbox, "e2e"));
    // Nothing of the plugin stays when nobody asks it, and everything goes on without it.
    encryption(&["rotate", "--retire"]).ok().says("The old keys are gone").done();
    assert!(reads(&sandbox, "e2e"));
    encryption(&["disable"]).done();
    stored(&sandbox, &key, &[]).says("mypassword").done();
    assert_eq!(left_out(), "0");
    let left = "ls -d /kind/kprov/kms /run/kprov-kms /etc/systemd/system/kprov-kms.service || true; grep kprov-kms /etc/kubernetes/manifests/*";
    assert_eq!(on_node(&sandbox, &["sh", "-c", left]).stdout, "");
    assert_ne!(on_node(&sandbox, &["systemctl", "is-active", "kprov-kms"]).code, Some(0));
    sandbox.engine().docker(&["restart", &sandbox.node("control-plane")]).done();
    until("the API server answers without its plugin", || reads(&sandbox, "e2e"));
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

/// A profile of one control plane whose Secrets are encrypted by this KMS.
pub(super) fn profile_with(sandbox: &Sandbox, name: &str, kms: &str, node: &str) -> String {
    let text = format!(
        "apiVersion: kprov.dev/v1alpha1\nkind: Profile\nmetadata: {{name: {name}}}\nspec:\n  nodes:\n  - role: control-plane\n{node}  \
         encryption:\n    resources: [secrets]\n    providers:\n    - type: kms\n      kms: {kms}\n    - type: identity\n"
    );
    sandbox.write(&format!("{name}.yaml"), text).display().to_string()
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_server_elsewhere_takes_every_login() {
    let sandbox = Sandbox::on_engine(KPROV, "kmselse");
    let bao = OpenBao::start();
    let bridge = ["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"];
    let host = sandbox.engine().docker(&bridge).ok().stdout.trim().to_owned();
    let server =
        format!("address: '{}', serverName: {}, ca: {}", bao.address_at(&host), bao.name(), bao.ca().display());
    let kms = |name: &str, auth: &str| {
        profile_with(&sandbox, name, &format!("{{vault: {{{server}, key: team, auth: {{{auth}}}}}}}"), "")
    };

    // By a certificate of its own.
    let key = rcgen::KeyPair::generate().unwrap();
    let client = rcgen::CertificateParams::new(vec!["team".to_owned()]).unwrap().self_signed(&key).unwrap();
    let certificate = bao.write("client.crt", &client.pem()).display().to_string();
    let key = bao.write("client.key", &key.serialize_pem()).display().to_string();
    bao.run(&["auth", "enable", "cert"]).done();
    let trusted = format!("certificate=@{certificate}");
    bao.run(&["write", "auth/cert/certs/team", &trusted, "token_policies=team", "token_ttl=1h"]).done();
    let by_certificate = kms(
        "by-certificate",
        &format!("certificate: {{role: team, certificate: {certificate}, key: {{file: {key}}}}}"),
    );
    // By a token that can be renewed for ever.
    let token = bao.run(&["token", "create", "-policy=team", "-period=1h", "-orphan", "-field=token"]).ok().stdout;
    let token = token.trim().to_owned();
    let by_token = kms("by-token", &format!("token: {{file: {}}}", bao.write("team.token", &token).display()));
    // By an AppRole.
    bao.run(&["auth", "enable", "approle"]).done();
    bao.run(&["write", "auth/approle/role/team", "token_policies=team", "token_period=1h"]).done();
    let role = bao.run(&["read", "-field=role_id", "auth/approle/role/team/role-id"]).ok().stdout;
    let secret = bao.run(&["write", "-f", "-field=secret_id", "auth/approle/role/team/secret-id"]).ok().stdout;
    let (role, secret) = (bao.write("role.id", role.trim()), bao.write("secret.id", secret.trim()));
    let by_role =
        format!("appRole: {{roleId: {{file: {}}}, secretId: {{file: {}}}}}", role.display(), secret.display());
    let by_role = kms("by-role", &by_role);

    sandbox.up(&["--profile", &by_certificate]).ok().says("KMS plugin: vault works").done();
    let secret = make_secret(&sandbox, "e2e");
    let encryption = |arguments: &[&str]| sandbox.kprov(&[&["encryption"], arguments, &[&sandbox.cluster]].concat());
    let well = |what: &str| {
        stored(&sandbox, &secret, &[]).says("vault-v").never_says("mypassword").done();
        assert!(reads(&sandbox, "e2e"));
        until(what, || sandbox.kprov(&["verify", &sandbox.cluster]).code == Some(0));
        sandbox.kprov(&["kms", "status", &sandbox.cluster]).ok().says("Provider vault").says("Health ok").done();
        eprintln!("{what}: well");
    };
    well("by certificate");
    for (what, profile) in [("by token", &by_token), ("by AppRole", &by_role)] {
        encryption(&["migrate", "--to", "secretbox", "--no-scrub"]).done();
        assert_ne!(on_node(&sandbox, &["ls", "/kind/kprov/kms"]).code, Some(0));
        encryption(&["migrate", "--to", "kms", "--kms", profile, "--no-scrub"]).done();
        well(what);
    }
    let expires = sandbox.kprov(&["kms", "status", &sandbox.cluster, "-o", "json"]).ok().json();
    let expires = expires["plugins"][0]["report"]["loginExpiresInSeconds"].as_u64().expect("it expires");
    assert!((1..=3600).contains(&expires), "{expires}");

    // Its owner rotates the key; kprov rewrites what the old version has wrapped, and leaves that to its owner.
    bao.run(&["write", "-f", "transit/keys/team/rotate"]).done();
    until("the plugin tells of the new version", || {
        sandbox.kprov(&["kms", "status", &sandbox.cluster]).stdout.contains("vault-v2-")
    });
    encryption(&["rotate", "--retire"]).ok().says("The KMS is not kprov's").done();
    stored(&sandbox, &secret, &[]).says("vault-v2-").done();
    bao.run(&["write", "transit/keys/team/config", "min_decryption_version=2"]).done();
    restart_api_server(&sandbox);
    until("the Secret can be read by the new version alone", || reads(&sandbox, "e2e"));

    // A token that is taken back is told, and by no word of it.
    let node = sandbox.node("control-plane");
    sandbox.engine().docker(&["logs", &node]).never_says(&token).done();
    on_node(&sandbox, &["journalctl", "-u", "kprov-kms", "--no-pager"]).ok().never_says(&token).done();
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

/// Starts a plugin that kprov has no part in, at another socket.
const FOREIGN: &str = "\
[Unit]
Before=kubelet.service
[Service]
ExecStart=/foreign/plugin kms serve --socket /run/foreign-kms/kms.sock --config /foreign/config.yaml
RuntimeDirectory=foreign-kms
RuntimeDirectoryMode=0700
";

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_plugin_of_somebody_elses_is_asked() {
    let sandbox = Sandbox::on_engine(KPROV, "kmsforeign");
    let keys = sandbox.path().join("foreign/keys.yaml").display().to_string();
    let config = sandbox.write("foreign/config.yaml", "local: {keyFile: /foreign/keys.yaml}");
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    sandbox.kprov(&["kms", "add-key", &keys]).done();
    std::fs::copy(KPROV, sandbox.path().join("foreign/plugin")).unwrap();
    sandbox.write("foreign.service", FOREIGN);
    sandbox.write("foreign.conf", "[Unit]\nWants=foreign-kms.service\nAfter=foreign-kms.service\n");
    let units = "/etc/systemd/system";
    let node = format!(
        "    mounts:\n    - {{hostPath: foreign, containerPath: /foreign}}\n    \
         - {{hostPath: foreign.service, containerPath: {units}/foreign-kms.service}}\n    \
         - {{hostPath: foreign.conf, containerPath: {units}/kubelet.service.d/30-foreign-kms.conf}}\n"
    );
    let profile = profile_with(&sandbox, "foreign", "{endpoint: 'unix:///run/foreign-kms/kms.sock'}", &node);
    sandbox.up(&["--profile", &profile]).done();
    let key = make_secret(&sandbox, "e2e");
    stored(&sandbox, &key, &[]).says("k8s:enc:kms:").says("local-").never_says("mypassword").done();
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    assert_ne!(on_node(&sandbox, &["ls", "/kind/kprov/kms"]).code, Some(0));
    restart_api_server(&sandbox);
    until("the Secret can be read", || reads(&sandbox, "e2e"));
    // What asks it as an API server does finds it right; its metrics hold no name of a Secret and no key.
    let ask = |what: &[&str]| {
        let socket = ["--socket", "/run/foreign-kms/kms.sock"];
        on_node(&sandbox, &[&["/foreign/plugin", "kms"], what, &socket].concat())
    };
    ask(&["measure", "--calls", "200"]).ok().says("200 right").done();
    ask(&["metrics"])
        .ok()
        .says("kprov_kms_up 1")
        .says("kprov_kms_calls_total{operation=\"unwrap\"}")
        .never_says("e2e")
        .done();
    // Its walks are those of any other KMS; its rotation is its owner's.
    let encryption = |arguments: &[&str]| sandbox.kprov(&[&["encryption"], arguments, &[&sandbox.cluster]].concat());
    encryption(&["migrate", "--to", "secretbox", "--no-scrub"]).done();
    stored(&sandbox, &key, &[]).says("k8s:enc:secretbox:").done();
    assert!(reads(&sandbox, "e2e"));
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn kind_makes_a_cluster_under_a_kms_of_a_bundle() {
    let sandbox = Sandbox::on_engine(KPROV, "kmskind");
    let (cluster, image) = (sandbox.cluster.as_str(), Sandbox::image());
    let one = ["--profile", "kms-local", "--set", "nodes=[{role: control-plane}]"];
    let target = ["--name", cluster, "--image", &image, "--out", "bundle"];
    sandbox.kprov(&[&["render"], &one[..], &target].concat()).done();
    let mode =
        |name: &str| std::fs::metadata(sandbox.path().join("bundle/kms").join(name)).unwrap().permissions().mode();
    assert_eq!((mode("") & 0o777, mode("keys.yaml") & 0o777, mode("kprov") & 0o777), (0o700, 0o600, 0o700));
    sandbox.kind(&["create", "cluster", "--config", "bundle/cluster.yaml"]).done();
    let key = make_secret(&sandbox, "e2e");
    stored(&sandbox, &key, &[]).says("k8s:enc:kms:").says("local-").never_says("mypassword").done();
    sandbox.kprov(&["wait", cluster]).done();
    sandbox.kprov(&["verify", cluster]).ok().says("KMS plugin: local works").done();
    // Its plugin leaves, too, as that of any other cluster.
    sandbox.kprov(&["encryption", "migrate", cluster, "--to", "secretbox", "--no-scrub"]).done();
    assert_ne!(on_node(&sandbox, &["ls", "/kind/kprov/kms"]).code, Some(0));
    assert!(reads(&sandbox, "e2e"));
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
