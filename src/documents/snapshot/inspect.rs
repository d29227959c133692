//! What a snapshot from elsewhere holds and asks of this host, and whether it is one that kprov could have made.
//!
//! Whoever made it is believed nothing: the profile goes through the same checks as any other, and so do names, paths and
//! sizes. That it is well formed makes it no less powerful: see [`Contents::beyond`]. Pure.

use std::path::Path;

use serde::Serialize;

use crate::documents::keys::{KeyRing, StoredKeys};
use crate::documents::profile::{
    self, KeySource, Kms, Profile, ProfileError, Propagation, Registry, SecretSource, VaultAuth,
};
use crate::documents::record::Record;
use crate::documents::render::{self, KubernetesVersion};

use super::contents::{LARGEST, check_images, check_node};
use super::manifest::{Blob, Draft};

/// The longest of the texts that are shown and looked up, and are no names.
const LONGEST_TEXT: usize = 512;

/// Why a snapshot from elsewhere is not taken.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum UnfitError {
    /// Its profile is none.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Profile(#[from] ProfileError),
    /// Something that kprov would not have written.
    #[error("the snapshot cannot be used: its {what}: {reason}")]
    #[diagnostic(
        code(kprov::snapshot::unfit),
        help("nothing was changed; no kprov writes such a snapshot: ask whoever gave it to you")
    )]
    Other {
        /// Which part of it.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    /// The cluster's name.
    pub cluster: String,
    /// The profile's name.
    pub profile: String,
    /// The Kubernetes version.
    pub kubernetes_version: String,
    /// The node image, and its id.
    pub image: String,
    /// Its nodes.
    pub nodes: Vec<String>,
    /// Those of its nodes that come with images of their own.
    pub with_images: Vec<String>,
    /// The host's ports and addresses that it publishes, a line each.
    pub ports: Vec<String>,
    /// The host's paths that it mounts, a line each.
    pub mounts: Vec<String>,
    /// What it asks of this host beyond what a cluster of kprov's own default profile does, a line each.
    pub beyond: Vec<String>,
    /// When it was taken, in seconds since 1970.
    pub taken: i64,
}

/// Looks through a whole snapshot.
///
/// # Errors
/// [`UnfitError::Profile`] if its profile would not be taken either, [`UnfitError::Other`] for anything else that kprov
/// does not write.
pub fn inspect(draft: &Draft) -> Result<Contents, UnfitError> {
    let record = &draft.manifest.record;
    check_record(record)?;
    let mut own = record.profile.clone();
    // What is read on the host where the cluster is made need not be here; see `beyond`.
    own.spec.manifests.retain(|manifest| manifest.file.is_none());
    profile::check(&own, &record.base)?;
    check_nodes(draft)?;
    check_keys(draft)?;
    check_archives(draft)?;
    let profile = &record.profile;
    let with_images = draft.manifest.nodes.iter().filter(|node| node.images.is_some());
    Ok(Contents {
        cluster: record.name.to_string(),
        profile: profile.metadata.name.clone(),
        kubernetes_version: record.version.clone(),
        image: format!("{} ({})", record.image, record.image_id),
        nodes: draft.manifest.nodes.iter().map(|node| node.name.clone()).collect(),
        with_images: with_images.map(|node| node.name.clone()).collect(),
        ports: ports(profile),
        mounts: mounts(profile, &record.base),
        beyond: beyond(profile, &record.base),
        taken: draft.manifest.created,
    })
}

fn unfit(what: impl Into<String>, reason: impl ToString) -> UnfitError {
    UnfitError::Other { what: what.into(), reason: reason.to_string() }
}

