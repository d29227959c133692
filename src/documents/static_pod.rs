//! A static pod's manifest, edited as YAML; the API server's, if nothing else is said.
//!
//! Pure: text in, text out. What a flag needs on a node is found here, too; whether it is there is asked elsewhere.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use crate::documents::bounds::check_stream;
use crate::documents::yaml;

/// The container's name in kubeadm's manifest, and that of its process.
pub const CONTAINER: &str = "kube-apiserver";

/// What is to be different.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Flags without leading dashes, and their values; `None` takes a flag away.
    pub flags: BTreeMap<String, Option<String>>,
}

impl Change {
    /// Sets one flag.
    #[must_use]
    pub fn set(mut self, flag: &str, value: &str) -> Self {
        self.flags.insert(flag.to_owned(), Some(value.to_owned()));
        self
    }

    /// Takes one flag away.
    #[must_use]
    pub fn unset(mut self, flag: &str) -> Self {
        self.flags.insert(flag.to_owned(), None);
        self
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = self.flags.iter().map(|(flag, value)| match value {
            Some(value) => format!("--{flag}={value}"),
            None => format!("no --{flag}"),
        });
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

/// A path that a flag names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPath {
    /// The flag, without dashes.
    pub flag: String,
    /// The path.
    pub path: String,
    /// Whether the API server reads it, so that it has to be there; else it writes it.
    pub read: bool,
}

/// The parsed manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticPod {
    document: Value,
    /// The container whose command it is about.
    container: &'static str,
}

