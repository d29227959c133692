//! Every document of every built-in profile, for a version of each kubeadm API, held against `tests/golden`.
//!
//! After a wanted change: `INSTA_UPDATE=always cargo test --test render_golden`, and read the difference.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kprov::documents::profile::{Encryption, SearchPath, load};
use kprov::documents::render::{Inputs, KubernetesVersion, Templates, bundle};

const PROFILES: [&str; 7] = ["default", "secure-two-node", "hardened", "cis-level-2", "ha", "kms-vault", "kms-local"];
/// One for each of v1beta2, v1beta3 and v1beta4.
const VERSIONS: [&str; 3] = ["v1.20.2", "v1.27.3", "v1.37.0"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Holds all documents of `profile` at `version` against their files, and says which files these are.
fn check(profile: &str, version: &str) -> Vec<PathBuf> {
    let nowhere = SearchPath { current: golden(), user: None, variables: None };
    let profile = load(profile, &[], &nowhere).unwrap_or_else(|error| panic!("{error}")).profile;
    let keys = profile.spec.encryption.as_ref().map(Encryption::placeholder);
    let version: KubernetesVersion = version.parse().unwrap();
    let inputs = Inputs {
        profile: &profile,
        cluster: profile.cluster_name(),
        image: &format!("kindest/node:{version}"),
        version: &version,
        keys: keys.as_ref(),
        templates: &Templates::built_in(),
        cgroup_v1: false,
    };
    let folder = golden().join(profile.cluster_name()).join(version.to_string());
    let mut files = Vec::new();
    for document in bundle(&inputs, Path::new("/bundle")).unwrap().documents {
        let file = folder.join(&document.name);
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(file.parent().unwrap());
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let name = file.file_name().unwrap().to_str().unwrap();
        settings.bind(|| insta::assert_snapshot!(name, document.content.as_str()));
        files.push(PathBuf::from(format!("{}.snap", file.display())));
    }
    files
}

#[test]
fn documents_are_those_of_the_golden_files() {
    let mut expected = BTreeSet::new();
    for profile in PROFILES {
        for version in VERSIONS {
            expected.extend(check(profile, version));
        }
    }
    let mut found = BTreeSet::new();
    let mut folders = vec![golden()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "snap") {
                found.insert(path);
            }
        }
    }
    assert_eq!(
        found.difference(&expected).collect::<Vec<_>>(),
        Vec::<&PathBuf>::new(),
        "nothing renders these any more"
    );
}
