//! Loading as a whole: layers, `--set`, and what is said when something is wrong.

use std::path::{Path, PathBuf};

use miette::{GraphicalReportHandler, GraphicalTheme};
use tempfile::TempDir;

use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const HEAD: &str = "apiVersion: kprov.dev/v1alpha1\nkind: Profile\n";

/// A working directory and a user's folder of profiles.
struct Folders(TempDir);

impl Folders {
    fn new(files: &[(&str, &str)]) -> Self {
        let folders = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = folders.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folders
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn search(&self) -> SearchPath {
        SearchPath {
            current: self.path().to_owned(),
            user: Some(self.path().join("user")),
            variables: Some(Variables::of(|name| match name {
                "WORKERS" => Some("3".to_owned()),
                "WHERE" => Some("hardened".to_owned()),
                _ => None,
            })),
        }
    }

    fn load(&self, reference: &str, sets: &[&str]) -> Result<Loaded, ProfileError> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        load(reference, &sets, &self.search())
    }

    /// The error as a terminal without colours shows it.
    fn shown(&self, error: &ProfileError) -> String {
        let mut text = String::new();
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
            .with_width(100)
            .render_report(&mut text, error)
            .unwrap();
        text.replace(&format!("{}/", self.path().display()), "")
    }
}

fn profile(spec: &str) -> String {
    format!("{HEAD}metadata: {{name: test}}\nspec:\n{spec}")
}

/// Messages of all problems of `spec`, errors or else warnings.
fn complaints(spec: &str) -> Vec<String> {
    let folders = Folders::new(&[("p.yaml", &profile(spec))]);
    match folders.load("p.yaml", &[]) {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("warning: {warning}")).collect(),
        Err(error) => error.problems().iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn built_in_profiles_load_without_a_warning() {
    let folders = Folders::new(&[]);
    let listed = list(&folders.search());
    assert_eq!(
        listed.iter().map(|profile| profile.name.as_str()).collect::<Vec<_>>(),
        ["cis-level-2", "default", "ha", "hardened", "kms-local", "kms-vault", "secure-two-node"]
    );
    for Listed { name, description, origin, .. } in listed {
        assert!(!description.is_empty());
        let loaded = folders.load(&name, &[]).unwrap();
        assert_eq!((loaded.profile.metadata.name.as_str(), loaded.origin), (name.as_str(), origin.to_string()));
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(loaded.base, folders.path());
    }
}

#[test]
fn the_default_profile_is_kinds_cluster() {
    let spec = Folders::new(&[]).load("default", &[]).unwrap().profile.spec;
    assert_eq!(spec.node_groups(), Spec::default().node_groups());
    assert_eq!(Spec { nodes: Vec::new(), ..spec }, Spec::default());
}

#[test]
fn hardened_builds_on_secure_two_node() {
    let profile = Folders::new(&[]).load("hardened", &[]).unwrap().profile;
    assert_eq!(profile.extends, None);
    assert_eq!(
        profile.spec.nodes.iter().map(|group| group.role).collect::<Vec<_>>(),
        [Role::ControlPlane, Role::Worker]
    );
    let encryption = profile.spec.encryption.unwrap();
    assert_eq!(encryption.resources, ["secrets", "configmaps"]);
    let kinds: Vec<_> = encryption.providers.iter().map(|provider| provider.kind).collect();
    assert_eq!(kinds, [ProviderKind::Secretbox, ProviderKind::Identity]);
    assert!(profile.spec.hardening.kubelet_serving_certificates && profile.spec.hardening.seccomp_default);
    // Confidential objects are logged without their bodies, whatever rules there are.
    for rule in profile.spec.audit.unwrap().rules {
        let text = rule.to_string();
        if rule["level"] != "Metadata" && rule["level"] != "None" {
            assert!(!text.contains("secrets") && !text.contains("configmaps") && !text.contains("token"), "{text}");
        }
    }
}

#[test]
fn the_schema_holds_for_built_in_profiles_and_fails_bad_ones() {
    let validator = jsonschema::draft202012::new(&schema::json_schema()).unwrap();
    let as_json = |text: &str| serde_yaml::from_str::<serde_json::Value>(text).unwrap();
    for name in ["cis-level-2", "default", "ha", "hardened", "kms-local", "kms-vault", "secure-two-node"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("profiles/{name}.yaml"));
        let document = as_json(&std::fs::read_to_string(file).unwrap());
        assert!(validator.is_valid(&document), "{name}: {:?}", validator.iter_errors(&document).next());
    }
    for bad in
        [BAD_FIELDS, "kind: Profile", &profile("  nodes: [{role: boss}]"), &profile("  audit: {rules: [{level: All}]}")]
    {
        assert!(!validator.is_valid(&as_json(bad)), "{bad}");
    }
}

