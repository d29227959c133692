//! Whether kube-proxy does its work on a node: it says so itself, and the API server is reached by its rules alone.
//!
//! Knows kprov's own stand-in for those rules, too, whose presence would prove nothing of kube-proxy.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::try_join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Service;
use kube::Api;

use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::{Node, NodeError};
use crate::documents::profile::KubeProxyMode;

use super::{Check, Target, VerifyError};

const STAND_IN: &str = include_str!("scripts/stand_in.sh");
const LOOK: &str = include_str!("scripts/kube_proxy.sh");

/// What a node's command may take beyond the time for which it waits by itself.
const MARGIN: Duration = Duration::from_secs(30);

/// A way to the API server's service address that kprov lays on nodes until kube-proxy has made its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandIn {
    /// The service address.
    pub address: IpAddr,
    /// Where it leads, `host:port`.
    pub target: String,
}

impl StandIn {
    /// Lays the way on a node.
    ///
    /// # Errors
    /// [`NodeError::Command`] if a rule cannot be made, as where the node has no iptables.
    pub async fn lay(&self, node: &Node) -> Result<(), NodeError> {
        let Self { address, target } = self;
        let script = format!("{STAND_IN}\nlay_stand_in {} {address} '{target}'", tool(*address));
        node.script("laying a way to the API server", &script).await.map(|_| ())
    }

    /// Takes away every such way to the service address, wherever it leads. None is no error.
    ///
    /// # Errors
    /// [`NodeError::Command`] if the rules cannot be read or changed.
    pub async fn take_away(&self, node: &Node) -> Result<(), NodeError> {
        let script = format!("{STAND_IN}\ntake_stand_in_away {} {}", tool(self.address), self.address);
        node.script("taking away kprov's own way to the API server", &script).await.map(|_| ())
    }
}

/// What makes rules for addresses of that family.
fn tool(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "iptables" } else { "ip6tables" }
}

/// Waits until kube-proxy says on each node that it has written its rules.
///
/// # Errors
/// [`ApiError::NotReady`] with what kube-proxy last said, where that takes longer than `timeout`.
pub async fn await_kube_proxy(nodes: &[Node], timeout: Duration) -> Result<(), VerifyError> {
    let seconds = timeout.as_secs();
    let script = format!("{STAND_IN}\n{LOOK}\nawait_kube_proxy {seconds}");
    let said = try_join_all(nodes.iter().map(async |node| {
        let said = node.patient(timeout + MARGIN).script("waiting for kube-proxy", &script).await?;
        let said = said.trim();
        Ok::<_, NodeError>(
            (!said.is_empty()).then(|| format!("kube-proxy on {} is not well: {}", node.name, without_headers(said))),
        )
    }));
    let pending: Vec<String> = said.await?.into_iter().flatten().collect();
    if pending.is_empty() { Ok(()) } else { Err(ApiError::NotReady { seconds, pending }.into()) }
}

/// What the check of a node's kube-proxy is called.
#[must_use]
pub fn check_name(node: &str) -> String {
    format!("{node}: kube-proxy")
}

/// kube-proxy does its work on every node; no check where there is none.
///
/// # Errors
/// [`VerifyError`] if a node or the API server cannot be asked.
pub async fn checks(target: &Target<'_>) -> Result<Vec<Check>, VerifyError> {
    if !is_expected(target).await? {
        return Ok(Vec::new());
    }
    let services: Api<Service> = Api::namespaced(target.client.clone(), "default");
    let service =
        services.get("kubernetes").await.map_err(ApiError::request("asking for the API's service address"))?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).and_then(|address| address.parse::<IpAddr>().ok());
    let Some(address) = address else {
        let name = "the API's service address";
        return Ok(vec![Check::new(name, false, "the Service default/kubernetes has none")]);
    };
    let script = format!("{STAND_IN}\n{LOOK}\nlook_at_kube_proxy {} {address}", tool(address));
    Ok(try_join_all(target.nodes.iter().map(async |node| {
        let seen = node.script("looking at kube-proxy", &script).await?;
        Ok::<_, NodeError>(judge(check_name(&node.name), address, &seen))
    }))
    .await?)
}

