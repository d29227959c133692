//! A KMS plugin, its server and kprov killed at random moments while clients work and the encryption changes: no value is
//! ever lost, and none is ever stored in the clear.

use std::time::{Duration, Instant};

use test_support::{Job, Run, Sandbox, in_full};

use super::load::Load;
use super::{KPROV, encryption, random, stored, stored_alike};

/// Part of every Secret that this makes by itself, and of nothing else.
const TEXT: &str = "never-in-the-clear";

/// How long whatever was killed may take until it works again.
const BACK: Duration = Duration::from_secs(120);

fn server(sandbox: &Sandbox) -> String {
    format!("{}-openbao", sandbox.cluster)
}

fn on_node(sandbox: &Sandbox, script: &str) -> Run {
    sandbox.kprov(&["exec", &sandbox.node("control-plane"), "--", "sh", "-euc", script])
}

/// The next change; a rotation most often, since that is what only a KMS has.
fn next(sandbox: &Sandbox) -> Vec<&'static str> {
    let kms = stored_alike(sandbox).contains(":kms:");
    match (kms, random(6)) {
        (true, 0) => vec!["migrate", "--to", "secretbox", "--restart", "--no-scrub"],
        (true, _) => vec!["rotate"],
        (false, _) => vec!["migrate", "--to", "kms", "--restart", "--no-scrub"],
    }
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Plugin,
    Server,
    Kprov,
}

/// Kills what is no process of this test's. A plugin that does not run, since nothing asks it just now, cannot be.
fn kill(sandbox: &Sandbox, victim: Victim) -> bool {
    match victim {
        Victim::Plugin => {
            let script =
                "id=$(systemctl show -p MainPID --value kprov-kms); [ \"${id:-0}\" -gt 0 ] && kill -KILL \"$id\"";
            on_node(sandbox, script).code == Some(0)
        }
        Victim::Server => sandbox.engine().docker(&["kill", &server(sandbox)]).code == Some(0),
        Victim::Kprov => false,
    }
}

/// Starts the server if it is down, and waits until every plugin that is asked works.
#[track_caller]
fn bring_back(sandbox: &Sandbox) {
    sandbox.engine().docker(&["start", &server(sandbox)]).done();
    let begun = Instant::now();
    loop {
        let status = sandbox.kprov(&["status", &sandbox.cluster, "-o", "json"]).ok().json();
        let plugins = status["kms"].as_array().expect("a list").clone();
        if plugins.iter().all(|plugin| plugin["problem"].is_null()) {
            return;
        }
        assert!(begun.elapsed() < BACK, "it does not come back: {plugins:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Completes or turns back what is unfinished, now that all is there for it.
#[track_caller]
fn settle(sandbox: &Sandbox) {
    let mut verb = if random(3) == 0 { "undo" } else { "resume" };
    let begun = Instant::now();
    loop {
        let run = encryption(sandbox, &[verb, "--restart"]);
        let said = run.all();
        if run.code == Some(0) || said.contains("no change of the encryption is under way") {
            return;
        }
        if said.contains("cannot be undone any more") {
            verb = "resume";
        }
        // What has just been started may need a moment.
        assert!(begun.elapsed() < BACK, "{run}");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Makes a Secret, or at least tries: what cannot be encrypted must not be stored.
fn try_to_write(sandbox: &Sandbox, number: u64) {
    let script = format!(
        "timeout 10 kubectl create secret generic kill-{number} --from-literal=text={TEXT} >/dev/null 2>&1 || true"
    );
    on_node(sandbox, &script).done();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn whatever_of_a_kms_is_killed_every_secret_keeps_its_value() {
    let sandbox = Sandbox::on_engine(KPROV, "kmskills");
    sandbox.up(&["--profile", "kms-vault", "--set", "nodes=[{role: control-plane}]"]).done();
    let load = Load::start(&sandbox.kubeconfig());
    let wanted: u64 = if in_full() { 50 } else { 4 };
    let (mut kills, mut counts) = (0, [0; 3]);
    while kills < wanted {
        let verb = next(&sandbox);
        let arguments = [&["encryption", verb[0], &sandbox.cluster], &verb[1..], &["-o", "json"]].concat();
        let mut job = Job::start(&mut sandbox.kprov_command(&arguments));
        let victim = [Victim::Plugin, Victim::Server, Victim::Kprov][usize::try_from(kills % 3).unwrap()];
        // A rotation takes some seconds, a migration half a minute.
        let moment = Duration::from_millis(random(if verb[0] == "rotate" { 5_000 } else { 25_000 }));
        let early = job.ends_within(moment);
        let killed = match victim {
            Victim::Kprov if early => false,
            Victim::Kprov => true,
            _ => kill(&sandbox, victim),
        };
        if victim == Victim::Kprov && !early {
            drop(job.kill());
        } else {
            try_to_write(&sandbox, kills);
            // Sooner or later, and sometimes only after kprov has given up.
            let late = random(3) == 0;
            if !late {
                std::thread::sleep(Duration::from_millis(random(8_000)));
                sandbox.engine().docker(&["start", &server(&sandbox)]).done();
            }
            let run = job.wait();
            if run.code != Some(0) {
                // It gives up with an error, and never with a panic.
                let _ = run.fails();
            }
        }
        load.assert_right();
        bring_back(&sandbox);
        settle(&sandbox);
        let how = stored_alike(&sandbox);
        assert!(how.starts_with("k8s:enc:"), "stored in the clear: {:?}", stored(&sandbox));
        load.assert_right();
        if killed {
            kills += 1;
            counts[victim as usize] += 1;
            eprintln!("kill {kills}: {victim:?} in {} after {} ms; {how}", verb[0], moment.as_millis());
        }
    }

    // In the end the KMS has it all, under one key, and everything is what was written.
    if !stored_alike(&sandbox).contains(":kms:") {
        encryption(&sandbox, &["migrate", "--to", "kms"]).done();
    }
    encryption(&sandbox, &["rotate"]).done();
    let seen = load.end_right();
    let search = format!("cd /var/lib/etcd/member; grep -rlaF -e {TEXT} . || [ $? -eq 1 ]");
    assert_eq!(on_node(&sandbox, &search).ok().stdout, "", "in the clear");
    let written = "kubectl get secrets --no-headers -o custom-columns=:.metadata.name | grep -c ^kill- || true";
    let written = on_node(&sandbox, written).ok().stdout;
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    eprintln!(
        "{kills} kills (plugin, server, kprov: {counts:?}), {} Secrets made right after one: {seen}",
        written.trim()
    );
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}
