//! The CIS benchmark held against real clusters, controls that are broken and found, and the report.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use kprov::documents::breakage::BREAKS;
use serde_json::Value;
use test_support::{Run, Sandbox, in_full};

use super::KPROV;

fn cis(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    sandbox.kprov(&[&["cis", &sandbox.cluster, "-o", "json"], arguments].concat())
}

/// Every verdict: number, node, status.
fn verdicts(document: &Value) -> Vec<(String, String, String)> {
    let list = |value: &Value, name: &str| value[name].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for part in list(document, "Controls") {
        for section in list(&part, "tests") {
            for result in list(&section, "results") {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                found.push((text(&result["test_number"]), text(&part["node"]), text(&result["status"])));
            }
        }
    }
    found
}

/// The archive of an image of something that prints a node's part of our own results, as kube-bench would. It has two names, and goes
/// from the engine with the test.
struct Bench<'a> {
    sandbox: &'a Sandbox,
    names: [String; 2],
    archive: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(sandbox: &'a Sandbox, node: &str, results: &Value) -> Self {
        let mut results = results.clone();
        results["Controls"].as_array_mut().unwrap().retain(|part| part["node"].is_null() || part["node"] == node);
        sandbox.write("image/results.json", format!("{results}\n"));
        // By the account that section 5 asks the API with.
        let program =
            "#!/bin/sh\n[ -s \"$KUBECONFIG\" ] && read -r results </results.json && printf '%s\\n' \"$results\"\n";
        sandbox.write("image/bin/kube-bench", program);
        let script = "cp -L /bin/dash image/bin/sh && chmod 755 image/bin/kube-bench && tar --dereference -cf image.tar -C image . \
                      -C / lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6";
        Run::of(Command::new("sh").args(["-euc", script]).current_dir(sandbox.path())).done();
        let names = ["one", "two"].map(|name| format!("kprov-e2e/bench-{name}:{}", sandbox.cluster));
        let file = |name: &str| sandbox.path().join(name);
        let (image, archive) = (file("image.tar").display().to_string(), file("bench.tar"));
        let docker = |arguments: &[&str]| sandbox.engine().docker(arguments).done();
        docker(&["import", "--change", "ENV PATH=/bin", &image, &names[0]]);
        docker(&["tag", &names[0], &names[1]]);
        docker(&["save", "-o", &archive.display().to_string(), &names[0], &names[1]]);
        Self { sandbox, names, archive }
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        let _ = self.sandbox.engine().docker(&["image", "rm", "--force", &self.names[0], &self.names[1]]);
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn what_is_broken_is_found_and_a_reset_ends_the_lesson() {
    let sandbox = Sandbox::on_engine(KPROV, "cis");
    sandbox.up(&["--profile", "hardened"]).done();

    let whole = cis(&sandbox, &[]).ok().json();
    let before = verdicts(&whole);
    assert_eq!(before.iter().filter(|(_, _, status)| status == "FAIL").count(), 0, "{before:?}");
    assert!(before.len() > 120, "{before:?}");
    assert_eq!(whole["Totals"]["total_pass"], before.iter().filter(|(_, _, status)| status == "PASS").count());
    // What failed in a section that is not asked for does not matter.
    let one = cis(&sandbox, &["--section", "1.1.1"]).ok().json();
    assert_eq!(verdicts(&one).len(), 1);
    cis(&sandbox, &["--section", "9.9"]).fails().says("has no section or control");
    cis(&sandbox, &["--node", "nobody"]).fails().says("has no node");

    // How it ends is told by what it is to fail on.
    let ends = |arguments: &[&str]| cis(&sandbox, arguments).code;
    assert_eq!(ends(&["--fail-on", "warn"]), Some(3));
    assert_eq!(ends(&["--section", "1.1.1", "--fail-on", "warn"]), Some(0));
    let told = sandbox.kprov(&["cis", &sandbox.cluster, "--section", "1.1.1", "--verbose"]).ok();
    told.says("automated").says("/etc/kubernetes/manifests/kube-apiserver.yaml has 600");
    // A kube-bench that says otherwise of what is scored: nobody knows why.
    let benchmark = whole["benchmark"].as_str().unwrap();
    for name in ["config", "master", "etcd", "controlplane", "node", "policies"] {
        sandbox.write(&format!("bench/cfg/{benchmark}/{name}.yaml"), "");
    }
    sandbox.write("bench/cfg/config.yaml", "");
    let mut theirs = whole.clone();
    let here = sandbox.node("control-plane");
    theirs["Controls"].as_array_mut().unwrap().retain(|part| part["node"].is_null() || part["node"] == here.as_str());
    let verdict = theirs.pointer_mut("/Controls/0/tests/0/results/0").unwrap();
    assert_eq!((&verdict["test_number"], &verdict["status"]), (&"1.1.1".into(), &"PASS".into()));
    verdict["status"] = "FAIL".into();
    let bench = sandbox.write("bench/kube-bench", format!("#!/bin/sh\ncat <<'E'\n{theirs}\nE\n"));
    let beside = format!("--kube-bench={}", bench.display());
    let run = cis(&sandbox, &[&beside, "--node", &here]);
    assert_eq!(run.code, Some(4), "{run}");
    let pairs = run.json()["comparison"].clone();
    let differ: Vec<&Value> = pairs.as_array().unwrap().iter().filter(|pair| pair["relation"] != "same").collect();
    assert_eq!((differ.len(), &differ[0]["id"]), (1, &"1.1.1".into()), "{differ:?}");

    eprintln!("- kube-bench as a Job");
    let bench = Bench::new(&sandbox, &here, &whole);
    let left = |what: &[&str]| sandbox.kprov(&[&["exec", here.as_str(), "--"], what].concat()).ok().stdout;
    let images = || {
        let list = left(&["ctr", "--namespace", "k8s.io", "images", "ls", "-q"]);
        list.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let images_before = images();
    let beside = format!("--kube-bench={}", bench.archive.display());
    let document = cis(&sandbox, &[&beside, "--node", &here]).ok().json();
    let pairs = document["comparison"].as_array().unwrap();
    assert!(pairs.len() > 100 && pairs.iter().all(|pair| pair["relation"] == "same"), "{pairs:?}");
    assert_eq!(images(), images_before, "its image, under whichever name, is still there");
    let objects = left(&["kubectl", "get", "namespaces,clusterroles,clusterrolebindings", "-o", "name"]);
    assert!(!objects.contains("kprov-kube-bench"), "{objects}");

    eprintln!("- break");
    let answers = sandbox.path().join("answers.json");
    let file = answers.to_str().unwrap();
    sandbox.kprov(&["break", &sandbox.cluster, "--what", "nonsense"]).fails().says("there is no break");
    // The command itself fails if `cis` does not see what it has broken.
    let all = "manifest-mode,scheduler-manifest-owner,etcd-data-mode,etcd-data-owner,admin-mode,pki-owner,key-mode,\
               profiling,audit-age,weak-suites,kubelet-kubeconfig-mode,kubelet-config-owner,kubelet-anonymous,kubelet-always-allow,\
               kubelet-open-port,cluster-admin,secret-readers,wildcard-role,plain-secret,scheduler-profiling,\
               no-service-account-admission";
    let told = sandbox.kprov(&["break", &sandbox.cluster, "--what", all, "--answers", file, "-o", "json"]).ok();
    let told = told.never_says("kubelet-anonymous").json();
    assert_eq!(told["broken"], 21);
    let key: Value = serde_json::from_slice(&std::fs::read(&answers).unwrap()).unwrap();
    assert_eq!(key["answers"].as_array().unwrap().len(), 21);
    let broken = cis(&sandbox, &[]);
    assert_eq!((broken.code, ends(&["--fail-on", "never"])), (Some(3), Some(0)), "{broken}");
    assert!(broken.json()["Totals"]["total_fail"].as_u64().is_some_and(|failed| failed >= 10));
    sandbox.kprov(&["break", &sandbox.cluster, "--what", "profiling"]).fails().says("do not hold as it is");
    sandbox
        .kprov(&["break", &sandbox.cluster, "--what", "cluster-admin"])
        .fails()
        .says("which the cluster has already");
    let again = sandbox.kprov(&["break", &sandbox.cluster, "--random", "1", "--answers", file]);
    again.fails().says("answers cannot be written");

    eprintln!("- report");
    for name in ["report.html", "report.json", "report.xml", "report.sarif"] {
        let path = sandbox.path().join(name);
        sandbox.kprov(&["report", &sandbox.cluster, "--out", path.to_str().unwrap()]).done();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() < 500_000 && text.contains("1.2.15"), "{name}");
    }

    let since = sandbox.path().join("report.json");
    let since = since.to_str().unwrap();
    let page = sandbox.path().join("report.html");
    let out = page.to_str().unwrap();
    sandbox.kprov(&["report", &sandbox.cluster, "--out", since, "--since", since]).fails().says("pages only");
    sandbox
        .kprov(&["report", &sandbox.cluster, "--out", out, "--since", file])
        .fails()
        .says("cannot be read as a report");

    eprintln!("- reset");
    sandbox.kprov(&["reset", &sandbox.cluster]).done();
    let after = verdicts(&cis(&sandbox, &[]).ok().json());
    assert_eq!(before, after);
    sandbox.kprov(&["report", &sandbox.cluster, "--out", out, "--since", since, "--baseline", since]).done();
    let text = std::fs::read_to_string(&page).unwrap();
    for part in ["Since the report of", "What took how long", "<code>kprov reset</code>", "Changing places", "Baseline"]
    {
        assert!(text.contains(part), "{part}");
    }
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

/// A few in the suite, all of them with its long form; the real kube-bench judges, too, where `KPROV_KUBE_BENCH` names it.
#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn clusters_broken_in_one_place_each_are_judged_as_kube_bench_does() {
    const FEW: [&str; 3] = ["plain-secret", "scheduler-profiling", "always-admit"];
    let sandbox = Sandbox::on_engine(KPROV, "cisbreaks");
    let kube_bench = std::env::var("KPROV_KUBE_BENCH").map(|path| format!("--kube-bench={path}"));
    let arguments: Vec<&str> = ["--fail-on", "never"].into_iter().chain(kube_bench.as_deref().ok()).collect();
    sandbox.up(&["--profile", "hardened"]).done();
    let before = verdicts(&cis(&sandbox, &[]).ok().json());
    for one in BREAKS.iter().filter(|one| in_full() || FEW.contains(&one.name)) {
        eprintln!("- {}", one.name);
        sandbox.kprov(&["break", &sandbox.cluster, "--what", one.name]).done();
        // Ends with 4 where the two differ and nobody knows why.
        let document = cis(&sandbox, &arguments).ok().json();
        assert_ne!(verdicts(&document), before, "{}", one.name);
        if kube_bench.is_ok() {
            let pairs = document["comparison"].as_array().unwrap();
            let differ = pairs.iter().filter(|pair| pair["scored"] == true && pair["relation"] != "same");
            assert_eq!(differ.collect::<Vec<_>>(), Vec::<&Value>::new(), "{}", one.name);
        }
        sandbox.kprov(&["reset", &sandbox.cluster]).done();
        assert_eq!(verdicts(&cis(&sandbox, &[]).ok().json()), before, "{}", one.name);
    }
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_cluster_that_kind_made_is_judged_and_never_broken() {
    let sandbox = Sandbox::on_engine(KPROV, "ciskind");
    let image = Sandbox::image();
    sandbox.kind(&["create", "cluster", "--name", &sandbox.cluster, "--image", &image]).done();
    let document = cis(&sandbox, &["--fail-on", "never"]).ok().json();
    assert!(document["Totals"]["total_fail"].as_u64().unwrap() > 0);
    sandbox.kprov(&["break", &sandbox.cluster, "--what", "key-mode"]).fails().says("did not make it");
    sandbox.kprov(&["down", &sandbox.cluster]).done();
}

/// What people do all day works on hardened clusters, too, and on one by both levels nothing is left open without a reason.
#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_hardened_clusters_stay_usable() {
    for profile in ["hardened", "cis-level-2"] {
        eprintln!("- {profile}");
        let sandbox = Sandbox::on_engine(KPROV, "cissmoke");
        sandbox.up(&["--profile", profile]).done();
        let found = verdicts(&cis(&sandbox, &["--fail-on", "never"]).ok().json());
        let open: Vec<_> = found.iter().filter(|(_, _, status)| matches!(status.as_str(), "FAIL" | "WARN")).collect();
        eprintln!("{} of {} are open: {open:?}", open.len(), found.len());
        let enforced = found.iter().any(|(id, _, status)| id == "5.3.1" && status == "PASS");
        let script = include_str!("scripts/smoke.sh");
        let script = format!("enforced={}\n{script}", if enforced { "yes" } else { "no" });
        let node = sandbox.node("control-plane");
        let run = sandbox.kprov(&["exec", &node, "--", "bash", "-c", &script]).ok();
        for line in run.stdout.lines().filter(|line| line.starts_with("- ")) {
            eprintln!("  {line}");
        }
        let run = run.says("the claim is Bound").says("exec and Service").says("- logs");
        run.says("a rollout, after which").says("- port-forward").says("a NetworkPolicy that lets the client in");
        sandbox.kprov(&["verify", &sandbox.cluster]).done();
        sandbox.kprov(&["down", &sandbox.cluster]).done();
        sandbox.assert_clean();
    }
}