/// Whether the cluster is to have a kube-proxy: as its profile says, else as it has one.
async fn is_expected(target: &Target<'_>) -> Result<bool, ApiError> {
    if let Some(inputs) = target.inputs {
        return Ok(inputs.profile.spec.networking.kube_proxy_mode != KubeProxyMode::None);
    }
    let sets: Api<DaemonSet> = Api::namespaced(target.client.clone(), "kube-system");
    Ok(sets.get_opt("kube-proxy").await.map_err(ApiError::request("looking for kube-proxy"))?.is_some())
}

/// What to make of a node's answer. Whatever is not said is not proven.
fn judge(name: String, address: IpAddr, seen: &str) -> Check {
    let said = |word: &str| seen.lines().find_map(|line| line.strip_prefix(word)).map(str::trim);
    let mut wrong = Vec::new();
    match said("health ") {
        Some(answer) if answer.split_whitespace().nth(1) == Some("200") => {}
        Some(answer) => wrong.push(format!("it does not say that it is well: {}", without_headers(answer))),
        None => wrong.push("it has not been asked".to_owned()),
    }
    if let Some(rule) = said("stand-in ") {
        wrong.push(format!(
            "a rule that is not kube-proxy's leads to the API server, and hides what is missing: {rule}"
        ));
    }
    if !seen.lines().any(|line| line == "reached") {
        let reason = said("failed ").unwrap_or("no answer");
        wrong.push(format!("the API server is not reached at {address}:443, its service address: {reason}"));
    }
    if wrong.is_empty() {
        let evidence = format!(
            "says that its rules are written; the API server is reached by them at {address}:443, and no other rule leads there"
        );
        Check::new(name, true, evidence)
    } else {
        Check::new(name, false, wrong.join("; "))
    }
}

