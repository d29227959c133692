use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const CONF: &str = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0EtREFUQQ==
    server: https://demo-control-plane:6443
  name: demo
contexts:
- context:
    cluster: demo
    user: kubernetes-admin
  name: kubernetes-admin@demo
current-context: kubernetes-admin@demo
kind: Config
preferences: {}
users:
- name: kubernetes-admin
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: U0VDUkVULUtFWQ==
";

// Unusual on purpose: odd order, fields that we do not know, text that other YAML readers take for something else.
const THEIRS: &str = "\
kind: Config
x-tool: {b: 1, a: [true, null, 1.5]}
users:
- name: prod
  user:
    exec: {command: aws, args: ['yes', '1e3', '0123', 'null', 'on']}
    x-unknown: kept
current-context: prod
apiVersion: v1
contexts:
- name: prod
  context: {cluster: prod, user: prod, namespace: web}
clusters:
- name: prod
  cluster: {server: 'https://prod:6443', insecure-skip-tls-verify: false}
";

fn ours(cluster: &str, port: u16) -> Zeroizing<String> {
    for_cluster(CONF, cluster, &format!("https://127.0.0.1:{port}")).unwrap()
}

fn at(path: &Path) -> Files {
    let mut files = Files::choose(Some(path), &Environment::default()).unwrap();
    files.wait = Duration::from_millis(60);
    files
}

fn list(files: &[&Path]) -> Files {
    let environment =
        Environment { kubeconfig: Some(std::env::join_paths(files).unwrap()), home: Some("/nowhere".into()) };
    let mut files = Files::choose(None, &environment).unwrap();
    files.wait = Duration::from_millis(60);
    files
}

fn tree(path: &Path) -> Value {
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn names(value: &Value, key: &str) -> Vec<String> {
    let Some(entries) = value[key].as_sequence() else { return Vec::new() };
    entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

fn only_file(folder: &Path, name: &str) {
    let names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [name], "no lock and no temporary file stays behind");
}

#[test]
fn admin_conf_becomes_the_clusters_own() {
    assert_eq!(
        ours("demo", 1234).as_str(),
        "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0EtREFUQQ==
    server: https://127.0.0.1:1234
  name: kind-demo
contexts:
- context:
    cluster: kind-demo
    user: kind-demo
  name: kind-demo
current-context: kind-demo
kind: Config
preferences: {}
users:
- name: kind-demo
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: U0VDUkVULUtFWQ==
"
    );
}

#[test]
fn admin_conf_has_one_entry_of_each() {
    let two = CONF.replace("users:\n", "users:\n- name: b\n  user: {}\n");
    let error = for_cluster(&two, "demo", "https://x").unwrap_err();
    assert_eq!(error.to_string(), "admin.conf is not a kubeconfig: users does not hold exactly one entry");
    let none = for_cluster("{}", "demo", "https://x").unwrap_err();
    assert!(none.to_string().contains("clusters"), "{none}");
}

#[test]
fn nothing_that_reaches_the_host_is_taken_out_of_a_node() {
    for (place, field) in [
        (
            "  user:\n",
            "    exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, args: [-c, 'id > /tmp/x']}\n",
        ),
        ("  user:\n", "    Exec: {command: /bin/sh}\n"),
        ("  user:\n", "    auth-provider: {name: gcp, config: {cmd-path: /bin/sh}}\n"),
        ("  user:\n", "    tokenFile: /home/user/.ssh/id_ed25519\n"),
        ("  user:\n", "    client-key: /home/user/.ssh/id_ed25519\n"),
        ("  user:\n", "    <<: {exec: {command: /bin/sh}}\n"),
        ("  user:\n", "    [exec]: x\n"),
        ("- cluster:\n", "    proxy-url: http://elsewhere:3128\n"),
        ("- cluster:\n", "    certificate-authority: /etc/shadow\n"),
        ("- context:\n", "    extensions: [{name: x, extension: {}}]\n"),
    ] {
        let crafted = CONF.replace(place, &format!("{place}{field}"));
        assert_ne!(crafted, CONF);
        let error = for_cluster(&crafted, "demo", "https://x").unwrap_err();
        assert!(error.to_string().ends_with("which kubeadm does not write"), "{field}: {error}");
    }
    let tagged = CONF.replace("  user:\n", "  user: !x\n    exec: {command: /bin/sh}\n");
    assert!(for_cluster(&tagged, "demo", "https://x").is_err());
    let no_text = CONF.replace("U0VDUkVULUtFWQ==", "{exec: x}");
    assert!(for_cluster(&no_text, "demo", "https://x").is_err());
    let at_home = CONF.replace("    user: kub", "    namespace: web\n    user: kub");
    assert!(for_cluster(&at_home, "demo", "https://x").unwrap().contains("namespace: web"));
}

#[test]
fn the_file_is_chosen_as_kubectl_does() {
    let home = Some(PathBuf::from("/home/u"));
    let environment = |list: &str| Environment { kubeconfig: Some(list.into()), home: home.clone() };
    let all = |explicit: Option<&str>, environment: &Environment| {
        Files::choose(explicit.map(Path::new), environment).unwrap().files
    };
    assert_eq!(all(Some("x"), &environment("a:b")), [Path::new("x")]);
    assert_eq!(all(None, &environment("a::b:a:")), [Path::new("a"), Path::new("b")]);
    assert_eq!(all(None, &environment(":")), [Path::new("/home/u/.kube/config")]);
    assert_eq!(all(Some(""), &environment("")), [Path::new("/home/u/.kube/config")]);
    let nothing = Files::choose(None, &Environment::default()).unwrap_err();
    assert!(matches!(nothing, KubeconfigError::NoFile));
}

#[test]
fn in_a_list_the_first_existing_file_is_written_else_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let (a, b, c) = (path("a"), path("b"), path("c"));
    let files = list(&[&a, &b, &c]);
    assert_eq!(files.for_writing(), c);
    fs::create_dir(&a).unwrap();
    fs::write(&b, "").unwrap();
    assert_eq!(files.for_writing(), b, "a folder is no file");
    assert_eq!(files.merge(&ours("demo", 1)).unwrap(), b);
    assert!(!c.exists());
}

