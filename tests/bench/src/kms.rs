//! A key that stays in a KMS: the plugin by itself, beside plain calls of its server, and clusters under it.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use test_support::{OpenBao, Run, Sandbox};

use crate::table::Row;
use crate::{Bench, by_hand, time};

/// How many data keys are wrapped in one go by the provider `local`, and by a server.
const LOCAL_CALLS: usize = 10_000;
const SERVER_CALLS: usize = 1_000;

/// After how long without a call a plugin is at rest for certain.
const AT_REST: Duration = Duration::from_secs(12);

/// How many Secrets are kept under a KMS.
const SECRETS: usize = 5_000;

/// A plugin on this host. Ends when dropped.
struct Plugin<'a> {
    sandbox: &'a Sandbox,
    child: Child,
    socket: PathBuf,
}

impl<'a> Plugin<'a> {
    fn start(sandbox: &'a Sandbox, name: &str, config: &str) -> Self {
        let config = private(sandbox, &format!("{name}.yaml"), config);
        let folder = sandbox.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("a mode");
        let socket = folder.join("kms.sock");
        let mut command = sandbox.kprov_command(&["kms", "serve", "--socket"]);
        command.arg(&socket).arg("--config").arg(config);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the plugin starts");
        let plugin = Self { sandbox, child, socket };
        let begun = Instant::now();
        while plugin.ask(&["status"]).code != Some(0) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", plugin.ask(&["status"]));
            std::thread::sleep(Duration::from_millis(100));
        }
        plugin
    }

    fn ask(&self, what: &[&str]) -> Run {
        let socket = self.socket.display().to_string();
        self.sandbox.kprov(&[&["kms"], what, &["--socket", &socket, "-o", "json"]].concat())
    }

    /// Wraps and unwraps; gives what was measured.
    fn measure(&self, calls: usize, at_a_time: usize) -> Value {
        self.ask(&["measure", "--calls", &calls.to_string(), "--at-a-time", &at_a_time.to_string()]).ok().json()
    }

    /// Its memory at rest in MB, as the kernel counts it: when nobody has asked it for a while.
    fn memory(&self) -> f64 {
        std::thread::sleep(AT_REST);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
        kib.map_or(f64::NAN, |kib| kib * 1024.0 / 1e6)
    }
}

impl Drop for Plugin<'_> {
    fn drop(&mut self) {
        // It has ended by itself, or does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn private(sandbox: &Sandbox, name: &str, text: &str) -> PathBuf {
    let path = sandbox.write(name, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    path
}

/// Measures the plugin by itself: its memory, how fast it wraps, and how much longer that takes than the server's own calls.
pub(crate) fn plugin(bench: &Bench) -> Vec<Row> {
    let sandbox = Sandbox::without_engine(&bench.program);
    let keys = sandbox.path().join("keys.yaml").display().to_string();
    sandbox.kprov(&["kms", "add-key", &keys]).done();
    let (mut rest, mut one, mut many) = (Vec::new(), Vec::new(), Vec::new());
    let local = Plugin::start(&sandbox, "local", &format!("local: {{keyFile: {keys}}}"));
    rest.push(local.memory());
    for _ in 0..bench.rounds {
        one.push(number(&local.measure(LOCAL_CALLS, 1)["wrap"]["perSecond"]));
        many.push(number(&local.measure(LOCAL_CALLS, 16)["wrap"]["perSecond"]));
        rest.push(local.memory());
    }
    drop(local);

    let bao = OpenBao::start();
    let config = format!(
        "vault: {{address: '{}', serverName: {}, caFile: {}, key: team, login: {{token: {{file: {}}}}}}}",
        bao.address_at("127.0.0.1"),
        bao.name(),
        bao.ca().display(),
        bao.token_file().display()
    );
    let vault = Plugin::start(&sandbox, "vault", &config);
    let (ours, plain, rest_vault): (RefCell<Vec<_>>, RefCell<Vec<_>>, RefCell<Vec<_>>) = Default::default();
    let (within, middle): (RefCell<Vec<_>>, RefCell<Vec<_>>) = Default::default();
    rest_vault.borrow_mut().push(vault.memory());
    bench.in_turn(
        || {
            let wrap = vault.measure(SERVER_CALLS, 1)["wrap"].clone();
            eprintln!("  the plugin: p50 {} µs, p99 {} µs", wrap["p50Micros"], wrap["p99Micros"]);
            ours.borrow_mut().push(1000.0 / number(&wrap["perSecond"]));
            let own = vault.ask(&["status"]).ok().json();
            within.borrow_mut().push(number(&own["wrap"]["p50Micros"]) / 1000.0);
            rest_vault.borrow_mut().push(vault.memory());
        },
        || {
            let (mean, median) = plain_calls(&bao);
            plain.borrow_mut().push(mean);
            middle.borrow_mut().push(median);
        },
    );
    let against = |what: &str, kprov: RefCell<Vec<f64>>, kind: RefCell<Vec<f64>>, bar: &'static str| Row {
        kind: kind.into_inner().iter().map(|ms| ms * 1000.0).collect(),
        ..Row::alone(what, "µs", kprov.into_inner().iter().map(|ms| ms * 1000.0).collect(), bar)
    };
    vec![
        Row::alone("memory of the plugin, local, at rest and between loads", "MB", rest, "at most 12 MB"),
        Row::alone(
            "memory of the plugin, vault, at rest and between loads",
            "MB",
            rest_vault.into_inner(),
            "at most 12 MB",
        ),
        Row::alone("wraps by local, one at a time", "a second", one, "at least 1,000"),
        Row::alone("wraps by local, 16 at a time", "a second", many, "at least 1,000"),
        against(
            "one of 1,000 wraps in a row, through the plugin's socket (plugin / the same transit calls by curl)",
            ours,
            plain,
            "at most 1.15",
        ),
        against("the same within the plugin, p50 of the last (plugin / curl)", within, middle, "at most 1.15"),
    ]
}

