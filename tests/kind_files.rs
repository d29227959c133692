//! kind's own configuration files, of every kind of feature: what the real kind writes onto nodes for each of them, and what
//! kprov does, held side by side.
//!
//! The real kind runs against a docker that keeps what is written and runs nothing (`kind_files/docker.sh`), so that a file
//! takes it half a second.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kprov::documents::patches;
use kprov::documents::profile::{Profile, ProfileError, SearchPath, load};
use kprov::documents::render::{
    Inputs, KubernetesVersion, NodeAddresses, PLACEHOLDER_TOKEN, RenderError, Templates, bundle,
    control_plane_endpoint, kubeadm_config, plan_nodes, warnings,
};
use serde_json::{Value, json};

/// One for each version of kubeadm's configuration, and those that images are at hand of.
const VERSIONS: [&str; 4] = ["v1.20.2", "v1.27.3", "v1.36.2", "v1.37.0"];

const CONTAINERD: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"pause\"\n  \
                          tolerate_missing_hugetlb_controller = true\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kind_files")
}

fn files(kind: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder().join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn loaded(file: &Path) -> Result<Profile, ProfileError> {
    let search = SearchPath { current: "/work/here".into(), user: None, variables: None };
    load(file.to_str().unwrap(), &[], &search).map(|loaded| {
        assert_eq!(loaded.base, Path::new("/work/here"), "paths start where kind would be called");
        loaded.profile
    })
}

/// Calls `use_it` with all that documents depend on.
fn with_inputs<T>(profile: &Profile, version: &str, use_it: impl FnOnce(&Inputs<'_>) -> T) -> T {
    use_it(&Inputs {
        profile,
        cluster: profile.cluster_name(),
        image: "kindest/node",
        version: &version.parse::<KubernetesVersion>().unwrap(),
        keys: None,
        templates: &Templates::built_in(),
        cgroup_v1: false,
    })
}

/// The kubeadm configuration of each node.
fn kubeadm(inputs: &Inputs<'_>) -> Result<BTreeMap<String, Vec<Value>>, RenderError> {
    let addresses = NodeAddresses { v4: Some("192.0.2.1".parse().unwrap()), v6: Some("2001:db8::1".parse().unwrap()) };
    let plan = plan_nodes(inputs.profile, inputs.cluster);
    let endpoint = control_plane_endpoint(&plan, inputs.cluster);
    plan.iter()
        .map(|node| {
            let text = kubeadm_config(inputs, node, node.start(), &addresses, &endpoint, PLACEHOLDER_TOKEN)?;
            Ok((node.name.clone(), patches::documents(&text).unwrap()))
        })
        .collect()
}

#[test]
fn every_valid_file_renders_for_every_version() {
    assert!(files("valid").len() >= 60);
    for file in files("valid") {
        let profile = loaded(&file).unwrap_or_else(|error| panic!("{}: {error}: {error:?}", file.display()));
        for version in VERSIONS {
            with_inputs(&profile, version, |inputs| {
                let rendered = kubeadm(inputs).and_then(|_| bundle(inputs, Path::new("/bundle")));
                match rendered {
                    // An old kube-proxy falls back to iptables in silence.
                    Err(RenderError::Unsupported { what, .. }) if what.contains("nftables") => {}
                    Err(error) => panic!("{}, {version}: {error}", file.display()),
                    Ok(_) => {}
                }
            });
        }
    }
}

#[test]
fn every_invalid_file_is_refused_with_the_place() {
    for file in files("refused") {
        match loaded(&file) {
            Err(error) => {
                for entry in error.entries() {
                    assert!(entry.file.is_some() && entry.line.is_some(), "{}: {entry:?}", file.display());
                }
            }
            Ok(profile) => {
                let error = with_inputs(&profile, "v1.36.2", kubeadm).map(|_| ()).unwrap_err();
                assert!(matches!(error, RenderError::Patch { .. }), "{}: {error}", file.display());
            }
        }
    }
}

#[test]
fn patches_without_effect_are_told() {
    for (name, version, told) in [
        ("patch-unknown-kind", "v1.36.2", "there is no ClusterConfig in"),
        ("patch-without-kind", "v1.36.2", "it names no `kind`"),
        ("patch-v1beta3", "v1.36.2", "it is for kubeadm.k8s.io/v1beta3"),
        ("patch-v1beta3", "v1.27.3", ""),
        ("json6902-other-version", "v1.36.2", "it is for kubeadm.k8s.io/v1beta1"),
        ("ingress", "v1.36.2", ""),
        ("patch-cluster-and-node", "v1.36.2", ""),
    ] {
        let profile = loaded(&folder().join(format!("valid/{name}.yaml"))).unwrap();
        let lines = with_inputs(&profile, version, warnings).join("\n");
        assert_eq!(!told.is_empty(), lines.contains("has no effect"), "{name}, {version}: {lines}");
        assert!(lines.contains(told), "{name}, {version}: {lines}");
    }
}

/// Other people's files: those in the folder KPROV_KIND_FILES, which are none of this repository. What kind takes, kprov has to
/// take and mean the same; what kind refuses, kprov has to refuse.
#[test]
#[ignore = "needs the real kind, and a folder of files"]
fn in_full_files_of_others_mean_what_they_mean_to_kind() {
    let Some(folder) = std::env::var_os("KPROV_KIND_FILES") else {
        eprintln!("KPROV_KIND_FILES names no folder: nothing is compared");
        return;
    };
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut wrong, mut taken, mut refused) = (Vec::new(), 0, 0);
    for file in &files {
        let mut said = Vec::new();
        for version in VERSIONS {
            said.extend(compared(file, version).err().unwrap_or_default());
        }
        let ours = loaded(file).is_ok_and(|profile| with_inputs(&profile, "v1.36.2", kubeadm).is_ok());
        if ours {
            taken += 1
        } else {
            refused += 1
        }
        wrong.extend(said);
    }
    println!("{} files: {taken} taken, {refused} refused, as by kind", files.len());
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// What the real kind writes for `file`: each node's files, by node and file name; or what it says.
fn of_kind(file: &Path, version: &str) -> Result<BTreeMap<(String, String), String>, String> {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    fs::copy(folder().join("docker.sh"), at("docker")).unwrap();
    fs::create_dir(at("state")).unwrap();
    fs::write(at("state/containerd.toml"), CONTAINERD).unwrap();
    let output = Command::new(std::env::var_os("KPROV_KIND").expect("KPROV_KIND"))
        .args(["create", "cluster", "--retain", "--config"])
        .arg(file)
        .current_dir(work.path())
        .env("PATH", format!("{}:{}", work.path().display(), std::env::var("PATH").unwrap_or_default()))
        .env("KIND_EXPERIMENTAL_PROVIDER", "docker")
        .env("KUBECONFIG", at("kubeconfig"))
        .env("FAKE_DOCKER", at("state"))
        .env("FAKE_VERSION", version)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !said.contains("failed to init node with kubeadm") {
        return Err(said);
    }
    let mut written = BTreeMap::new();
    for entry in fs::read_dir(at("state")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        for file in ["kubeadm.conf", "config.toml"] {
            if let Some(node) = name.strip_suffix(&format!(".{file}")) {
                written.insert((node.to_owned(), file.to_owned()), fs::read_to_string(&path).unwrap());
            }
        }
    }
    Ok(written)
}

/// A document without what differs on purpose, or in form alone.
fn normal(mut document: Value) -> Value {
    // kprov's tokens end; patches of probes are kprov's own.
    if let Some(tokens) = document.get_mut("bootstrapTokens").and_then(Value::as_array_mut) {
        for token in tokens {
            token.as_object_mut().unwrap().remove("ttl");
        }
    }
    let kind = document["kind"].as_str().unwrap_or_default().to_owned();
    let fields = document.as_object_mut().unwrap();
    if fields.get("patches") == Some(&json!({"directory": "/kind/patches"})) {
        fields.remove("patches");
    }
    if kind == "KubeletConfiguration" {
        // Readiness is told without delay.
        for (field, value) in
            [("nodeStatusUpdateFrequency", "1s"), ("nodeStatusReportFrequency", "5m"), ("syncFrequency", "2s")]
        {
            if fields.get(field) == Some(&json!(value)) {
                fields.remove(field);
            }
        }
    }
    if let Some(registration) = fields.get_mut("nodeRegistration").and_then(Value::as_object_mut)
        && registration.get("taints") == Some(&json!([]))
    {
        // kind takes the only node's taint away later.
        registration.remove("taints");
    }
    tidy(&mut document);
    document
}

/// Arguments sorted by name; what holds nothing is left out.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if let ("extraArgs" | "kubeletExtraArgs", Value::Array(list)) = (name.as_str(), &mut *field) {
                    list.sort_by_key(|argument| argument["name"].to_string());
                }
                if name == "node-labels"
                    && let Value::String(labels) = field
                {
                    *field = sorted(labels).into();
                }
                tidy(field);
            }
            if fields.get("name") == Some(&json!("node-labels"))
                && let Some(Value::String(labels)) = fields.get("value")
            {
                let labels = sorted(labels);
                fields.insert("value".to_owned(), labels.into());
            }
            fields.retain(|_, field| {
                !field.is_null() && field.as_object().is_none_or(|map| !map.is_empty()) && *field != json!([])
            });
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// kind writes labels in any order.
fn sorted(labels: &str) -> String {
    let mut labels: Vec<_> = labels.split(',').collect();
    labels.sort_unstable();
    labels.join(",")
}

