//! Profiles and arguments that are wrong in themselves.

use serde_json::Value;

use super::{sandbox, up};

const HEAD: &str = "apiVersion: kprov.dev/v1alpha1\nkind: Profile\nmetadata: {name: p}\n";

fn profile(spec: &str) -> String {
    format!("{HEAD}spec:\n{spec}")
}

#[test]
fn an_unknown_profile_with_names_that_are_near() {
    up(&sandbox(), &["--profile", "hardend"])
        .says("there is no profile `hardend`")
        .says("did you mean `hardened`?")
        .says("`cis-level-2`, `default`, `ha`, `hardened`, `kms-local`, `kms-vault`, `secure-two-node`");
}

#[test]
fn a_profile_that_is_no_yaml() {
    let sandbox = sandbox();
    sandbox.write("p.yaml", format!("{HEAD}spec:\n  clusterName: \"x\n"));
    up(&sandbox, &["--profile", "p.yaml"])
        .says("invalid YAML: unclosed quote")
        .says("[p.yaml:5:16]")
        .says("clusterName: \"x");
}

#[test]
fn profiles_that_would_take_all_memory() {
    // Without bounds the first takes 20 GB, and the second never ends.
    let sandbox = sandbox();
    let aliases = vec!["*a"; 190_000].join(",");
    sandbox.write("p.yaml", format!("{HEAD}a: &a {}\nb: [{aliases}]\n", "x".repeat(100 << 10)));
    up(&sandbox, &["--profile", "p.yaml"]).says("more than 32 MiB once its aliases are expanded");
    up(&sandbox, &["--profile", "/dev/zero"]).says("/dev/zero has more than 4 MiB");
}

#[test]
fn fields_that_are_unknown_or_mistyped_all_at_once() {
    let sandbox = sandbox();
    let spec = "  nodez: []\n  nodes:\n    - role: boss\n      count: many\n  networking:\n    apiServerPort: 99999\n";
    sandbox.write("p.yaml", profile(spec));
    let run = up(&sandbox, &["--profile", "p.yaml"]);
    run.clone()
        .says("profile `p.yaml` has 4 problems")
        .says("unknown field `nodez` in `spec`")
        .says("did you mean `nodes`?")
        .says("[p.yaml:5:3]")
        .says("`spec.nodes[0].role` cannot be `boss`")
        .says("[p.yaml:7:13]")
        .says("- role: boss")
        .says("[p.yaml:8:14]")
        .says("[p.yaml:10:20]")
        .says("99999");
    let run = sandbox.kprov(&["up", "--profile", "p.yaml", "-o", "json"]).fails();
    let error: Value = serde_json::from_str(&run.stderr).unwrap();
    let related = error["error"]["related"].as_array().unwrap();
    let places: Vec<_> = related.iter().map(|problem| (problem["line"].clone(), problem["column"].clone())).collect();
    assert_eq!(places, [(5, 3), (7, 13), (8, 14), (10, 20)].map(|(line, column)| (line.into(), column.into())));
    assert!(related.iter().all(|problem| problem["file"] == "p.yaml"), "{related:?}");
}

#[test]
fn no_control_plane() {
    let sandbox = sandbox();
    sandbox.write("p.yaml", profile("  nodes:\n    - role: worker\n"));
    up(&sandbox, &["--profile", "p.yaml"]).says("the cluster has no control plane").says("[p.yaml:5:3]");
}

#[test]
fn names_that_cannot_be_names() {
    for (name, why) in [
        ("", "a cluster's name cannot be empty"),
        ("Bad_Name", "only lower-case letters, digits, `-` and `.`"),
        ("../x", "only lower-case letters, digits, `-` and `.`, not '/'"),
        (&"a".repeat(60), "has a name of at most 49 characters"),
    ] {
        let sandbox = sandbox();
        sandbox.kprov(&["up", "--name", name]).is_refused().says(why);
        sandbox.assert_clean();
    }
    let three = ["--set", "nodes=[{role: control-plane, count: 3}]"];
    up(&sandbox(), &[&["--name", &"a".repeat(41)][..], &three].concat()).says("has a name of at most 40 characters");
    up(&sandbox(), &["--image", "a b"]).says("`a b` is no image reference");
    let sandbox = sandbox();
    sandbox.write("p.yaml", profile("  clusterName: -x-\n"));
    up(&sandbox, &["--profile", "p.yaml"]).says("[p.yaml:5:16]").says("begins and ends with");
}

/// A profile with one aescbc key from `source`.
fn with_key(source: &str) -> String {
    profile(&format!(
        "  encryption:\n    providers:\n      - type: aescbc\n        keys: [{{name: key1, source: {source}}}]\n"
    ))
}

#[test]
fn a_key_of_the_wrong_length_is_not_shown() {
    let sandbox = sandbox();
    sandbox.write("p.yaml", with_key("{literal: c2hvcnQ=}"));
    up(&sandbox, &["--profile", "p.yaml"])
        .says("key \"key1\" has 5 bytes; aescbc takes 16, 24 or 32")
        .says("[p.yaml:8:47]")
        .never_says("c2hvcnQ");
}

#[test]
fn a_key_that_is_not_base64_is_not_shown() {
    let sandbox = sandbox();
    sandbox.write("p.yaml", with_key("{literal: \"hunter2 is no base64\"}"));
    up(&sandbox, &["--profile", "p.yaml"]).says("key \"key1\" is not valid base64").never_says("hunter2");
    up(&sandbox, &["--profile", "secure-two-node", "--set", "encryption.providers[0].keys[0].source.literal=hunter2!"])
        .says("key \"key1\" is not valid base64")
        .never_says("hunter2");
}

#[test]
fn keys_and_resources_that_are_there_twice() {
    let sandbox = sandbox();
    let keys = "keys: [{name: a}, {name: a}]";
    sandbox.write(
        "p.yaml",
        profile(&format!(
            "  encryption:\n    resources: [secrets, secrets]\n    providers: [{{type: aescbc, {keys}}}]\n"
        )),
    );
    up(&sandbox, &["--profile", "p.yaml"])
        .says("the resource `secrets` is there twice")
        .says("the key `a` is there twice")
        .says("first here")
        .says("again here");
}

#[test]
fn identity_as_the_first_provider() {
    let sandbox = sandbox();
    sandbox.write("p.yaml", profile("  encryption:\n    providers: [{type: identity}, {type: aescbc}]\n"));
    up(&sandbox, &["--profile", "p.yaml"])
        .says("`identity` comes first: nothing would be encrypted")
        .says("[p.yaml:6:24]")
        .says("put `identity` last");
}