/// An answer's status, and what kube-proxy says in it.
fn without_headers(answer: &str) -> String {
    match answer.split_once('{') {
        Some((status, said)) => {
            let status: Vec<&str> = status.split_whitespace().skip(1).take(1).collect();
            format!("{} {{{said}", status.join(" "))
        }
        None => answer.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: &str = "health HTTP/1.0 200 OK Content-Type: application/json {\"lastUpdated\": \"now\"}\n";

    fn judged(seen: &str) -> Check {
        judge("w: kube-proxy".to_owned(), "10.96.0.1".parse().unwrap(), seen)
    }

    #[test]
    fn kube_proxy_has_to_say_it_and_to_show_it() {
        assert!(judged(&format!("{WELL}reached\n")).ok);
        let check =
            judged("health HTTP/1.0 503 Service Unavailable Date: now {\"lastUpdated\": \"0001-01-01\"}\nreached\n");
        assert!(!check.ok);
        assert_eq!(check.evidence, "it does not say that it is well: 503 {\"lastUpdated\": \"0001-01-01\"}");
        let check = judged("health nothing answers at port 10256\nreached\n");
        assert!(!check.ok && check.evidence.contains("nothing answers"), "{}", check.evidence);
        let check = judged(&format!("{WELL}failed Unable to connect to the server\n"));
        assert!(!check.ok && check.evidence.ends_with("Unable to connect to the server"), "{}", check.evidence);
    }

    #[test]
    fn a_way_of_kprovs_own_proves_nothing() {
        let check = judged(&format!("{WELL}stand-in OUTPUT -d 10.96.0.1/32 -j DNAT\nreached\n"));
        assert!(!check.ok && check.evidence.contains("OUTPUT -d 10.96.0.1/32"), "{}", check.evidence);
    }

    #[test]
    fn silence_is_no_proof() {
        let check = judged("");
        assert!(!check.ok && check.evidence.contains("has not been asked"), "{}", check.evidence);
    }

    #[test]
    fn kube_proxy_is_asked_until_it_is_well() {
        use std::io::{Read as _, Write as _};
        use std::net::TcpListener;
        use std::process::Command;

        let ask = |port: u16, seconds: u32| {
            let script = format!("PORT={port}\n{LOOK}\nawait_kube_proxy {seconds}");
            let output = Command::new("sh").args(["-euc", &script]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answers = ["503 Service Unavailable", "503 Service Unavailable", "200 OK", "503 Service Unavailable"];
        let server = std::thread::spawn(move || {
            for status in answers {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
                let head = "Content-Type: application/json\r\nConnection: close";
                write!(stream, "HTTP/1.0 {status}\r\n{head}\r\n\r\n{{\"lastUpdated\": \"now\"}}").unwrap();
            }
        });
        assert_eq!(ask(port, 30), "", "well at the third time");
        let said = ask(port, 0);
        assert_eq!(without_headers(said.trim()), "503 {\"lastUpdated\": \"now\"}", "{said}");
        server.join().unwrap();
        assert_eq!(ask(port, 0).trim(), format!("nothing answers at port {port}"));
    }

    /// iptables, as far as rules are listed, made and taken away; those of the chain OUTPUT are in a file.
    const IPTABLES: &str = r#"#!/bin/sh
[ "$1 $2 $3" = "-w -t nat" ] || exit 2
[ -z "${BROKEN-}" ] || { echo "can't initialize" >&2; exit 3; }
action=$4 chain=$5; shift 5
[ "$chain" = OUTPUT ] || { [ "$action" != -D ] || exit 1; exit 0; }
case "$action" in
-S) printf -- '-P OUTPUT ACCEPT\n-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'; sed 's/^/-A OUTPUT /' "$RULES" ;;
-I) printf '%s\n' "$*" | sed 's|-d \([^ ]*\) |-d \1/32 |' >> "$RULES" ;;
-D) grep -qxF -- "$*" "$RULES" || exit 1; grep -vxF -- "$*" "$RULES" > "$RULES.new"; mv "$RULES.new" "$RULES" ;;
esac
"#;

    #[test]
    fn a_stand_in_is_found_and_taken_away_and_errors_are_not_taken_for_nothing() {
        use std::os::unix::fs::PermissionsExt as _;
        use std::process::Command;

        let folder = tempfile::tempdir().unwrap();
        let iptables = folder.path().join("iptables");
        std::fs::write(&iptables, IPTABLES).unwrap();
        std::fs::set_permissions(&iptables, std::fs::Permissions::from_mode(0o755)).unwrap();
        let rules = folder.path().join("rules");
        std::fs::write(&rules, "-d 10.96.0.10/32 -p tcp -j DNAT --to-destination 1.2.3.4\n").unwrap();
        let run = |command: &str, broken: &str| {
            let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
            let script = format!("{STAND_IN}\n{command}");
            let mut shell = Command::new("sh");
            shell.args(["-euc", &script]).env("PATH", path).env("RULES", &rules).env("BROKEN", broken);
            let output = shell.output().unwrap();
            (output.status.success(), String::from_utf8(output.stdout).unwrap())
        };
        assert_eq!(run("stand_ins iptables 10.96.0.1", ""), (true, String::new()));
        for target in ["172.18.0.3:6443", "172.18.0.4:6443"] {
            assert!(run(&format!("lay_stand_in iptables 10.96.0.1 {target}"), "").0);
        }
        assert_eq!(run("stand_ins iptables 10.96.0.1", "").1.lines().count(), 2);
        assert!(!run("stand_ins iptables 10.96.0.1", "1").0, "rules that cannot be read are not none");
        assert!(!run("take_stand_in_away iptables 10.96.0.1", "1").0);
        assert!(run("take_stand_in_away iptables 10.96.0.1", "").0);
        assert_eq!(run("stand_ins iptables 10.96.0.1", ""), (true, String::new()));
        assert_eq!(run("stand_ins iptables 10.96.0.10", "").1.lines().count(), 1, "another service's way stays");
        assert_eq!(run("stand_ins nonesuch 10.96.0.1", ""), (true, String::new()));
    }
}
