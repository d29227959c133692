//! Encryption at rest: kprov's commands beside the same thing done by hand, with a shell on the node.

use std::cell::RefCell;
use std::time::Duration;

use test_support::{Job, Sandbox};

use crate::table::Row;
use crate::{Bench, time};

/// How many Secrets are rewritten, of 1 KB each.
const SECRETS: usize = 5000;

/// What one does by hand: edit the manifest, and wait until the API server runs with the flag and is ready.
const SET_BY_HAND: &str = r#"
manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
sed "/--profiling=/d; s/^    - kube-apiserver$/&\n    - --profiling=$1/" $manifest > /root/new
cp /root/new $manifest
until pgrep -af '^kube-apiserver' | grep -q -- "--profiling=$1" && kubectl get --raw=/readyz >/dev/null 2>&1; do sleep 0.2; done
"#;

/// The exercise by hand.
const ENCRYPT_BY_HAND: &str = r#"
mkdir -p /etc/kubernetes/enc
cat > /etc/kubernetes/enc/enc.yaml <<EOF
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: key1, secret: $(head -c 32 /dev/urandom | base64)}]}
  - identity: {}
EOF
manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
sed 's|^    - kube-apiserver$|&\n    - --encryption-provider-config=/etc/kubernetes/enc/enc.yaml|
     s|^    volumeMounts:$|&\n    - {mountPath: /etc/kubernetes/enc, name: enc, readOnly: true}|
     s|^  volumes:$|&\n  - {hostPath: {path: /etc/kubernetes/enc}, name: enc}|' $manifest > /root/new
cp /root/new $manifest
until pgrep -af '^kube-apiserver' | grep -q -- --encryption && kubectl get --raw=/readyz >/dev/null 2>&1; do sleep 0.2; done
kubectl get secrets -A -o json | kubectl replace -f - >/dev/null
etcd=$(ctr -n k8s.io containers ls -q 'labels."io.kubernetes.container.name"==etcd')
ctr -n k8s.io tasks exec --exec-id look $etcd etcdctl --endpoints=https://127.0.0.1:2379 \
  --cacert=/etc/kubernetes/pki/etcd/ca.crt --cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key \
  get /registry/secrets/default/my-secret | grep -a -q k8s:enc:aescbc:v1:key1
"#;

/// Makes the Secrets.
const FILL: &str = r#"
value=$(head -c 768 /dev/urandom | base64 -w 0)
n=0; while [ $n -lt $1 ]; do
  printf 'apiVersion: v1\nkind: Secret\nmetadata: {name: bench-%s, namespace: bench}\nstringData: {v: %s}\n---\n' $n $value; n=$((n+1))
done > /root/secrets.yaml
kubectl create namespace bench >/dev/null
kubectl create -f /root/secrets.yaml >/dev/null
"#;

/// Measures a flag's change, the exercise from nothing, and the rewriting of many Secrets.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let sandbox = bench.sandbox();
    let (kprov, hand) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let (profile, ready) = (RefCell::new(Vec::new()), ["wait", &sandbox.cluster]);
    bench.in_turn(
        || {
            kprov.borrow_mut().push(time("up, a Secret, enable, etcd get", || exercise(&sandbox)));
            sandbox.kprov(&["down", &sandbox.cluster]).done();
            profile.borrow_mut().push(time("up --profile secure-two-node", || {
                sandbox.up(&["--profile", "secure-two-node"]).done();
            }));
            sandbox.kprov(&["down", &sandbox.cluster]).done();
        },
        || {
            hand.borrow_mut().push(time("the same with kind and a shell", || {
                sandbox.kind(&["create", "cluster", "--name", &sandbox.cluster, "--image", &Sandbox::image()]).done();
                make_secret(&sandbox);
                on_node(&sandbox, ENCRYPT_BY_HAND, "");
            }));
            sandbox.kprov(&["down", &sandbox.cluster]).done();
        },
    );
    let (kprov, hand, profile) = (kprov.into_inner(), hand.into_inner(), profile.into_inner());
    let mut rows = vec![
        Row::seconds("the exercise, from nothing to proof (up, enable / kind, shell)", &kprov, &hand, "at most 0.50"),
        Row::seconds("the same, by profile (up --profile secure-two-node)", &profile, &hand, "at most 0.35"),
    ];

    sandbox.up(&[]).done();
    sandbox.kprov(&ready).done();
    let (kprov, hand) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    bench.in_turn(
        || {
            let set = |value: &str| {
                time("kprov apiserver set", || {
                    sandbox.kprov(&["apiserver", "set", &sandbox.cluster, value]).done();
                })
            };
            kprov.borrow_mut().push(set("profiling=false"));
            sandbox.kprov(&ready).done();
        },
        || {
            hand.borrow_mut().push(time("the manifest edited by hand", || on_node(&sandbox, SET_BY_HAND, "true")));
            sandbox.kprov(&ready).done();
        },
    );
    rows.push(Row::seconds(
        "a flag of the API server (set / by hand)",
        &kprov.into_inner(),
        &hand.into_inner(),
        "at most 0.20, and 6 s",
    ));

    on_node(&sandbox, FILL, &SECRETS.to_string());
    sandbox.kprov(&["encryption", "enable", &sandbox.cluster]).done();
    let (kprov, hand) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    bench.in_turn(
        || kprov.borrow_mut().push(rewrite(&sandbox)),
        || {
            hand.borrow_mut().push(time("kubectl get | kubectl replace", || {
                on_node(&sandbox, "kubectl get secrets -A -o json | kubectl replace -f - >/dev/null", "");
            }));
        },
    );
    rows.push(Row::seconds(
        "5,000 Secrets rewritten (rotate / kubectl replace)",
        &kprov.into_inner(),
        &hand.into_inner(),
        "at most 1.20",
    ));
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
    rows
}

fn exercise(sandbox: &Sandbox) {
    sandbox.up(&["--profile", "default"]).done();
    make_secret(sandbox);
    sandbox.kprov(&["encryption", "enable", &sandbox.cluster, "--provider", "aescbc"]).done();
    let key = "secrets/default/my-secret";
    sandbox.kprov(&["etcd", "get", key, "--cluster", &sandbox.cluster]).ok().says("k8s:enc:aescbc:v1:key1:").done();
}

fn make_secret(sandbox: &Sandbox) {
    on_node(sandbox, "kubectl create secret generic my-secret --from-literal=password=mypassword", "");
}

/// The part of a rotation that rewrites.
fn rewrite(sandbox: &Sandbox) -> Duration {
    let arguments = ["encryption", "rotate", &sandbox.cluster, "--restart", "-o", "json"];
    let job = Job::start(&mut sandbox.kprov_command(&arguments));
    let mut seconds = 0.0;
    while let Some(event) = job.next_event() {
        if event["name"] == "Rewriting" && event["state"] == "done" {
            seconds = event["seconds"].as_f64().unwrap_or_default();
        }
    }
    job.wait().done();
    eprintln!("  kprov encryption rotate, rewriting: {seconds:.2} s");
    Duration::from_secs_f64(seconds)
}

fn on_node(sandbox: &Sandbox, script: &str, argument: &str) {
    let node = sandbox.node("control-plane");
    sandbox.engine().docker(&["exec", &node, "sh", "-euc", script, "sh", argument]).done();
}
