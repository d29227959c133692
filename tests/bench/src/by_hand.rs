//! What people do with kind and a shell, as the documentation of Kubernetes says, without pausing to think.

use std::process::Command;
use std::time::Duration;

use test_support::{Run, Sandbox};

use crate::time;

/// Runs a script on the control plane.
pub(crate) fn shell(sandbox: &Sandbox, script: &str) -> Run {
    let node = sandbox.node("control-plane");
    Run::of(Command::new("docker").args(["exec", &node, "sh", "-euc", script]))
}

/// Edits the API server's manifest so that it has the flag, and waits until the new one is ready with it.
pub(crate) fn set_flag(sandbox: &Sandbox, flag: &str, value: &str) {
    let edit = format!(
        r"sed -i -e '/- --{flag}=/d' -e 's|^\( *\)- kube-apiserver$|&\n\1- --{flag}={value}|' \
          /etc/kubernetes/manifests/kube-apiserver.yaml"
    );
    shell(sandbox, &edit).done();
    let wait = format!(
        r#"until for p in /proc/[0-9]*; do
             [ "$(cat $p/comm 2>/dev/null)" = kube-apiserver ] && tr '\0' '\n' < $p/cmdline | grep -qxF -e '--{flag}={value}' && break
           done && kubectl get --raw=/readyz >/dev/null 2>&1; do sleep 0.2; done"#
    );
    shell(sandbox, &wait).done();
}

/// Makes the Secret of the exercise.
pub(crate) fn make_secret(sandbox: &Sandbox) {
    // A new API server needs a moment until namespaces have what they need.
    let script = "until kubectl create secret generic my-secret --from-literal=password=mypassword; do sleep 0.2; done";
    shell(sandbox, script).done();
}

/// Encrypts Secrets, on a cluster of kind's that has none encrypted.
pub(crate) fn encrypt(sandbox: &Sandbox) {
    // In a folder that the API server's pod has already, which saves a volume.
    let write = r#"umask 077
cat > /etc/kubernetes/pki/encryption.yaml <<END
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aescbc: {keys: [{name: key1, secret: $(head -c 32 /dev/urandom | base64)}]}
  - identity: {}
END"#;
    shell(sandbox, write).done();
    set_flag(sandbox, "encryption-provider-config", "/etc/kubernetes/pki/encryption.yaml");
    rewrite(sandbox);
}

/// Writes all Secrets anew.
pub(crate) fn rewrite(sandbox: &Sandbox) -> Duration {
    time("kubectl get secrets, kubectl replace", || {
        // Other writers may be in between: then it is done once more, as the documentation says.
        shell(sandbox, "until kubectl get secrets -A -o json | kubectl replace -f - >/dev/null; do :; done").done();
    })
}

/// Looks at the Secret in etcd, which has to be encrypted.
pub(crate) fn prove(sandbox: &Sandbox) {
    let pki = "/etc/kubernetes/pki/etcd";
    let script = format!(
        "kubectl -n kube-system exec etcd-{} -- etcdctl --cacert={pki}/ca.crt --cert={pki}/server.crt \
         --key={pki}/server.key get --print-value-only /registry/secrets/default/my-secret",
        sandbox.node("control-plane")
    );
    shell(sandbox, &script).ok().says("k8s:enc:aescbc:v1:key1:");
}