#[test]
fn a_new_file_is_private_and_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".kube/config");
    at(&path).merge(&ours("demo", 1)).unwrap();
    let value = tree(&path);
    assert_eq!((value["apiVersion"].as_str(), value["kind"].as_str()), (Some("v1"), Some("Config")));
    assert_eq!(value["current-context"].as_str(), Some("kind-demo"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(folder.path().join(".kube")).unwrap().permissions().mode() & 0o777, 0o700);
    only_file(&folder.path().join(".kube"), "config");
}

#[test]
fn what_else_is_there_stays_as_and_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    fs::write(&path, THEIRS).unwrap();
    let before = tree(&path);
    at(&path).merge(&ours("demo", 1)).unwrap();

    let merged = tree(&path);
    let keys: Vec<_> = merged.as_mapping().unwrap().keys().map(|key| key.as_str().unwrap()).collect();
    assert_eq!(keys, ["kind", "x-tool", "users", "current-context", "apiVersion", "contexts", "clusters"]);
    for key in ["clusters", "contexts", "users"] {
        assert_eq!(names(&merged, key), ["prod", "kind-demo"]);
        assert_eq!(merged[key][0], before[key][0]);
    }
    // YAML 1.1, which kubectl reads, would take these for a boolean, numbers and nothing.
    let text = fs::read_to_string(&path).unwrap();
    for word in ["yes", "1e3", "0123", "null", "on"] {
        assert!(text.contains(&format!("'{word}'")) || text.contains(&format!("\"{word}\"")), "{word} in {text}");
    }

    assert_eq!(at(&path).remove("demo").unwrap(), [path.as_path()]);
    let mut expected = before;
    expected.as_mapping_mut().unwrap().shift_remove(CURRENT);
    assert_eq!(tree(&path), expected);
    only_file(folder.path(), "config");
}

#[test]
fn an_old_entry_is_replaced_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    at(&path).merge(&ours("a", 1)).unwrap();
    at(&path).merge(&ours("b", 2)).unwrap();
    at(&path).merge(&ours("a", 3)).unwrap();
    let value = tree(&path);
    for key in ["clusters", "contexts", "users"] {
        assert_eq!(names(&value, key), ["kind-a", "kind-b"]);
    }
    assert_eq!(value["clusters"][0]["cluster"]["server"].as_str(), Some("https://127.0.0.1:3"));
    assert_eq!(value["current-context"].as_str(), Some("kind-a"));

    at(&path).remove("b").unwrap();
    assert_eq!(tree(&path)["current-context"].as_str(), Some("kind-a"), "another's current context stays");
}

#[test]
fn removing_the_last_entry_leaves_no_empty_lists() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    at(&path).merge(&ours("a", 1)).unwrap();
    at(&path).remove("a").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "apiVersion: v1\nkind: Config\n");
}

#[test]
fn an_entry_is_removed_from_every_file_and_others_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let (a, b, c, d) = (path("a"), path("b"), path("c"), path("missing/d"));
    at(&a).merge(&ours("demo", 1)).unwrap();
    // No YAML, and none of our business.
    fs::write(&b, "# mine\n{{").unwrap();
    at(&c).merge(&ours("demo", 2)).unwrap();
    let files = list(&[&a, &b, &c, &d]);
    assert_eq!(files.remove("demo").unwrap(), [a.as_path(), c.as_path()]);
    assert_eq!(fs::read_to_string(&b).unwrap(), "# mine\n{{");
    assert!(!d.parent().unwrap().exists());
    assert!(files.remove("demo").unwrap().is_empty());
}