impl StaticPod {
    /// Reads a manifest.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_of(CONTAINER, text)
    }

    /// Reads the manifest of a component, which is what its container is called, too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_of(container: &'static str, text: &str) -> Result<Self, String> {
        check_stream(text)?;
        let document: Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let mut manifest = Self { document, container };
        manifest.container().ok_or_else(|| format!("it has no container called {container} with a command"))?;
        Ok(manifest)
    }

    /// The manifest as text.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        yaml::block(&self.document, 0) + "\n"
    }

    /// The words of the command, the program's name first.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let mut copy = self.clone();
        let container = copy.container();
        let words = container.and_then(|container| container.get("command")).and_then(Value::as_sequence);
        words.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// A flag's value.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<String> {
        flag_of(&self.command(), name)
    }

    /// The port that it serves on.
    #[must_use]
    pub fn port(&self) -> String {
        let port = self.flag("secure-port").filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
        port.unwrap_or_else(|| crate::documents::render::API_SERVER_PORT.to_string())
    }

    /// Makes the change. Paths that flags name become visible in the pod.
    pub fn apply(&mut self, change: &Change) {
        let mut command: Vec<Value> = self.command().into_iter().map(Value::String).collect();
        for (flag, value) in &change.flags {
            let place = command.iter().position(|word| word.as_str().is_some_and(|word| is_flag(word, flag)));
            command.retain(|word| !word.as_str().is_some_and(|word| is_flag(word, flag)));
            if let Some(value) = value {
                let place = place.unwrap_or(command.len()).min(command.len());
                command.insert(place, Value::String(format!("--{flag}={value}")));
            }
        }
        if let Some(container) = self.container() {
            container.insert("command".into(), Value::Sequence(command));
        }
        for named in named_paths(change) {
            self.show(&named);
        }
    }

    /// The same, asked from its start on whether it has come up, where that is asked every second anyway. The delay before is for
    /// a cluster's first minute, in which there is no node yet that a pod could be shown on.
    #[must_use]
    pub fn asked_at_once(&self) -> Self {
        let mut asked = self.clone();
        let probe = asked.container().and_then(|container| container.get_mut("startupProbe")?.as_mapping_mut());
        if let Some(probe) = probe {
            let number = |probe: &Mapping, key: &str| probe.get(key).and_then(Value::as_u64);
            let (delay, failures) = (number(probe, "initialDelaySeconds"), number(probe, "failureThreshold"));
            if let (Some(1), Some(delay), Some(failures)) = (number(probe, "periodSeconds"), delay, failures) {
                probe.insert("initialDelaySeconds".into(), 0.into());
                // It has as long as before in all.
                probe.insert("failureThreshold".into(), (failures + delay).into());
            }
        }
        asked
    }

    /// Has probes of `/livez` leave out these health checks of KMS plugins, and no others of theirs.
    pub fn leave_out(&mut self, checks: &[String]) {
        for probe in ["livenessProbe", "startupProbe"] {
            let path =
                self.container().and_then(|container| container.get_mut(probe)?.get_mut("httpGet")?.get_mut("path"));
            let Some(path) = path else { continue };
            let Some(text) = path.as_str() else { continue };
            let (own, query) = text.split_once('?').unwrap_or((text, ""));
            if own != "/livez" {
                continue;
            }
            let others = query.split('&').filter(|part| !part.is_empty() && !part.starts_with("exclude=kms-provider"));
            let words: Vec<String> =
                others.map(str::to_owned).chain(checks.iter().map(|check| format!("exclude={check}"))).collect();
            let query = if words.is_empty() { String::new() } else { format!("?{}", words.join("&")) };
            *path = Value::String(format!("{own}{query}"));
        }
    }

    /// Takes the volume called `name` away.
    pub fn remove_volume(&mut self, name: &str) {
        let is = |entry: &Value| entry.get("name").and_then(Value::as_str) == Some(name);
        if let Some(mounts) = self.container().map(|container| list(container, "volumeMounts")) {
            mounts.retain(|entry| !is(entry));
        }
        if let Some(volumes) = self.spec().map(|spec| list(spec, "volumes")) {
            volumes.retain(|entry| !is(entry));
        }
    }

    /// Takes the volumes away that show this folder of the node.
    pub fn hide_folder(&mut self, folder: &str) {
        let path =
            |volume: &Value| Some(volume.get("hostPath")?.get("path")?.as_str()?.trim_end_matches('/').to_owned());
        let volumes = self.spec().and_then(|spec| spec.get("volumes")?.as_sequence()).into_iter().flatten();
        let shown = volumes.filter(|volume| path(volume).as_deref() == Some(folder));
        let names: Vec<String> = shown.filter_map(|volume| volume.get("name")?.as_str().map(str::to_owned)).collect();
        for name in names {
            self.remove_volume(&name);
        }
    }

    /// Whether `path` is seen in the pod by way of a folder, so that a replaced file is seen, too.
    #[must_use]
    pub fn shows_folder_of(&self, path: &str) -> bool {
        self.mounts().iter().any(|mount| mount != path && is_within(path, mount))
    }

    /// Makes the folder of a path visible in the pod.
    pub fn show_folder(&mut self, path: &str) {
        self.show(&NamedPath { flag: String::new(), path: path.to_owned(), read: true });
    }

    fn mounts(&self) -> Vec<String> {
        let mut copy = self.clone();
        let Some(container) = copy.container() else { return Vec::new() };
        let mounts = container.get("volumeMounts").and_then(Value::as_sequence).into_iter().flatten();
        mounts.filter_map(|mount| mount.get("mountPath")?.as_str().map(str::to_owned)).collect()
    }

    /// Mounts the folder of a path, unless it is seen already.
    fn show(&mut self, named: &NamedPath) {
        if self.mounts().iter().any(|mount| is_within(&named.path, mount)) {
            return;
        }
        let folder = named.path.rsplit_once('/').map_or("/", |(folder, _)| folder).to_owned();
        let name = volume_name(&folder);
        let mount = mapping(&[
            ("mountPath", Value::from(folder.as_str())),
            ("name", Value::from(name.as_str())),
            ("readOnly", Value::from(named.read)),
        ]);
        let kind = if named.read { "Directory" } else { "DirectoryOrCreate" };
        let host = mapping(&[("path", Value::from(folder.as_str())), ("type", Value::from(kind))]);
        let volume = mapping(&[("hostPath", host), ("name", Value::from(name.as_str()))]);
        if let Some(container) = self.container() {
            list(container, "volumeMounts").push(mount);
        }
        if let Some(spec) = self.spec() {
            list(spec, "volumes").push(volume);
        }
    }

    fn spec(&mut self) -> Option<&mut Mapping> {
        self.document.get_mut("spec")?.as_mapping_mut()
    }

    fn container(&mut self) -> Option<&mut Mapping> {
        let name = self.container;
        let containers = self.spec()?.get_mut("containers")?.as_sequence_mut()?;
        containers.iter_mut().filter_map(Value::as_mapping_mut).find(|container| {
            container.get("name").and_then(Value::as_str) == Some(name)
                && container.get("command").is_some_and(Value::is_sequence)
        })
    }
}

/// A flag's value on a command line.
#[must_use]
pub fn flag_of(command: &[String], name: &str) -> Option<String> {
    // The last one counts, as in Go's flag packages.
    let word = command.iter().rev().find(|word| is_flag(word, name))?;
    Some(word.split_once('=').map_or_else(|| "true".to_owned(), |(_, value)| value.to_owned()))
}