/// The parts of a record that are more than a profile.
fn check_record(record: &Record) -> Result<(), UnfitError> {
    profile::check_cluster_name(&record.name, &record.profile.spec).map_err(|error| unfit("cluster's name", error))?;
    record.version.parse::<KubernetesVersion>().map_err(|error| unfit("Kubernetes version", error))?;
    profile::check_image(&record.image).map_err(|error| unfit("image", error))?;
    if !record.image_id.strip_prefix("sha256:").is_some_and(|id| Blob { sha256: id.to_owned(), size: 0 }.is_named()) {
        return Err(unfit("image's id", format!("{:?} is no id", record.image_id)));
    }
    if record.load_balancer_image.is_some() {
        return Err(unfit("load balancer", "no file of a snapshot has one"));
    }
    for (what, text) in [("image", &record.image), ("version", &record.version), ("digest", &record.digest)] {
        if text.len() > LONGEST_TEXT || text.chars().any(char::is_control) {
            return Err(unfit(what, "it is no such text"));
        }
    }
    if !record.base.is_absolute() && !record.base.as_os_str().is_empty() {
        return Err(unfit("folder of its profile", format!("{} is no path from the root", record.base.display())));
    }
    Ok(())
}

/// The nodes are those that the profile plans, each once.
fn check_nodes(draft: &Draft) -> Result<(), UnfitError> {
    let record = &draft.manifest.record;
    let plans = render::plan_nodes(&record.profile, &record.name);
    if render::needs_load_balancer(&plans) {
        return Err(unfit("control planes", "there are several, and no file of a snapshot holds such a cluster"));
    }
    let mut planned: Vec<String> = plans.into_iter().map(|node| node.name).collect();
    let mut found: Vec<String> = draft.manifest.nodes.iter().map(|node| node.name.clone()).collect();
    planned.sort();
    found.sort();
    if planned != found {
        return Err(unfit("nodes", format!("they are {}, the profile's {}", found.join(", "), planned.join(", "))));
    }
    match record.nodes.iter().find(|node| !planned.contains(&node.name)) {
        Some(other) => Err(unfit("addresses", format!("{:?} is none of its nodes", other.name))),
        None => Ok(()),
    }
}

/// The keys are keys.
fn check_keys(draft: &Draft) -> Result<(), UnfitError> {
    let Some(blob) = &draft.manifest.keys else { return Ok(()) };
    let bytes = bytes_of(draft, blob)?;
    // Not what the parser says: it may quote a key.
    let stored: StoredKeys = serde_json::from_slice(bytes).map_err(|_| unfit("keys", "they cannot be read"))?;
    KeyRing::try_from(stored).map(|_| ()).map_err(|error| unfit("keys", error))
}

/// The archives hold what capturing nodes writes, and nothing else.
fn check_archives(draft: &Draft) -> Result<(), UnfitError> {
    let mut left = LARGEST;
    for node in &draft.manifest.nodes {
        let bytes = bytes_of(draft, &node.archive)?;
        check_node(bytes, &mut left).map_err(|reason| unfit(format!("archive of {}", node.name), reason))?;
        if let Some(images) = &node.images {
            let bytes = bytes_of(draft, images)?;
            check_images(bytes, &mut left).map_err(|reason| unfit(format!("images of {}", node.name), reason))?;
        }
    }
    Ok(())
}

fn bytes_of<'a>(draft: &'a Draft, blob: &Blob) -> Result<&'a [u8], UnfitError> {
    let found = draft.blobs.iter().find(|(known, _)| known == blob);
    found.map(|(_, bytes)| bytes.as_slice()).ok_or_else(|| unfit("files", format!("{} is missing", blob.sha256)))
}

/// The host's ports and addresses that a profile publishes.
fn ports(profile: &Profile) -> Vec<String> {
    let networking = &profile.spec.networking;
    let api = format!("{}: the API server", networking.api_server_address());
    let groups = profile.spec.node_groups();
    let published = groups.iter().flat_map(|group| &group.ports).map(|port| {
        let address = port.listen_address.unwrap_or_else(|| profile.spec.networking.listen_address());
        let host = if port.host_port == 0 { "a free port".to_owned() } else { format!("port {}", port.host_port) };
        format!("{address}, {host}: port {} of a node", port.container_port)
    });
    std::iter::once(api).chain(published).collect()
}

/// The host's paths that a profile mounts.
fn mounts(profile: &Profile, base: &Path) -> Vec<String> {
    let groups = profile.spec.node_groups();
    let mounts = groups.iter().flat_map(|group| &group.mounts).map(|mount| {
        let mut mode = if mount.read_only { "read only" } else { "to write" }.to_owned();
        if mount.selinux_relabel {
            mode.push_str(", relabelled for SELinux");
        }
        if mount.propagation == Propagation::Bidirectional {
            mode.push_str(", with what a node mounts there");
        }
        format!("{} ({mode}) at {}", base.join(&mount.host_path).display(), mount.container_path)
    });
    mounts.collect()
}