#[test]
#[ignore = "needs the real kind"]
fn valid_files_mean_what_they_mean_to_kind() {
    let mut wrong = Vec::new();
    for file in files("valid") {
        loaded(&file).unwrap();
        for version in VERSIONS {
            wrong.extend(compared(&file, version).err().unwrap_or_default());
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Nothing, if kind and kprov refuse a file, or write the same for it; otherwise the differences.
fn compared(file: &Path, version: &str) -> Result<(), Vec<String>> {
    let name = format!("{}, {version}", file.file_name().unwrap().to_string_lossy());
    let ours = loaded(file).map_err(|error| format!("{error}: {error:?}")).and_then(|profile| {
        let rendered = with_inputs(&profile, version, kubeadm);
        rendered.map(|rendered| (profile, rendered)).map_err(|error| error.to_string())
    });
    let (profile, ours, theirs) = match (ours, of_kind(file, version)) {
        (Ok((profile, ours)), Ok(theirs)) => (profile, ours, theirs),
        (Err(_), Err(_)) => return Ok(()),
        // An old kube-proxy falls back to iptables in silence.
        (Err(error), Ok(_)) if error.contains("nftables") => return Ok(()),
        (Err(error), Ok(_)) => return Err(vec![format!("{name}: kprov alone refuses it: {error}")]),
        (Ok(_), Err(said)) => return Err(vec![format!("{name}: kind alone refuses it: {said}")]),
    };
    let mut wrong = Vec::new();
    let nodes: Vec<&String> = theirs.keys().filter(|(_, file)| file == "kubeadm.conf").map(|(node, _)| node).collect();
    if nodes != ours.keys().collect::<Vec<_>>() {
        return Err(vec![format!("{name}: nodes\n kind:  {nodes:?}\n kprov: {:?}", ours.keys())]);
    }
    for (node, ours) in &ours {
        let theirs = &theirs[&(node.clone(), "kubeadm.conf".to_owned())];
        let theirs: Vec<Value> = patches::documents(theirs).unwrap().into_iter().map(normal).collect();
        let ours: Vec<Value> = ours.iter().cloned().map(normal).collect();
        for document in &theirs {
            let kind = document["kind"].as_str().unwrap();
            match ours.iter().find(|ours| ours["kind"] == kind) {
                Some(ours) if ours == document => {}
                // kind writes both, and each node uses one.
                None if matches!(kind, "InitConfiguration" | "JoinConfiguration") => {}
                ours => wrong.push(format!(
                    "{name}, {node}, {kind}\n kind:  {document}\n kprov: {}",
                    ours.cloned().unwrap_or_default()
                )),
            }
        }
        if !ours.iter().all(|ours| theirs.iter().any(|one| one["kind"] == ours["kind"])) {
            wrong.push(format!("{name}, {node}: kprov writes documents that kind does not"));
        }
    }
    let spec = &profile.spec;
    for ((_, file), theirs) in theirs.iter().filter(|((_, file), _)| file == "config.toml") {
        let ours =
            patches::containerd(CONTAINERD, &spec.containerd_config_patches, &spec.containerd_config_patches_json6902)
                .unwrap();
        let read = |text: &str| text.parse::<toml::Table>().unwrap();
        if read(&ours) != read(theirs) {
            wrong.push(format!("{name}, {file}\n kind:\n{theirs}\n kprov:\n{ours}"));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

#[test]
#[ignore = "needs the real kind"]
fn kind_refuses_what_kprov_refuses() {
    for file in files("refused") {
        // kind finds out later that there is no such proxy protocol or role, but finds out.
        assert!(of_kind(&file, "v1.36.2").is_err(), "kind takes {}", file.display());
    }
}

#[test]
#[ignore = "needs the real kind"]
fn the_bundle_of_a_file_makes_kind_write_the_same() {
    let mut wrong = Vec::new();
    for file in files("valid") {
        let profile = loaded(&file).unwrap();
        let version = "v1.36.2";
        let text = with_inputs(&profile, version, |inputs| bundle(inputs, Path::new("/bundle")))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let work = tempfile::tempdir().unwrap();
        let config = work.path().join("cluster.yaml");
        fs::write(&config, text.documents[0].content.as_str()).unwrap();
        let (direct, bundled) = (of_kind(&file, version).unwrap(), of_kind(&config, version));
        let name = file.file_name().unwrap().to_string_lossy();
        let bundled = match bundled {
            Ok(bundled) => bundled,
            Err(said) => {
                wrong.push(format!("{name}: kind refuses the bundle: {said}"));
                continue;
            }
        };
        for ((node, file), direct) in direct.iter().filter(|((_, file), _)| file == "kubeadm.conf") {
            let documents =
                |text: &str| -> Vec<Value> { patches::documents(text).unwrap().into_iter().map(normal).collect() };
            let (direct, bundled) = (documents(direct), documents(&bundled[&(node.clone(), file.clone())]));
            for (one, other) in direct.iter().zip(&bundled).filter(|(one, other)| one != other) {
                wrong.push(format!("{name}, {node}\n file:   {one}\n bundle: {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