/// The name of the volume that shows `folder` in the pod.
#[must_use]
pub fn volume_name(folder: &str) -> String {
    let name: String = folder
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let name = name.strip_prefix("etc-kubernetes-").unwrap_or(&name);
    // 63 bytes is Kubernetes' limit.
    format!("kprov-{}", &name[..name.len().min(56)]).trim_end_matches('-').to_owned()
}

/// The paths that the flags of a change name.
#[must_use]
pub fn named_paths(change: &Change) -> Vec<NamedPath> {
    let set = change.flags.iter().filter_map(|(flag, value)| Some((flag, value.as_ref()?)));
    set.filter(|(_, value)| value.starts_with('/'))
        .filter_map(|(flag, value)| {
            let read = ["file", "config", "key", "certificate", "authority"].iter().any(|end| flag.ends_with(end));
            let written = flag.ends_with("-path") || flag == "cert-dir";
            (read || written).then(|| NamedPath { flag: flag.clone(), path: value.clone(), read })
        })
        .collect()
}

fn is_flag(word: &str, name: &str) -> bool {
    word.strip_prefix("--").is_some_and(|word| word.split_once('=').map_or(word, |(flag, _)| flag) == name)
}

fn is_within(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn list<'a>(mapping: &'a mut Mapping, key: &str) -> &'a mut Vec<Value> {
    let entry = mapping.entry(key.into()).or_insert_with(|| Value::Sequence(Vec::new()));
    if !entry.is_sequence() {
        *entry = Value::Sequence(Vec::new());
    }
    match entry {
        Value::Sequence(list) => list,
        _ => unreachable!("made a list just before"),
    }
}

