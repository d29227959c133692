//! kube-proxy that does not do its work is seen, whatever else leads to the API server.

use test_support::Sandbox;

use super::KPROV;

/// Puts a program that fails in the place of `iptables-restore`, by which kube-proxy writes its rules, and takes the rules
/// that are there away.
const BREAK: &str = "r=/proc/$(pgrep -x kube-proxy)/root/usr/sbin/iptables-restore; rm -f $r; \
     printf '#!/bin/sh\\nexit 4\\n' > $r; chmod 755 $r; \
     for chain in PREROUTING OUTPUT KUBE-SERVICES; do iptables -w -t nat -F $chain; done";

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_kube_proxy_that_cannot_write_its_rules_is_seen() {
    let sandbox = Sandbox::on_engine(KPROV, "proxy");
    sandbox.up(&[]).ok().says("kube-proxy: says that its rules are written");
    let node = sandbox.node("control-plane");
    let on_node = |script: &str| sandbox.kprov(&["exec", &node, "--", "sh", "-euc", script]).ok().stdout;
    let verify = || sandbox.kprov(&["verify", &sandbox.cluster]);
    verify().ok().says("no other rule leads there").done();

    // What kprov lays while a cluster is made leads to the API server without kube-proxy.
    let address = on_node("getent ahostsv4 $(hostname) | head -n 1").split_whitespace().next().unwrap().to_owned();
    let rule = |action: &str| {
        on_node(&format!(
            "iptables -w -t nat {action} OUTPUT -d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination {address}:6443"
        ))
    };
    rule("-I");
    verify().fails().says("a rule that is not kube-proxy's leads to the API server");
    rule("-D");
    verify().done();

    on_node(BREAK);
    verify().fails().says("the API server is not reached at 10.96.0.1:443, its service address");
    // With the way of kprov's own, everything but its being there would look whole.
    rule("-I");
    verify().fails().says("hides what is missing");
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}