/// The milliseconds of a call of the transit engine by curl, over one connection, of as many in a row: their mean, and the middle one.
fn plain_calls(bao: &OpenBao) -> (f64, f64) {
    let token = std::fs::read_to_string(bao.token_file()).expect("the token");
    let header = bao.write("header", &format!("X-Vault-Token: {token}\n"));
    let body = bao.write("body", "{\"plaintext\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"}");
    let url = format!("{}/v1/transit/encrypt/team?n=[1-{SERVER_CALLS}]", bao.address_at(bao.name()));
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--http1.1", "--cacert"]).arg(bao.ca());
    command.arg("--header").arg(format!("@{}", header.display())).args(["--header", "Content-Type: application/json"]);
    command.arg("--data-binary").arg(format!("@{}", body.display()));
    command.args(["--output", "/dev/null", "--write-out", "%{http_code} %{num_connects} %{time_total}\n", &url]);
    let run = Run::of(&mut command).ok();
    let lines: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), SERVER_CALLS, "{run}");
    assert!(lines.iter().all(|line| line[0] == "200") && lines.iter().skip(1).all(|line| line[1] == "0"), "{run}");
    let mut times: Vec<f64> = lines.iter().map(|line| line[2].parse::<f64>().expect("a time") * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    let (mean, median) = (times.iter().sum::<f64>() / times.len() as f64, times[times.len() / 2]);
    eprintln!("  curl: {mean:.3} ms each, p50 {median:.3} ms");
    (mean, median)
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// Measures `up` under a KMS whose server comes along, and under one that is there, beside `up` with a key of its own.
pub(crate) fn up(bench: &Bench) -> Vec<Row> {
    let sandbox = bench.sandbox();
    let bao = OpenBao::start();
    let bridge =
        sandbox.engine().docker(&["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]);
    let profile = sandbox.write(
        "elsewhere.yaml",
        format!(
            "apiVersion: kprov.dev/v1alpha1\nkind: Profile\nmetadata: {{name: elsewhere}}\nextends: secure-two-node\nspec:\n  encryption:\n    providers:\n    - type: kms\n      kms:\n        vault: {{address: '{}', serverName: {}, ca: {}, key: team, auth: {{token: {{file: {}}}}}}}\n",
            bao.address_at(bridge.ok().stdout.trim()),
            bao.name(),
            bao.ca().display(),
            bao.token_file().display()
        ),
    );
    let profile = profile.display().to_string();
    let (with, there, without): (RefCell<Vec<_>>, RefCell<Vec<_>>, RefCell<Vec<_>>) = Default::default();
    let made = |profile: &str| {
        let took = time(&format!("kprov up --profile {profile}"), || sandbox.up(&["--profile", profile]).done());
        sandbox.kprov(&["down", &sandbox.cluster]).done();
        took
    };
    bench.in_turn(
        || {
            with.borrow_mut().push(made("kms-vault"));
            there.borrow_mut().push(made(&profile));
        },
        || without.borrow_mut().push(made("secure-two-node")),
    );
    sandbox.assert_clean();
    let without = without.into_inner();
    vec![
        Row::seconds(
            "up, verified (kms-vault with its server / secure-two-node)",
            &with.into_inner(),
            &without,
            "at most 1.25",
        ),
        Row::seconds(
            "up, verified (a server that is there / secure-two-node)",
            &there.into_inner(),
            &without,
            "at most 1.10",
        ),
    ]
}

/// Measures what many Secrets cost under a KMS, and how long the first list takes of an API server that has unwrapped nothing yet.
pub(crate) fn load(bench: &Bench) -> Vec<Row> {
    let sandbox = bench.sandbox();
    sandbox.up(&["--profile", "kms-vault"]).done();
    let plugin = |what: &str| {
        let status = sandbox.kprov(&["kms", "status", &sandbox.cluster, "-o", "json"]).ok().json();
        let report = status["plugins"][0]["report"].clone();
        eprintln!("  {what}: {report}");
        report
    };
    let secrets = format!(
        r#"for i in $(seq {SECRETS}); do
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {{name: bench-%s}}\nstringData: {{value: bench}}\n' $i
done | kubectl create -f - >/dev/null"#
    );
    let writing = time("5,000 Secrets written", || by_hand::shell(&sandbox, &secrets).done());
    let written = plugin("written");
    let list = "kubectl get --raw '/api/v1/namespaces/default/secrets' | grep -o '\"name\":\"bench-' | wc -l";
    let warm = || time("listed again", || by_hand::shell(&sandbox, list).ok().says(&SECRETS.to_string()).done());
    let (cold, again): (RefCell<Vec<_>>, RefCell<Vec<_>>) = Default::default();
    for _ in 0..bench.rounds {
        let before = by_hand::shell(&sandbox, "pgrep -x kube-apiserver").stdout;
        by_hand::shell(&sandbox, "pkill -KILL -x kube-apiserver").done();
        let begun = Instant::now();
        let runs = || {
            let now = by_hand::shell(&sandbox, "pgrep -x kube-apiserver").stdout;
            !now.is_empty() && now != before && by_hand::shell(&sandbox, "kubectl get --raw=/version").code == Some(0)
        };
        while !runs() {
            assert!(begun.elapsed() < Duration::from_secs(180), "no API server answers");
            std::thread::sleep(Duration::from_millis(50));
        }
        let answers = Instant::now();
        while !by_hand::shell(&sandbox, list).stdout.trim().eq(&SECRETS.to_string()) {
            assert!(answers.elapsed() < Duration::from_secs(180), "the Secrets are not listed");
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("  the first list: {:.2} s", answers.elapsed().as_secs_f64());
        cold.borrow_mut().push(answers.elapsed());
        again.borrow_mut().push(warm());
    }
    let read = plugin("read after restarts");
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
    let micros = |report: &Value, operation: &str, which: &str| vec![number(&report[operation][which]) / 1000.0];
    vec![
        Row::alone("5,000 Secrets written by kubectl", "s", vec![writing.as_secs_f64()], ""),
        Row::alone("wrapping, p50", "ms", micros(&written, "wrap", "p50Micros"), ""),
        Row::alone("wrapping, p99", "ms", micros(&written, "wrap", "p99Micros"), ""),
        Row::alone("unwrapping, p50", "ms", micros(&read, "unwrap", "p50Micros"), ""),
        Row::alone("unwrapping, p99", "ms", micros(&read, "unwrap", "p99Micros"), ""),
        Row::seconds(
            "all listed by an API server that has just started (first / again)",
            &cold.into_inner(),
            &again.into_inner(),
            "",
        ),
    ]
}
