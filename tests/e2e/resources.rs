//! Encryption of what else there is than Secrets: custom resources whose group looks like Kubernetes' own, and wildcards.

use test_support::Sandbox;

use super::{KPROV, stored};

/// The key of the custom object in etcd.
const KEY: &str = "/registry/gateway.networking.k8s.io/gateways/default/way";

/// A custom resource of a group that Kubernetes' own have names like, and an object of it.
const GATEWAY: &str = r#"
export KUBECONFIG=/etc/kubernetes/admin.conf
kubectl apply -f - << END
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: gateways.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "unapproved, test-only"}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {plural: gateways, singular: gateway, kind: Gateway}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
END
kubectl wait --for=condition=Established crd/gateways.gateway.networking.k8s.io --timeout=60s
until kubectl apply -f - << END
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: way, namespace: default}
secretly: inTheGateway
END
do sleep 1; done
"#;

/// Runs a script on the control plane.
fn shell(sandbox: &Sandbox, script: &str) -> String {
    sandbox.kprov(&["exec", &sandbox.node("control-plane"), "--", "sh", "-euc", script]).ok().stdout
}

/// The custom object can be read, and lies in etcd under what begins like this.
#[track_caller]
fn assert_kept(sandbox: &Sandbox, prefix: &str) {
    let read =
        shell(sandbox, "kubectl --kubeconfig /etc/kubernetes/admin.conf get gateway way -o jsonpath={.secretly}");
    assert_eq!(read, "inTheGateway");
    let raw = stored(sandbox, KEY, &["--raw"]).stdout;
    assert!(raw.starts_with(prefix), "{raw:?}");
    assert_eq!(raw.contains("inTheGateway"), prefix == "{", "{raw:?}");
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn custom_resources_and_wildcards_keep_the_keys_that_they_need() {
    let sandbox = Sandbox::on_engine(KPROV, "custom");
    let cluster = sandbox.cluster.as_str();
    let change =
        |arguments: &[&str]| sandbox.kprov(&[&["encryption"][..], arguments, &[cluster, "--no-scrub"]].concat());
    sandbox.up(&[]).done();
    shell(&sandbox, GATEWAY);
    let status = sandbox.kprov(&["status", cluster, "-o", "json"]).ok().json();
    let minor: u32 = status["kubernetesVersion"].as_str().unwrap().split('.').nth(1).unwrap().parse().unwrap();

    // What the API does not know is an error before anything is touched.
    change(&["enable", "--resources", "secret"]).fails().says("secret");
    if minor < 26 {
        // The API server would not encrypt it, and says nothing.
        change(&["enable", "--resources", "gateways.gateway.networking.k8s.io"]).fails().says("1.26");
        change(&["enable"]).done();
        change(&["rotate"]).done();
        assert_kept(&sandbox, "{");
    } else {
        change(&["enable", "--resources", "secrets,gateways.gateway.networking.k8s.io"]).done();
        assert_kept(&sandbox, "k8s:enc:secretbox:v1:");
        // With what the rule for one resource says first, a wildcard says the rest.
        change(&["enable", "--resources", "*.*"]).done();
        assert_kept(&sandbox, "k8s:enc:secretbox:v1:");
        change(&["rotate", "--key", "turned"]).done();
        assert_kept(&sandbox, "k8s:enc:secretbox:v1:turned:");
        let crd = "/registry/apiextensions.k8s.io/customresourcedefinitions/gateways.gateway.networking.k8s.io";
        stored(&sandbox, crd, &[]).says("turned");
        sandbox.kprov(&["verify", cluster]).done();
        change(&["disable"]).done();
        assert_kept(&sandbox, "{");
    }
    sandbox.kprov(&["verify", cluster]).done();
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