/// What a profile asks of the host beyond what the default one does.
fn beyond(profile: &Profile, base: &Path) -> Vec<String> {
    let spec = &profile.spec;
    let mut beyond: Vec<String> = mounts(profile, base).iter().map(|mount| format!("mounts {mount}")).collect();
    // The API server's is the first.
    beyond.extend(ports(profile).iter().skip(1).map(|port| format!("publishes {port}")));
    if !spec.networking.api_server_address().is_loopback() {
        beyond.push(format!("publishes the API server at {}", spec.networking.api_server_address()));
    }
    if let Some(network) = &spec.networking.docker_network {
        beyond.push(format!("puts its nodes on the engine's network {network}"));
    }
    let hosts = spec.networking.hosts.iter();
    beyond.extend(hosts.map(|(name, address)| format!("tells its nodes that {name} is at {address}")));
    beyond.extend(spec.preload.iter().map(|image| format!("brings the engine's image {image} into its nodes")));
    let files = spec.ca_certificates.iter().map(|file| base.join(file));
    beyond.extend(files.map(|file| format!("has its nodes trust the certificates in {}", file.display())));
    let proxy = spec.networking.proxy.iter().flat_map(|proxy| [&proxy.http, &proxy.https]).flatten();
    beyond.extend(proxy.map(|proxy| format!("has its nodes go out by the proxy {proxy}")));
    if let Some(registry) = &spec.registry {
        beyond.extend(registry_beyond(registry, base));
    }
    for image in spec.node_groups().iter().filter_map(|group| group.image.as_ref()) {
        beyond.push(format!("runs nodes of another image, {image}"));
    }
    for manifest in &spec.manifests {
        if let Some(file) = &manifest.file {
            beyond.push(format!("reads the manifest {} when it is made again", base.join(file).display()));
        }
    }
    for provider in spec.encryption.iter().flat_map(|encryption| &encryption.providers) {
        beyond.extend(provider.keys.iter().filter_map(|key| read_from(&key.source, base)));
        if let Some(kms) = &provider.kms {
            beyond.extend(kms_beyond(kms, base));
        }
    }
    if spec.patches_kubeadm() {
        beyond.push(
            "patches kubeadm's configuration, and with it the flags and volumes of what its nodes run".to_owned(),
        );
    }
    if !spec.containerd_config_patches.is_empty() || !spec.containerd_config_patches_json6902.is_empty() {
        beyond.push("patches the configuration of its nodes' containerd".to_owned());
    }
    beyond
}

/// What registries ask of the host. Credentials go to the address that the profile names.
fn registry_beyond(registry: &Registry, base: &Path) -> Vec<String> {
    let mut beyond = Vec::new();
    if let Some(local) = &registry.local {
        beyond.push(format!("runs a registry, published at 127.0.0.1:{}", local.port));
    }
    if let Some(image) = &registry.image {
        beyond.push(format!("runs registries of another image, {image}"));
    }
    if registry.keep {
        beyond.push("leaves its registries on the engine when it goes".to_owned());
    }
    let caches = registry.caches.iter().map(|cache| {
        (format!("runs a cache of {} that asks {}", cache.of, cache.upstream()), &cache.ca, &cache.credentials)
    });
    let mirrors = registry.mirrors.iter().map(|mirror| {
        let what = format!("has its nodes ask {} for images of {}", mirror.endpoint, mirror.of);
        (what, &mirror.ca, &mirror.credentials)
    });
    for (what, ca, credentials) in caches.chain(mirrors) {
        let file = |file: &Option<String>| file.as_ref().map(|file| base.join(file).display().to_string());
        let ca = file(ca).map(|file| format!(", trusting {file}"));
        let credentials = file(credentials).map(|file| format!(", logging in with what it reads from {file}"));
        beyond.push([Some(what), ca, credentials].into_iter().flatten().collect());
    }
    beyond
}

