//! A KMS of somebody else's, failing in every way that a server, its certificates, its logins and its keys can.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use test_support::{OpenBao, Sandbox};

use super::kms::{kubectl, on_node, profile_with, reads, restart_api_server, until, writes};
use super::{KPROV, make_secret, stored};

/// What a server shows whose certificate is good from one year to the first day of another, and the CA that says so.
fn identity(name: &str, from: i32, to: i32) -> [String; 3] {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    let certificate = params.signed_by(&key, &authority).unwrap();
    [authority.pem(), certificate.pem(), key.serialize_pem()]
}

/// Gives the plugin the CA that its server has now, and starts it anew.
fn trust(sandbox: &Sandbox, bao: &OpenBao) {
    let [authority, ..] = bao.shown();
    let script = format!("cat > /kind/kprov/kms/ca.crt <<'END'\n{authority}\nEND\nsystemctl restart kprov-kms");
    on_node(sandbox, &["sh", "-euc", &script]).done();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_a_server_elsewhere_fails_in_every_way() {
    let sandbox = Sandbox::on_engine(KPROV, "kmsfail");
    let bao = OpenBao::start();
    let bridge = ["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"];
    let host = sandbox.engine().docker(&bridge).ok().stdout.trim().to_owned();
    bao.run(&["auth", "enable", "approle"]).done();
    // A login that is soon at its end, however often it is renewed.
    bao.run(&["write", "auth/approle/role/team", "token_policies=team", "token_ttl=6s", "token_max_ttl=15s"]).done();
    let role = bao.run(&["read", "-field=role_id", "auth/approle/role/team/role-id"]).ok().stdout;
    let secret = bao.run(&["write", "-f", "-field=secret_id", "auth/approle/role/team/secret-id"]).ok().stdout;
    let (role, secret) = (bao.write("role.id", role.trim()), bao.write("secret.id", secret.trim()));
    let kms = format!(
        "{{vault: {{address: '{}', serverName: {}, ca: {}, key: team, auth: {{appRole: {{roleId: {{file: {}}}, secretId: {{file: {}}}}}}}}}}}",
        bao.address_at(&host),
        bao.name(),
        bao.ca().display(),
        role.display(),
        secret.display()
    );
    sandbox.up(&["--profile", &profile_with(&sandbox, "elsewhere", &kms, "")]).done();
    let key = make_secret(&sandbox, "before");
    let kprov = |arguments: &[&str]| sandbox.kprov(arguments);
    let encryption = |change: &[&str]| kprov(&[&["encryption"], change, &[&sandbox.cluster]].concat());
    let told = |what: &str| {
        // Who has just been started may not answer yet.
        until(what, || kprov(&["status", &sandbox.cluster]).ok().stdout.contains(what));
        kprov(&["kms", "status", &sandbox.cluster]).fails().says(what);
        kprov(&["verify", &sandbox.cluster]).fails().says(what);
    };
    let refused = |what: &str| {
        for change in [&["migrate", "--to", "secretbox"][..], &["rotate"], &["disable"]] {
            encryption(change).fails().says(what);
            encryption(&["status"]).ok().never_says("Unfinished").done();
        }
    };
    let well = |what: &str| {
        until(what, || reads(&sandbox, "before") && kprov(&["verify", &sandbox.cluster]).code == Some(0));
        eprintln!("{what}: well again");
    };
    let plain = || kprov(&["etcd", "keys", "secrets/default/meanwhile", "--cluster", &sandbox.cluster]).stdout;
    let answers = || until("the API server answers", || kubectl(&sandbox, &["get", "--raw=/version"]).code == Some(0));

    // Logins end, and nobody notices.
    let measure = "/kind/kprov/kms/start kms measure --socket /run/kprov-kms/kms.sock --calls 20";
    for _ in 0..12 {
        on_node(&sandbox, &["sh", "-euc", measure]).done();
        std::thread::sleep(Duration::from_secs(2));
    }
    let journal = on_node(&sandbox, &["journalctl", "-u", "kprov-kms", "--no-pager"]).ok().stdout;
    let count = |what: &str| journal.matches(what).count();
    assert!(count("\"logged in\"") >= 2 && count("login renewed") >= 2, "{journal}");
    well("logins that end");

    // It takes connections, and says nothing.
    bao.signal("STOP");
    told("it says nothing within 3s");
    refused("it says nothing within 3s");
    assert!(reads(&sandbox, "before"));
    bao.signal("CONT");
    well("silent");

    // By the clock here, its certificate is not good: a clock that has been moved looks the same.
    let own = bao.shown();
    for (from, to, words) in [(2001, 2002, "has expired"), (2090, 2091, "is not valid yet")] {
        bao.show(&identity(bao.name(), from, to));
        trust(&sandbox, &bao);
        told(words);
        refused(words);
        bao.show(&identity(bao.name(), 2001, 2091));
        trust(&sandbox, &bao);
        well(words);
    }
    bao.show(&own);
    trust(&sandbox, &bao);
    well("its own certificate");

    // Everything is killed at once and started at once, as when an engine is: the server is not there yet.
    let node = sandbox.node("control-plane");
    let engine = sandbox.engine();
    bao.signal("STOP");
    engine.docker(&["kill", &node]).done();
    engine.docker(&["start", &node]).done();
    answers();
    assert!(!reads(&sandbox, "before"));
    assert_ne!(writes(&sandbox, "meanwhile").code, Some(0));
    assert_eq!(plain(), "");
    told("it says nothing within 3s");
    bao.signal("CONT");
    well("killed and started");

    // A state is files; who goes back to it needs the server.
    let snapshot = format!("{}-one", sandbox.cluster);
    bao.signal("STOP");
    let save = kprov(&["snapshot", "save", &snapshot, "--cluster", &sandbox.cluster]);
    save.ok().says("KMS").done();
    let reset = kprov(&["reset", &sandbox.cluster]).fails();
    reset.says("The KMS does not work").says("it says nothing within 3s").says("nothing of it is lost");
    bao.signal("CONT");
    well("after a reset without the server");

    // Its key is deleted. What is in memory can be read; what is begun is refused; nothing is stored in the clear.
    bao.run(&[
        "write",
        "transit/keys/team/config",
        "deletion_allowed=true",
        "exportable=true",
        "allow_plaintext_backup=true",
    ])
    .done();
    let backup = bao.run(&["read", "-field=backup", "transit/backup/team"]).ok().stdout;
    let backup = format!("backup=@{}", bao.write("backup", backup.trim()).display());
    bao.run(&["delete", "transit/keys/team"]).done();
    told("there is no such key");
    refused("there is no such key");
    stored(&sandbox, &key, &[]).says("vault-v1-").done();
    restart_api_server(&sandbox);
    answers();
    assert!(!reads(&sandbox, "before"));
    assert_ne!(writes(&sandbox, "meanwhile").code, Some(0));
    assert_eq!(plain(), "");
    // Another one of its name is not it, and that is told.
    bao.run(&["write", "-f", "transit/keys/team"]).done();
    until("the new key wraps", || writes(&sandbox, "meanwhile").code == Some(0));
    assert!(!reads(&sandbox, "before"));
    kprov(&["verify", &sandbox.cluster]).fails();
    kubectl(&sandbox, &["delete", "secret", "meanwhile"]).done();
    bao.run(&["write", "transit/keys/team/config", "deletion_allowed=true"]).done();
    bao.run(&["delete", "transit/keys/team"]).done();
    bao.run(&["write", "transit/restore/team", &backup]).done();
    well("deleted, and restored from its owner's backup");
    encryption(&["rotate"]).done();
    kprov(&["snapshot", "restore", &snapshot]).done();
    well("restored");

    kprov(&["snapshot", "rm", &snapshot]).done();
    kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}