#[test]
fn the_schema_explains_every_field() {
    fn undocumented(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        for (name, field) in schema.get("properties").and_then(serde_json::Value::as_object).into_iter().flatten() {
            if field.get("description").is_none() {
                found.push(format!("{path}.{name}"));
            }
        }
    }
    let schema = schema::json_schema();
    let mut found = Vec::new();
    undocumented(&schema, "", &mut found);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        undocumented(definition, name, &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
    assert_eq!(schema["$id"], schema::ID);
}

#[test]
fn resolved_profiles_read_back_the_same() {
    let spec = format!(
        "  clusterName: \"0644\"
  image: \"1.20\"
  featureGates: {{A: true}}
  encryption:
    providers:
      - type: aesgcm
        keys: [{{name: \"1e3\", source: {{literal: {KEY}}}}}, {{name: b, source: {{env: B}}}}, {{name: \"yes\"}}]
  kubelet:
    config: {{a: \"0x1F\", b: \"null\", c: [1, 1.5, true, null, \"~\", \"0o7\", \"+1\", \"1.\", \".5\", \"\"], d: {{e: \"a: b\"}}}}
  apiServer:
    extraArgs: {{v: \"2\"}}
  manifests:
    - name: m
      inline: |
        a: 1
        ---
        b: \"2\"
"
    );
    let folders = Folders::new(&[("p.yaml", &profile(&spec))]);
    for name in ["p.yaml", "cis-level-2", "default", "ha", "hardened", "kms-local", "kms-vault", "secure-two-node"] {
        let first = folders.load(name, &[]).unwrap().profile;
        let yaml = to_yaml(&first);
        assert!(!yaml.contains('!'), "{yaml}");
        std::fs::write(folders.path().join("again.yaml"), &yaml).unwrap();
        let again = folders.load("again.yaml", &[]).unwrap_or_else(|error| panic!("{error:?}\n{yaml}")).profile;
        assert_eq!(first, again, "{yaml}");
        assert_eq!(to_yaml(&again), yaml);
        assert!(!to_yaml(&again.redacted()).contains(KEY));
    }
}

#[test]
fn files_come_before_folders_before_built_in_ones() {
    let named = |description: &str| format!("{HEAD}metadata: {{name: default, description: {description}}}\n");
    let all =
        [("default", named("file")), ("profiles/default.yml", named("here")), ("user/default.yaml", named("user"))];
    for first in 0..=all.len() {
        let files: Vec<_> = all[first..].iter().map(|(name, text)| (*name, text.as_str())).collect();
        let folders = Folders::new(&files);
        let loaded = folders.load("default", &[]).unwrap();
        let want = ["file", "here", "user", "What kind makes"][first];
        assert!(loaded.profile.metadata.description.starts_with(want), "{want}: {}", loaded.origin);
    }
    let folders = Folders::new(&[("user/mine.yaml", &named("x")), ("profiles/broken.yaml", "a: [")]);
    let listed = list(&folders.search());
    let mine = listed.iter().find(|profile| profile.name == "mine").unwrap();
    assert_eq!(mine.origin, Origin::File(folders.path().join("user/mine.yaml")));
    assert!(listed.iter().find(|profile| profile.name == "broken").unwrap().unreadable.is_some());
    // A folder of that name in the working directory is no profile.
    assert_eq!(Folders::new(&[("default/x", "")]).load("default", &[]).unwrap().origin, "built-in:default");
}

#[test]
fn a_profile_may_extend_its_namesakes_and_files_beside_it() {
    let layer = |extends: &str, spec: &str| format!("{HEAD}metadata: {{name: l}}\nextends: {extends}\nspec: {spec}\n");
    let folders = Folders::new(&[
        ("profiles/hardened.yaml", &layer("hardened", "{hardening: {seccompDefault: false}}")),
        ("user/hardened.yaml", &layer("hardened", "{scheduler: {extraArgs: {profiling: null, v: \"3\"}}}")),
        ("sub/top.yaml", &layer("./base/b.yml", "{kubelet: null, audit: null}")),
        (
            "sub/base/b.yml",
            &layer("hardened", "{manifests: [{name: m, file: m.yaml}], nodes: [{role: control-plane}]}"),
        ),
    ]);
    let loaded = folders.load("hardened", &[]).unwrap();
    let spec = loaded.profile.spec;
    assert_eq!(loaded.profile.metadata.name, "l");
    assert!(!spec.hardening.seccomp_default && spec.hardening.kubelet_serving_certificates);
    assert_eq!(spec.scheduler.extra_args.get("v").unwrap(), "3");
    assert!(!spec.scheduler.extra_args.contains_key("profiling"));
    assert!(spec.scheduler.extra_args.contains_key("tls-min-version"));

    let loaded = folders.load("sub/top.yaml", &[]).unwrap();
    assert_eq!((loaded.profile.spec.audit, loaded.profile.spec.kubelet), (None, Kubelet::default()));
    assert_eq!(loaded.profile.spec.nodes.len(), 1);
    assert_eq!(loaded.base, folders.path().join("sub"));
    // A base's relative path starts at the base's folder.
    let file = PathBuf::from(loaded.profile.spec.manifests[0].file.clone().unwrap());
    assert_eq!(file, folders.path().join("sub/base/m.yaml").as_path());
}

#[test]
fn built_in_profiles_do_not_change_with_the_users_own() {
    let folders = Folders::new(&[("user/secure-two-node.yaml", &profile("  nodes: [{role: control-plane}]"))]);
    assert_eq!(folders.load("hardened", &[]).unwrap().profile.spec.nodes.len(), 2);
}

#[test]
fn set_reaches_everything() {
    let folders = Folders::new(&[]);
    let sets = [
        "nodes[1].count=3",
        "nodes.0.labels.\"example.com/a\"=1",
        "spec.nodes[2]={role: worker, taints: [{key: k, effect: NoSchedule}]}",
        "kubelet.config.\"a.b\"=1",
        "kubelet.config.evictionHard.memory=x=y",
        "apiServer.extraArgs.v=4",
        "apiServer.extraArgs.profiling=null",
        "networking.apiServerPort=0x1F90",
        "encryption.providers[0].keys[0].source.env=MY_KEY",
        "clusterName=other",
        "audit=null",
    ];
    let profile = folders.load("hardened", &sets).unwrap().profile;
    let spec = &profile.spec;
    assert_eq!(profile.cluster_name(), "other");
    assert_eq!((spec.count(Role::Worker), spec.nodes[2].taints[0].effect), (4, TaintEffect::NoSchedule));
    assert_eq!(spec.nodes[0].labels.get("example.com/a").unwrap(), "1");
    assert_eq!(spec.kubelet.config["a.b"], 1);
    assert_eq!(spec.kubelet.config["evictionHard"]["memory"], "x=y");
    assert_eq!(spec.kubelet.config["readOnlyPort"], 0);
    assert_eq!(spec.api_server.extra_args.get("v").unwrap(), "4");
    assert!(!spec.api_server.extra_args.contains_key("profiling"));
    assert_eq!(spec.networking.api_server_port, 8080);
    assert_eq!(spec.encryption.as_ref().unwrap().providers[0].keys[0].source, KeySource::Env("MY_KEY".into()));
    assert_eq!(spec.audit, None);
}

#[test]
fn a_set_source_replaces_the_other_source() {
    let spec = "  encryption: {providers: [{type: secretbox, keys: [{name: a, source: {file: f}}]}]}";
    let folders = Folders::new(&[("p.yaml", &profile(spec))]);
    let loaded = folders.load("p.yaml", &["encryption.providers[0].keys[0].source.env=E"]).unwrap();
    assert_eq!(loaded.profile.spec.encryption.unwrap().providers[0].keys[0].source, KeySource::Env("E".into()));
}

#[test]
fn bad_sets_are_all_told() {
    let folders = Folders::new(&[]);
    let sets = [
        "nodez[0].count=1",
        "nodes.count=1",
        "nodes[0].role.x=1",
        "encryption.providers[0].keys[0].source.evn=A",
        "nodes[0].count",
        "networking.ipFamily=[",
    ];
    let error = folders.load("default", &sets).unwrap_err();
    insta::assert_snapshot!(folders.shown(&error));

    let error =
        folders.load("default", &["nodes[2].role=worker", "nodes[0].count=many", "bootstrap=fast"]).unwrap_err();
    let messages: Vec<_> = error.entries().into_iter().map(|entry| entry.message).collect();
    assert_eq!(
        messages,
        [
            "`spec.nodes` has no entry 2",
            "`spec.nodes[0].count` is the string `many`",
            "`spec.bootstrap` cannot be `fast`"
        ]
    );
}

#[test]
fn an_unknown_profile_has_near_names() {
    let folders = Folders::new(&[("user/mine.yaml", &profile("  {}"))]);
    let error = folders.load("hardend", &[]).unwrap_err();
    insta::assert_snapshot!(folders.shown(&error), @r"
    profile::unknown

      × there is no profile `hardend`
      help: did you mean `hardened`?
            there are `cis-level-2`, `default`, `ha`, `hardened`, `kms-local`, `kms-vault`, `mine`,
            `secure-two-node`
    ");
    let missing = folders.load("./nothing.yaml", &[]).unwrap_err();
    assert!(missing.to_string().contains("there is no file"), "{missing}");
    std::fs::write(folders.path().join("binary.yaml"), [0xff, 0xfe, 0]).unwrap();
    assert!(folders.load("binary.yaml", &[]).unwrap_err().to_string().ends_with("is no text (UTF-8)"));
}

const BAD_FIELDS: &str = "\
apiVersion: kprov.dev/v1
kind: Profil
encryption: {}
metadata:
  name: 7
spec:
  nodes:
    - role: controlplane
      count: \"2\"
      extraPortMappings: []
    - count: 0
      labels: [a]
      ports:
        - containerPort: 70000
          hostport: 80
          protocol: tcp
          listenAddress: localhost
  apiServer:
    extraArgs:
      profiling: false
      v: 2
  networking:
    disableDefaultCNI: yes
    ipFamily: both
  audit:
    rules:
      - level: All
        resource: [secrets]
  manifests: none
";

#[test]
fn wrong_fields_and_types_are_all_told_with_their_places() {
    let folders = Folders::new(&[("p.yaml", BAD_FIELDS)]);
    let error = folders.load("p.yaml", &[]).unwrap_err();
    insta::assert_snapshot!(folders.shown(&error));
    let entries = error.entries();
    assert!(entries.iter().all(|entry| entry.line.is_some() && entry.column.is_some()));
    let tcp = entries.iter().find(|entry| entry.message.contains("tcp")).unwrap();
    assert_eq!((tcp.line, tcp.column), (Some(16), Some(21)));
    assert!(tcp.file.as_ref().unwrap().ends_with("p.yaml"));
    let json = serde_json::to_value(tcp).unwrap();
    assert_eq!(json["code"], "profile::value");
}

#[test]
fn a_lone_problem_needs_no_heading() {
    let folders = Folders::new(&[("p.yaml", &profile("  nodes:\n    - role: control-plane\n     count: 2\n"))]);
    let error = folders.load("p.yaml", &[]).unwrap_err();
    insta::assert_snapshot!(folders.shown(&error));
}

#[test]
fn duplicate_keys_are_shown_twice() {
    let folders = Folders::new(&[("p.yaml", &profile("  clusterName: a\n  image: b\n  clusterName: c\n"))]);
    insta::assert_snapshot!(folders.shown(&folders.load("p.yaml", &[]).unwrap_err()));
}

#[test]
fn problems_lie_in_the_layer_that_they_come_from() {
    let base = format!("{HEAD}metadata: {{name: base}}\nspec:\n  networking:\n    podSubnet: 10.96.0.0/12\n");
    let top = format!("{HEAD}metadata: {{name: top}}\nextends: base.yaml\nspec:\n  featureGates:\n    lower: true\n");
    let folders = Folders::new(&[("base.yaml", &base), ("top.yaml", &top)]);
    let error = folders.load("top.yaml", &["nodes=[{role: worker}]"]).unwrap_err();
    insta::assert_snapshot!(folders.shown(&error));
    // Each layer is checked, not only the first that is wrong.
    let folders = Folders::new(&[("base.yaml", "kind: P\n"), ("top.yaml", &top.replace("spec:", "spek:"))]);
    let files: Vec<_> =
        folders.load("top.yaml", &[]).unwrap_err().entries().into_iter().map(|entry| entry.file).collect();
    assert!(files.iter().flatten().any(|file| file.ends_with("base.yaml")), "{files:?}");
    assert!(files.iter().flatten().any(|file| file.ends_with("top.yaml")), "{files:?}");
}

#[test]
fn a_layer_may_leave_out_what_its_base_has() {
    let layer =
        format!("{HEAD}metadata: {{name: l}}\nextends: hardened\nspec: {{encryption: {{resources: [secrets]}}}}\n");
    let folders = Folders::new(&[("l.yaml", &layer), ("m.yaml", &layer.replace("hardened", "default"))]);
    assert_eq!(folders.load("l.yaml", &[]).unwrap().profile.spec.encryption.unwrap().resources, ["secrets"]);
    let error = folders.load("m.yaml", &[]).unwrap_err();
    assert_eq!(error.to_string(), "`spec.encryption` has no `providers`");
    assert_eq!(error.entries()[0].line, Some(5));
}

#[test]
fn cycles_and_missing_bases_end() {
    let layer = |extends: &str| format!("{HEAD}metadata: {{name: l}}\nextends: {extends}\n");
    let folders = Folders::new(&[
        ("profiles/a.yaml", &layer("b")),
        ("profiles/b.yaml", &layer("a")),
        ("profiles/own.yaml", &layer("own")),
        ("profiles/self.yaml", &layer("./self.yaml")),
        ("profiles/near.yaml", &layer("hardend")),
    ]);
    for name in ["a", "self"] {
        let error = folders.load(name, &[]).unwrap_err();
        assert_eq!(error.to_string(), "the profile extends itself", "{name}");
    }
    assert_eq!(folders.load("own", &[]).unwrap_err().to_string(), "there is no profile `own`");
    insta::assert_snapshot!(folders.shown(&folders.load("near", &[]).unwrap_err()));
}

#[test]
fn keys_are_never_shown() {
    let wrong = "c2VjcmV0IG9mIGEgd3JvbmcgbGVuZ3RoLCAzMyBieXRlcyE=";
    let specs = [
        format!(
            "  encryption:\n    providers:\n      - type: aescbc\n        keys:\n          - name: a\n            source: {{literal: {wrong}}}\n          - name: a\n            source: {{literal: {KEY}}}\n"
        ),
        format!("  encryption: {{providers: [{{type: aescbc, keys: [{{name: a, secret: {KEY}}}]}}]}}\n"),
        format!("  encryption: {{providers: [{{type: aescbc, keys: [{{name: a, source: {wrong}}}]}}]}}\n"),
        format!("  encryption: {{providers: [{{type: aescbc, keys: [{wrong}]}}]}}\n"),
        format!("  encryption: {{providers: [{{aescbc: {{keys: [{{name: a, secret: {wrong}}}]}}}}]}}\n"),
        format!(
            "  encryption: {{providers: [{{type: aescbc, keys: [{{name: a, source: {{litteral: {wrong}}}}}]}}]}}\n"
        ),
        format!(
            "  encryption: {{providers: [{{type: aescbc, keys: [{{name: a, source: {{literal: [{wrong}]}}}}]}}]}}\n"
        ),
        format!("  encryption: {{providers: [{{type: aescbc, keys: [{{name: a, source: {{literal: {wrong}}}}}]}}]\n"),
        format!(
            "  encryption:\n    providers:\n      - type: identity\n        keys:\n          - name: a\n            source:\n              literal: >-\n                {KEY}\n"
        ),
    ];
    for spec in specs {
        let folders = Folders::new(&[("p.yaml", &profile(&spec))]);
        let error = folders.load("p.yaml", &[]).unwrap_err();
        let all = format!("{}{error:?}{:?}", folders.shown(&error), error.entries());
        assert!(!all.contains(&KEY[..12]) && !all.contains(&wrong[..12]), "{all}");
    }
    let folders =
        Folders::new(&[("p.yaml", &profile("  encryption: {providers: [{type: aescbc, keys: [{name: a}]}]}"))]);
    for set in ["literal", "litteral", "literal[0]"] {
        let set = format!("encryption.providers[0].keys[0].source.{set}={wrong}");
        let error = folders.load("p.yaml", &[&set]).unwrap_err();
        let all = format!("{}{error:?}", folders.shown(&error));
        assert!(!all.contains(&wrong[..12]), "{all}");
    }
    insta::assert_snapshot!(folders.shown(
        &folders.load("p.yaml", &[&format!("encryption.providers[0].keys[0].source.literal={wrong}")]).unwrap_err()
    ));
}

#[test]
fn warnings_do_not_stop() {
    let spec = format!(
        "  encryption:
    providers:
      - type: secretbox
        keys:
          - name: a
            source:
              literal: {KEY}
  kubelet:
    config:
      readOnlyport: 0
      fromTheFuture: true
  nodes: [{{role: control-plane, count: 2, labels: null}}]
"
    );
    let folders = Folders::new(&[("p.yaml", &profile(&spec))]);
    let warnings = folders.load("p.yaml", &[]).unwrap().warnings;
    insta::assert_snapshot!(folders.shown(&ProfileError::new("p.yaml", warnings)));
}

#[test]
fn what_contradicts_itself_or_kubernetes() {
    let crypt = |providers: &str, resources: &str| {
        format!("  encryption: {{providers: [{providers}], resources: [{resources}]}}")
    };
    let cases: &[(&str, &[&str])] = &[
        ("  nodes: [{role: worker}]", &["the cluster has no control plane"]),
        ("  nodes: [{role: control-plane, count: 2}]", &["warning: 2 control planes are no safer than 1"]),
        ("  clusterName: Up", &["a cluster's name has only lower-case letters, digits, `-` and `.`, not 'U'"]),
        ("  image: kindest/Node", &["this is no image reference"]),
        ("  nodes: [{role: control-plane, image: \"a b\"}]", &["this is no image reference"]),
        (
            "  nodes: [{role: control-plane, count: 3, ports: [{containerPort: 80, hostPort: 80}, {containerPort: 81}]}]",
            &["port 80 can be published by one node, not by 3"],
        ),
        (
            "  nodes: [{role: control-plane, ports: [{containerPort: 1, hostPort: 80}, {containerPort: 2, hostPort: 80, protocol: UDP}]},
            {role: worker, ports: [{containerPort: 1, hostPort: 80, listenAddress: 127.0.0.1}]}]",
            &["host port 80 is published twice"],
        ),
        (
            "  networking: {apiServerPort: 80}\n  nodes: [{role: control-plane, ports: [{containerPort: 80, hostPort: 80}]}]",
            &["host port 80 is published twice"],
        ),
        (
            "  nodes: [{role: control-plane, mounts: [{hostPath: a, containerPath: b}, {hostPath: '', containerPath: b}]}]",
            &["a path inside a node begins with `/`", "the host's path is empty", "a path inside a node begins with `/`", "two mounts at b"],
        ),
        (
            "  nodes: [{role: control-plane, mounts: [{hostPath: '/:/etc', containerPath: /a}, {hostPath: /b, containerPath: '/b:ro'}]}]",
            &["the path /:/etc has a colon in it", "the path /b:ro has a colon in it"],
        ),
        ("  networking: {podSubnet: 10.244.0.0}", &["`10.244.0.0` is no subnet"]),
        ("  networking: {podSubnet: 10.244.1.0/16}", &["warning: `10.244.1.0/16` names one address, not a subnet"]),
        (
            "  networking: {podSubnet: 10.96.0.0/12}",
            &["pods (10.96.0.0/12) and services (10.96.0.0/16) have addresses in common"],
        ),
        ("  networking: {podSubnet: 'fd00::/56'}", &["`fd00::/56` does not fit the cluster's IP family"]),
        ("  networking: {ipFamily: dual, podSubnet: '10.0.0.0/16,10.1.0.0/16'}", &["`10.0.0.0/16,10.1.0.0/16` does not fit the cluster's IP family"]),
        ("  networking: {podSubnet: 192.168.0.0/25}", &["the pod subnet has no room for one node's /24"]),
        (
            "  networking: {podSubnet: 192.168.0.0/23}\n  nodes: [{role: control-plane, count: 3}]",
            &["the pod subnet has room for 2 nodes of a /24 each, not for 3"],
        ),
        ("  networking: {serviceSubnet: 11.0.0.0/8}", &["the service subnet is too large: at most 20 bits for services"]),
        ("  networking: {ipFamily: dual}", &[]),
        ("  networking: {ipFamily: ipv6}", &[]),
        (&crypt("{type: identity}, {type: aescbc}", "secrets"), &["`identity` comes first: nothing would be encrypted"]),
        (&crypt("{type: aescbc}, {type: identity}, {type: aesgcm}", "secrets"), &["`identity` is not the last provider"]),
        (
            &crypt("{type: aescbc}, {type: aescbc}, {type: identity, keys: [{name: a}]}", "secrets"),
            &["the provider `aescbc` is there twice", "`identity` has no keys"],
        ),
        (
            &crypt("{type: aescbc, keys: [{name: a}, {name: a}, {name: 'b:c'}]}, {type: aesgcm, keys: [{name: a}]}", "secrets"),
            &["the key `a` is there twice", "a key's name is a word without colons"],
        ),
        (&crypt("{type: aescbc, keys: [{name: a, source: {env: a-b}}]}", "secrets"), &["this is no name of an environment variable"]),
        (&crypt("{type: aescbc, keys: [{name: a, source: {literal: AAAA}}]}", "secrets"), &["key \"a\" has 3 bytes; aescbc takes 16, 24 or 32"]),
        (&crypt("{type: aescbc, keys: [{name: a, source: {literal: '?'}}]}", "secrets"), &["key \"a\" is not valid base64"]),
        (&crypt("{type: aescbc}", ""), &["`spec.encryption.resources` is empty"]),
        (
            &crypt("{type: aescbc}", "secrets, secrets, deployments.apps, '*.apps', Pods, '*'"),
            &[
                "the resource `secrets` is there twice",
                "the resources `deployments.apps` and `*.apps` overlap",
                "`Pods` is no resource",
                "`*` is no resource",
            ],
        ),
        (&crypt("{type: aescbc}", "'*.', secrets"), &["the resources `*.` and `secrets` overlap"]),
        (&crypt("{type: aescbc}", "secrets, '*.apps'"), &[]),
        ("  manifests: [{name: a}, {name: a, file: f, inline: x}]", &[
            "the manifest `a` has neither a file nor inline text",
            "two manifests are called `a`",
            "the manifest `a` has both a file and inline text",
        ]),
        (
            "  apiServer: {extraArgs: {--v: '1', audit_log_path: x, 'profiling=false': ''}}",
            &["the flag `--v` has leading dashes", "kprov itself sets the flag `audit-log-path` of apiServer", "the flag `profiling=false` has a value in its name"],
        ),
        ("  apiServer: {anonymousPaths: [/livez, /readyz, /healthz]}", &[]),
        ("  apiServer: {anonymousPaths: [/livez, /readyz, /livez, 'version', '/api?x']}", &[
            "the path /livez is given twice",
            "`version` is no path",
            "`/api?x` is no path",
        ]),
        ("  apiServer: {anonymousPaths: []}", &[
            "`/livez` is not among the paths for requests without a name",
            "`/readyz` is not among the paths for requests without a name",
        ]),
        (
            "  apiServer: {anonymousPaths: [/livez, /readyz], extraArgs: {anonymous_auth: 'false', oidc-issuer-url: x}}",
            &[
                "the API server takes either the flag `anonymous-auth` or spec.apiServer.anonymousPaths",
                "the API server takes either the flag `oidc-issuer-url` or spec.apiServer.anonymousPaths",
            ],
        ),
        ("  kubelet: {config: {serverTLSBootstrap: true}, extraArgs: {node-ip: x}}", &[
            "kprov itself sets `serverTLSBootstrap`",
            "kprov itself sets the flag `node-ip` of kubelet",
        ]),
        ("  nodes: [{role: control-plane, labels: {a b: c, d: e f, kubernetes.io/x: y}}]", &[
            "`a b` is no label key",
            "`e f` is no value of a label",
            "kubelet does not start with the label `kubernetes.io/x`",
        ]),
        ("  nodes: [{role: control-plane, taints: [{key: a, effect: NoSchedule}, {key: a, value: '?', effect: NoSchedule}]}]", &[
            "the taint `a` has the same effect twice",
            "`?` is no value of a taint",
        ]),
        ("  audit: {rules: []}", &["`spec.audit.rules` is empty"]),
        ("  audit: {rules: [{level: None}], omitStages: [Never]}", &["`spec.audit.omitStages[0]` cannot be `Never`"]),
        ("  featureGates: {nodeSwap: true}", &["`nodeSwap` is no name of a feature gate"]),
        ("  runtimeConfig: {api/all: maybe}", &["`api/all` is switched to neither true nor false"]),
        ("  apiServer: {certSANs: [example.com, 10.0.0.1, '*.x', 'a b']}", &["`a b` is neither a host name nor an address"]),
        ("  audit: {rules: [{level: None, nonResourceURLs: [x, /a*b], namespaces: [y]}]}", &[
            "an audit rule is for resources or for other paths, not for both",
            "`x` is no path",
            "`/a*b` is no path",
        ]),
    ];
    for (spec, want) in cases {
        assert_eq!(complaints(spec), *want, "{spec}");
    }
}

#[test]
fn contradictions_are_shown_where_they_are() {
    let spec = "  nodes:
    - role: worker
      count: 2
      ports:
        - containerPort: 80
          hostPort: 8080
  encryption:
    providers:
      - type: identity
      - type: aescbc
    resources: [secrets, '*.']
  apiServer:
    extraArgs:
      encryption-provider-config: /etc/x.yaml
";
    let folders = Folders::new(&[("p.yaml", &profile(spec))]);
    insta::assert_snapshot!(folders.shown(&folders.load("p.yaml", &[]).unwrap_err()));
}

#[test]
fn damaged_profiles_end_in_an_error_that_can_be_shown() {
    let text = profile(&format!(
        "  nodes: [{{role: control-plane, ports: [{{containerPort: 80, hostPort: 1}}]}}]
  encryption:
    providers:
      - type: aescbc
        keys:
          - name: ä
            source: {{literal: \"{KEY}\"}} # ü
      - {{type: identity}}
  kubelet: {{config: {{a: &x [1, *y], b: *x}}, extraArgs: {{v: '1'}}}}
"
    ))
    .replace("*y", "2");
    let folders = Folders::new(&[("p.yaml", &text)]);
    assert_eq!(folders.load("p.yaml", &[]).unwrap().warnings.len(), 1);
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    for (round, at) in ends.into_iter().enumerate() {
        let junk = ["", "\t", ":", "- ", "&a *a ", "\"", "[", "}", "\n", "ö", "!!x ", "? "][round % 12];
        let head = &text[..at];
        let tail = text[at..].chars().skip(round % 3).collect::<String>();
        for damaged in [head.to_owned(), format!("{head}{junk}{tail}")] {
            std::fs::write(folders.path().join("p.yaml"), &damaged).unwrap();
            let shown = match folders.load("p.yaml", &[]) {
                Ok(loaded) => format!("{:?}{:?}", loaded.profile, loaded.warnings),
                Err(error) => folders.shown(&error) + &format!("{error:?}"),
            };
            // A key that is cut in two may look like anything else; half of it is no key any more.
            assert!(!shown.contains("DA0ODxAREhMUFRYXGBkaGxwd"), "{damaged}\n{shown}");
        }
    }
}

/// All that is said of a profile that does not load.
fn load_text(text: &str) -> Result<(), String> {
    let folders = Folders::new(&[("p.yaml", text)]);
    folders.load("p.yaml", &[]).map(|_| ()).map_err(|error| folders.shown(&error).replace("\n  │ ", " "))
}

#[test]
fn faults_of_a_kms_are_shown_where_they_are() {
    let text = profile(
        "  encryption:
    providers:
      - type: kms
        keys: [{name: a}]
        kms: {name: 'a:b', local: {}, server: openbao}
      - type: aescbc
        kms: {endpoint: 'unix:///run/x/kms.sock'}",
    );
    let report = load_text(&text).unwrap_err();
    for expected in [
        "a KMS provider has no keys in the profile",
        "a KMS provider's name is a word without colons",
        "exactly one of `local`, `vault`, `server`, `host` and `endpoint`",
        "the provider `aescbc` has no KMS",
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    let text = profile(
        "  encryption:
    providers:
      - type: kms
        kms:
          vault:
            address: http://vault:8200
            ca: ca.pem
            key: ../sys
            auth: {appRole: {roleId: {env: 'a b'}, secretId: s.very-secret-text}}",
    );
    let report = load_text(&text).unwrap_err();
    assert!(!report.contains("very-secret-text"), "{report}");
    let report = load_text(&text.replace("s.very-secret-text", "{file: ''}")).unwrap_err();
    for expected in [
        "is no address of a server with TLS",
        "this is no transit key's name",
        "this is no name of an environment variable",
        "the file has no name",
    ] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    // What the plugin would refuse on the nodes.
    let wrong = text
        .replace("s.very-secret-text", "{file: /s}, mount: ../sys")
        .replace("key: ../sys", "key: k\n            serverName: 'a b'");
    let report = load_text(&wrong).unwrap_err();
    for expected in ["`../sys` is no mount", "this is no name of a server"] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    let password = text
        .replace("s.very-secret-text", "{file: ''}")
        .replace("http://vault:8200", "https://root:hvs.very-secret-text@vault:8200");
    let report = load_text(&password).unwrap_err();
    assert!(report.contains("holds more than host, port and path"), "{report}");
    assert!(!report.contains("very-secret"), "{report}");
    for endpoint in ["/run/kms.sock", "unix://@kms", "unix:///kms.sock", "unix:///run/../kms.sock"] {
        let text = profile(&format!(
            "  encryption:\n    providers:\n      - type: kms\n        kms: {{endpoint: '{endpoint}'}}"
        ));
        assert!(load_text(&text).unwrap_err().contains("is no socket in a folder of its own"), "{endpoint}");
    }
    for folder in ["run/hsm", "/", "/run/../hsm", "/run//hsm", "/run/hsm:ro"] {
        let text =
            profile(&format!("  encryption:\n    providers:\n      - type: kms\n        kms: {{host: '{folder}'}}"));
        assert!(load_text(&text).unwrap_err().contains("is no folder of the host's"), "{folder}");
    }
    let text = profile("  encryption:\n    providers: [{type: kms}]");
    assert!(load_text(&text).unwrap_err().contains("a KMS provider without a KMS"));
}

#[test]
fn variables_stand_in_values() {
    let spec = "  nodes:\n    - role: control-plane\n    - role: worker\n      count: ${WORKERS}\n      labels: {text: \"${WORKERS}\", of: \"${NONE:-${}\"}\n";
    let text = |spec: &str| {
        format!("{HEAD}metadata: {{name: test, description: '$${{X}}'}}\nextends: ${{WHERE}}\nspec:\n{spec}")
    };
    let folders =
        Folders::new(&[("bad.yaml", &text(spec)), ("good.yaml", &text(&spec.replace(", of: \"${NONE:-${}\"", "")))]);
    let loaded = folders.load("good.yaml", &[]).unwrap();
    let workers = &loaded.profile.spec.nodes[1];
    // As plain words they are numbers, quoted they are texts.
    assert_eq!((workers.count, workers.labels["text"].as_str()), (3, "3"));
    assert_eq!(loaded.profile.metadata.description, "${X}");
    assert!(loaded.profile.spec.encryption.is_some(), "hardened lies below");
    // What was loaded once has no variables any more, whatever it looks like.
    assert_eq!(check(&loaded.profile, folders.path()).unwrap().profile, loaded.profile);
    let error = folders.load("bad.yaml", &[]).unwrap_err();
    assert_eq!(error.problems().iter().map(ToString::to_string).collect::<Vec<_>>(), ["`${` begins no variable here"]);

    let number = "  nodes:\n    - role: control-plane\n    - role: worker\n      count: ${COUNT}\n";
    assert_eq!(complaints(number), ["the environment has no variable `COUNT`"], "and nothing of its type");
    assert_eq!(complaints("  image: ${IMAGE}\n"), ["the environment has no variable `IMAGE`"]);
    assert_eq!(complaints("  image: ${IMAGE:-kindest/node:v1.36.2}\n"), Vec::<String>::new());
    let key = "  encryption:\n    providers:\n      - type: aescbc\n        keys: [{name: k, source: {literal: \"${WORKERS}\"}}]\n";
    assert_eq!(complaints(key)[0], "no variable stands for a key or a password");
}