fn mapping(entries: &[(&str, Value)]) -> Value {
    Value::Mapping(entries.iter().map(|(key, value)| (Value::from(*key), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_every_second_is_asked_at_once_and_for_as_long_in_all() {
        let probe = |period: u8, delay: u8, failures: u8| {
            let probe =
                format!("{{periodSeconds: {period}, initialDelaySeconds: {delay}, failureThreshold: {failures}}}");
            let container = format!("{{name: kube-apiserver, command: [kube-apiserver], startupProbe: {probe}}}");
            StaticPod::parse(&format!("spec: {{containers: [{container}]}}")).unwrap()
        };
        assert_eq!(probe(1, 8, 242).asked_at_once(), probe(1, 0, 250));
        assert_eq!(probe(1, 0, 250).asked_at_once(), probe(1, 0, 250));
        // kubeadm's own is left alone.
        assert_eq!(probe(10, 10, 24).asked_at_once(), probe(10, 10, 24));
    }

    #[test]
    fn a_kms_that_is_ill_is_no_reason_to_end_who_asks_it() {
        let pod = |path: &str| {
            let probe = |name: &str| format!("{name}: {{httpGet: {{path: '{path}'}}}}");
            let container = format!(
                "{{name: kube-apiserver, command: [kube-apiserver], {}, {}}}",
                probe("livenessProbe"),
                probe("startupProbe")
            );
            StaticPod::parse(&format!("spec: {{containers: [{container}]}}")).unwrap()
        };
        let left_out = |path: &str, checks: &[&str]| {
            let mut pod = pod(path);
            pod.leave_out(&checks.iter().map(|&check| check.to_owned()).collect::<Vec<_>>());
            pod
        };
        assert_eq!(left_out("/livez", &["kms-provider-0"]), pod("/livez?exclude=kms-provider-0"));
        let two = ["kms-provider-0", "kms-provider-1"];
        assert_eq!(left_out("/livez", &two), pod("/livez?exclude=kms-provider-0&exclude=kms-provider-1"));
        // As often as it likes, and back again; what somebody else has left out stays so.
        assert_eq!(
            left_out("/livez?exclude=kms-provider-0", &["kms-provider-0"]),
            pod("/livez?exclude=kms-provider-0")
        );
        assert_eq!(left_out("/livez?exclude=kms-provider-0", &[]), pod("/livez"));
        assert_eq!(
            left_out("/livez?exclude=etcd", &["kms-providers"]),
            pod("/livez?exclude=etcd&exclude=kms-providers")
        );
        assert_eq!(left_out("/healthz", &["kms-provider-0"]), pod("/healthz"));
        let none = StaticPod::parse(MANIFEST).unwrap();
        let mut same = none.clone();
        same.leave_out(&["kms-provider-0".to_owned()]);
        assert_eq!(same, none);
    }

    const MANIFEST: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=172.18.0.2
    - --profiling=true
    - --secure-port=6443
    image: registry.k8s.io/kube-apiserver:v1.36.2
    name: kube-apiserver
    volumeMounts:
    - mountPath: /etc/kubernetes/pki
      name: k8s-certs
      readOnly: true
  hostNetwork: true
  volumes:
  - hostPath:
      path: /etc/kubernetes/pki
      type: DirectoryOrCreate
    name: k8s-certs
status: {}
";

    fn edited(change: &Change) -> StaticPod {
        let mut manifest = StaticPod::parse(MANIFEST).unwrap();
        manifest.apply(change);
        StaticPod::parse(&manifest.to_yaml()).unwrap()
    }

    #[test]
    fn flags_are_replaced_added_and_removed() {
        let manifest = edited(&Change::default().set("profiling", "false").set("v", "4").unset("secure-port"));
        assert_eq!(
            manifest.command(),
            ["kube-apiserver", "--advertise-address=172.18.0.2", "--profiling=false", "--v=4"]
        );
        assert_eq!(manifest.flag("profiling").as_deref(), Some("false"));
        assert_eq!(manifest.flag("secure-port"), None);
    }

    #[test]
    fn an_edit_is_an_edit_of_nothing_else() {
        let before = StaticPod::parse(MANIFEST).unwrap();
        assert_eq!(edited(&Change::default()), before);
        let there_and_back = edited(&Change::default().set("v", "4"));
        let mut back = there_and_back;
        back.apply(&Change::default().unset("v"));
        assert_eq!(back, before);
    }

    #[test]
    fn files_become_visible_by_their_folder() {
        let file = "/etc/kubernetes/encryption/encryption-config.yaml";
        let mut manifest = edited(&Change::default().set("encryption-provider-config", file));
        assert!(manifest.shows_folder_of(file));
        let text = manifest.to_yaml();
        assert!(text.contains("name: kprov-encryption\n"), "{text}");
        assert!(text.contains("type: Directory\n"), "{text}");
        manifest.apply(&Change::default().unset("encryption-provider-config"));
        manifest.remove_volume("kprov-encryption");
        assert_eq!(manifest, StaticPod::parse(MANIFEST).unwrap());
    }

    #[test]
    fn what_is_visible_is_not_mounted_again() {
        let manifest = edited(&Change::default().set("client-ca-file", "/etc/kubernetes/pki/ca.crt"));
        assert_eq!(manifest.mounts(), ["/etc/kubernetes/pki"]);
    }

    #[test]
    fn a_folder_is_hidden_whatever_its_volume_is_called() {
        let whole = StaticPod::parse(MANIFEST).unwrap();
        let mut shown = whole.clone();
        shown.show_folder("/run/kms/kms.sock");
        let text = shown.to_yaml().replace(&volume_name("/run/kms"), "by-another-name");
        let mut shown = StaticPod::parse(&text).unwrap();
        assert!(shown.shows_folder_of("/run/kms/kms.sock"));
        shown.hide_folder("/run");
        assert!(shown.shows_folder_of("/run/kms/kms.sock"), "that is another folder");
        shown.hide_folder("/run/kms");
        assert_eq!(shown, whole);
    }

    #[test]
    fn written_folders_are_writable() {
        let text = edited(&Change::default().set("audit-log-path", "/var/log/audit/audit.log")).to_yaml();
        assert!(text.contains("readOnly: false") && text.contains("DirectoryOrCreate"), "{text}");
        assert_eq!(volume_name("/var/log/audit"), "kprov-var-log-audit");
    }

    #[test]
    fn a_mounted_file_does_not_show_its_replacement() {
        let text = MANIFEST.replace("mountPath: /etc/kubernetes/pki", "mountPath: /etc/kubernetes/enc.yaml");
        assert!(!StaticPod::parse(&text).unwrap().shows_folder_of("/etc/kubernetes/enc.yaml"));
    }

    #[test]
    fn other_pods_are_refused() {
        assert!(StaticPod::parse("kind: Pod\n").unwrap_err().contains("no container"));
        assert!(StaticPod::parse("a: [").is_err());
    }

    #[test]
    fn a_manifest_that_would_take_all_memory_is_refused() {
        assert!(StaticPod::parse(&crate::documents::bounds::tests::bomb()).is_err());
    }
}