#[test]
fn one_bad_file_does_not_keep_the_entry_in_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (bad, good) = (folder.path().join("bad"), folder.path().join("good"));
    fs::write(&bad, "kind-demo: {{").unwrap();
    at(&good).merge(&ours("demo", 1)).unwrap();
    assert!(matches!(list(&[&bad, &good]).remove("demo"), Err(KubeconfigError::Yaml { .. })));
    assert!(names(&tree(&good), "users").is_empty());
}

#[test]
fn links_are_followed_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("real")).unwrap();
    let (link, second, real) =
        (folder.path().join("config"), folder.path().join("second"), folder.path().join("real/config"));
    symlink("second", &link).unwrap();
    symlink("real/config", &second).unwrap();
    // First without a target, then with one.
    for port in [1, 2] {
        at(&link).merge(&ours("demo", port)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::symlink_metadata(&real).unwrap().is_file());
    }
    assert_eq!(tree(&real)["clusters"][0]["cluster"]["server"].as_str(), Some("https://127.0.0.1:2"));
    only_file(real.parent().unwrap(), "config");

    symlink("loop", folder.path().join("loop")).unwrap();
    let error = at(&folder.path().join("loop")).merge(&ours("demo", 1)).unwrap_err();
    assert!(matches!(error, KubeconfigError::Links { .. }));
}

#[test]
fn devices_are_not_replaced_and_folders_refused() {
    let null = at(Path::new("/dev/null"));
    null.merge(&ours("demo", 1)).unwrap();
    assert!(null.remove("demo").unwrap().is_empty());
    assert!(!fs::metadata("/dev/null").unwrap().is_file());

    let folder = tempfile::tempdir().unwrap();
    let error = at(folder.path()).merge(&ours("demo", 1)).unwrap_err();
    assert!(matches!(error, KubeconfigError::Folder { .. }));
}

#[test]
fn a_held_lock_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    fs::write(&path, THEIRS).unwrap();
    fs::write(folder.path().join("config.lock"), "").unwrap();
    let error = at(&path).merge(&ours("demo", 1)).unwrap_err();
    assert!(error.to_string().ends_with("config.lock exists"), "{error}");
    let help = miette::Diagnostic::help(&error).unwrap().to_string();
    assert!(help.contains("config.lock"), "{help}");
    assert_eq!(fs::read_to_string(&path).unwrap(), THEIRS);
}

#[test]
fn a_file_that_is_no_kubeconfig_is_left_alone_and_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    for text in
        ["users: [{s3cr3t\n", "users: {s3cr3t: 1}", "s3cr3t", "s3cr3t: 1\ns3cr3t: 2\n", "a: s3cr3t\n---\nb: 1\n"]
    {
        fs::write(&path, text).unwrap();
        let error = at(&path).merge(&ours("demo", 1)).unwrap_err();
        let debug = format!("{error:?}");
        assert!(!error.to_string().contains("s3cr3t") && !debug.contains("s3cr3t"), "{debug}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    fs::write(&path, b"a: \xff").unwrap();
    assert!(at(&path).merge(&ours("demo", 1)).unwrap_err().to_string().contains("UTF-8"));
    only_file(folder.path(), "config");
}

#[test]
fn leftovers_of_killed_writers_go_with_the_next_change() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".config.kprov-x1y2z3"), "half").unwrap();
    let path = folder.path().join("config");
    at(&path).merge(&ours("demo", 1)).unwrap();
    only_file(folder.path(), "config");
}

#[test]
fn the_leftover_of_a_killed_first_writer_goes_with_the_cluster() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("config"), folder.path().join("link"));
    let leftover = folder.path().join(".config.kprov-x1y2z3");
    symlink(&path, &link).unwrap();
    for given in [&path, &link] {
        fs::write(&leftover, "half").unwrap();
        assert!(at(given).remove("demo").unwrap().is_empty());
        assert!(!leftover.exists(), "{}", given.display());
    }
    only_file(folder.path(), "link");
    // Nothing is there, and nothing is made.
    assert!(at(&folder.path().join("none/config")).remove("demo").unwrap().is_empty());
    assert!(!folder.path().join("none").exists());
}

#[test]
fn writers_side_by_side_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let threads: Vec<_> = (1..=6)
        .map(|port| {
            let path = path.clone();
            std::thread::spawn(move || {
                let files = Files::choose(Some(&path), &Environment::default()).unwrap();
                files.merge(&ours(&format!("c{port}"), port)).unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(names(&tree(&path), "users").len(), 6);
}

#[test]
fn a_kubeconfig_that_would_take_all_memory_is_refused() {
    let error = for_cluster(&crate::documents::bounds::tests::bomb(), "c", "https://c:1").unwrap_err();
    assert!(matches!(error, KubeconfigError::Yaml { .. }), "{error}");
}