/// From where on the host a key is read, if it is.
fn read_from(source: &KeySource, base: &Path) -> Option<String> {
    match source {
        KeySource::Env(variable) => Some(format!("reads a key from the variable {variable}")),
        KeySource::File(file) => Some(format!("reads a key from {}", base.join(file).display())),
        KeySource::Generate | KeySource::Literal(_) => None,
    }
}

/// What a KMS asks of the host. Whatever a plugin logs in with goes to the server that the profile names.
fn kms_beyond(kms: &Kms, base: &Path) -> Vec<String> {
    let mut beyond: Vec<String> = kms.local.iter().filter_map(|local| read_from(&local.key, base)).collect();
    if let Some(image) = &kms.server_image {
        beyond.push(format!("runs a KMS server of another image, {image}"));
    }
    if let Some(folder) = &kms.host {
        beyond.push(format!(
            "mounts {folder} (read only) into its control planes, whose API servers ask a KMS plugin there"
        ));
    }
    let Some(vault) = &kms.vault else { return beyond };
    let secrets = match &vault.auth {
        VaultAuth::AppRole(role) => vec![&role.role_id, &role.secret_id],
        VaultAuth::Token(token) => vec![token],
        VaultAuth::Certificate(certificate) => vec![&certificate.key],
    };
    for secret in secrets {
        let from = match secret {
            SecretSource::Env(variable) => format!("the variable {variable}"),
            SecretSource::File(file) => base.join(file).display().to_string(),
        };
        beyond.push(format!("logs in to {} with what it reads from {from}", vault.address));
    }
    let mut files = vec![&vault.ca];
    if let VaultAuth::Certificate(certificate) = &vault.auth {
        files.push(&certificate.certificate);
    }
    beyond.extend(files.iter().map(|file| format!("gives its control planes {}", base.join(file).display())));
    beyond
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use zeroize::Zeroizing;

    use crate::documents::snapshot::{StateManifest, pack};

    use super::*;

    /// A snapshot whose manifest has been changed at these places.
    fn draft(changes: &[(&str, Value)]) -> Draft {
        let tar = crate::documents::files::pack(&[crate::documents::files::FileEntry::new(
            "/etc/kubernetes/admin.conf",
            0o600,
            "admin",
        )]);
        let bytes = pack(&tar).unwrap();
        let blob = Blob::of(&bytes);
        let mut manifest = json!({
            "format": 1, "kprov": "0", "created": 7, "subnets": [], "keys": null,
            "record": {
                "name": "class", "status": "ready", "base": "/home/teacher", "image": "kindest/node:v1.36.2",
                "imageId": format!("sha256:{}", "a".repeat(64)), "version": "v1.36.2", "digest": "d", "apiServerPort": 1, "nodes": [],
                "profile": {
                    "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "class"},
                    "spec": {"nodes": [{"role": "control-plane"}]},
                },
            },
            "nodes": [{"name": "class-control-plane", "archive": blob}],
        });
        for (place, value) in changes {
            *manifest.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value.clone();
        }
        let manifest: StateManifest = serde_json::from_value(manifest).unwrap();
        Draft { manifest, blobs: vec![(blob, Zeroizing::new(bytes.to_vec()))] }
    }

    fn refused(changes: &[(&str, Value)]) -> String {
        match inspect(&draft(changes)).unwrap_err() {
            UnfitError::Profile(source) => format!("{source:?}"),
            other => other.to_string(),
        }
    }

    #[test]
    fn a_plain_cluster_asks_for_nothing() {
        let contents = inspect(&draft(&[])).unwrap();
        assert_eq!(
            (contents.cluster.as_str(), contents.nodes.as_slice()),
            ("class", &["class-control-plane".to_owned()][..])
        );
        assert_eq!(contents.beyond, [""; 0]);
        assert_eq!(contents.ports, ["127.0.0.1: the API server"]);
    }

    #[test]
    fn what_reaches_the_host_is_told() {
        let nodes = json!([{
            "role": "control-plane", "mounts": [{"hostPath": "../../etc", "containerPath": "/host"}],
            "ports": [{"containerPort": 80, "hostPort": 8080}],
        }]);
        let contents = inspect(&draft(&[("/record/profile/spec/nodes", nodes)])).unwrap();
        assert_eq!(
            contents.beyond,
            ["mounts /home/teacher/../../etc (to write) at /host", "publishes 0.0.0.0, port 8080: port 80 of a node",]
        );
        let spec = json!({
            "networking": {"apiServerAddress": "0.0.0.0"},
            "encryption": {"providers": [{"type": "aescbc", "keys": [{"name": "a", "source": {"file": "/etc/shadow"}}]}]},
            "containerdConfigPatches": ["a = 1"],
            "manifests": [{"name": "m", "file": "/not/here.yaml"}],
        });
        let contents = inspect(&draft(&[("/record/profile/spec", spec)])).unwrap();
        assert_eq!(contents.beyond.len(), 4, "{:?}", contents.beyond);
        assert!(contents.beyond.contains(&"reads a key from /etc/shadow".to_owned()));
        let kms = json!({"vault": {"address": "https://evil.example", "ca": "/ca.pem", "key": "k",
            "auth": {"token": {"file": "/root/.ssh/id_ed25519"}}}});
        let spec = json!({"encryption": {"providers": [{"type": "kms", "kms": kms}, {"type": "identity"}]}});
        let contents = inspect(&draft(&[("/record/profile/spec", spec)])).unwrap();
        assert_eq!(
            contents.beyond,
            [
                "logs in to https://evil.example with what it reads from /root/.ssh/id_ed25519",
                "gives its control planes /ca.pem",
            ]
        );
        let kms = json!({"host": "/etc"});
        let spec = json!({"encryption": {"providers": [{"type": "kms", "kms": kms}, {"type": "identity"}]}});
        let contents = inspect(&draft(&[("/record/profile/spec", spec)])).unwrap();
        let mounts = "mounts /etc (read only) into its control planes, whose API servers ask a KMS plugin there";
        assert_eq!(contents.beyond, [mounts]);
        let kms = json!({"server": "openbao", "serverImage": "evil/image"});
        let spec = json!({"encryption": {"providers": [{"type": "kms", "kms": kms}, {"type": "identity"}]}});
        let contents = inspect(&draft(&[("/record/profile/spec", spec)])).unwrap();
        assert_eq!(contents.beyond, ["runs a KMS server of another image, evil/image"]);
    }

    #[test]
    fn the_profile_is_checked_as_any_other() {
        let colon = json!([{"role": "control-plane", "mounts": [{"hostPath": "/:/host:rw", "containerPath": "/x"}]}]);
        assert!(refused(&[("/record/profile/spec/nodes", colon)]).contains("colon"));
        let flag = json!({"apiServer": {"extraArgs": {"audit-log-path": "/x"}}});
        assert!(refused(&[("/record/profile/spec", flag)]).contains("audit-log-path"));
        let image = json!("not an image");
        assert!(refused(&[("/record/profile/spec", json!({"image": image}))]).contains("image"));
        let extends = json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "class"}, "extends": "/etc/passwd",
        });
        assert!(refused(&[("/record/profile", extends)]).contains("extends"));
    }

    #[test]
    fn names_and_texts_are_what_kprov_writes() {
        let name = json!("../../../../victim/Cargo");
        let mut manifest = serde_json::to_value(&draft(&[]).manifest).unwrap();
        manifest["record"]["name"] = name;
        assert!(StateManifest::parse(&serde_json::to_vec(&manifest).unwrap()).is_err());
        for (place, value, says) in [
            ("/record/imageId", json!("kindest/node"), "no id"),
            ("/record/version", json!("v0.1"), "version"),
            ("/record/image", json!("a b"), "image"),
            ("/record/digest", json!("d\u{1b}[2J"), "no such text"),
            ("/record/base", json!("here"), "from the root"),
            ("/nodes/0/name", json!("../../x"), "nodes"),
            ("/record/nodes", json!([{"name": "../x", "ipv4": null, "ipv6": null}]), "none of its nodes"),
            ("/nodes", json!([]), "nodes"),
            ("/record/profile/spec/nodes", json!([{"role": "control-plane", "count": 3}]), "there are several"),
        ] {
            let refused = refused(&[(place, value)]);
            assert!(refused.contains(says), "{place}: {refused}");
        }
        let other = Blob { sha256: "b".repeat(64), size: 1 };
        assert!(refused(&[("/keys", json!(other))]).contains("missing"));
    }
}
