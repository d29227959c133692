//! Registries and mirrors: what nodes' containerd is told of them, and what the registries that kprov runs are told.
//!
//! Owns names, folders and files. Running them is `operations`' part.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::documents::files::FileEntry;
use crate::documents::profile::{Cache, Registry};
use crate::documents::yaml;

/// The folder with what containerd is told, on nodes. It is in no snapshot: what mirrors are asked by is in it.
pub const REGISTRY_FOLDER: &str = "/kind/kprov/registries";
/// Where a registry of kprov's listens.
pub const REGISTRY_PORT: u16 = 5000;
/// The folder of a registry's own files, in its container.
pub const REGISTRY_FILES: &str = "/kprov/registry";
/// The certificate of the authority that has signed a registry's, in its container.
pub const REGISTRY_CA: &str = "/kprov/registry/ca.crt";
/// What a registry is told, in its container.
pub const REGISTRY_CONFIG: &str = "/kprov/registry/config.yml";
/// What a cache is told while its upstream does not answer, in its container.
pub const REGISTRY_ALONE: &str = "/kprov/registry/alone.yml";
/// What starts a registry, in its container.
pub const REGISTRY_START: &str = "/kprov/registry/serve.sh";
/// The folder of the authorities that a cache trusts besides those of its image.
pub const REGISTRY_TRUST: &str = "/kprov/registry/trust";
/// Where a registry keeps images.
pub const REGISTRY_DATA: &str = "/var/lib/registry";

/// The name of the registry to push to.
const LOCAL: &str = "kprov-registry";

/// How much of a cached registry's name is in that of the container, which is a host's, too.
const READABLE: usize = 30;

/// A registry that kprov runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryPlan {
    /// Its container's name, by which nodes know it. Whoever asks for the same one has the same name.
    pub name: String,
    /// Its port on the host, if it is the one to push to.
    pub port: Option<u16>,
    /// What it is a cache of, if it is one.
    pub cache: Option<Cache>,
}

/// What a mirror or an upstream is asked by.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Certificates of authorities, in PEM.
    pub ca: Option<String>,
    /// A user and a password.
    pub credentials: Option<(String, Zeroizing<String>)>,
}

/// The registries that kprov runs for a profile. Relative paths start at `base`.
#[must_use]
pub fn registries(registry: &Registry, base: &Path) -> Vec<RegistryPlan> {
    let local = registry.local.as_ref().map(|local| RegistryPlan {
        name: LOCAL.to_owned(),
        port: Some(local.port),
        cache: None,
    });
    let caches = registry.caches.iter().map(|cache| RegistryPlan {
        name: cache_name(cache, base),
        port: None,
        cache: Some(cache.clone()),
    });
    local.into_iter().chain(caches).collect()
}

/// A cache's name: the same for the same upstream, asked by the same credentials.
fn cache_name(cache: &Cache, base: &Path) -> String {
    let mut hash = Sha256::new();
    let path = |file: &Option<String>| file.as_ref().map(|file| base.join(file).display().to_string());
    for part in [Some(cache.of.clone()), Some(cache.upstream()), path(&cache.ca), path(&cache.credentials)] {
        let part = part.unwrap_or_default();
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let readable: String = cache.of.chars().take(READABLE).map(|c| if c == ':' { '-' } else { c }).collect();
    // A part of a host's name ends in a letter or digit.
    let readable = readable.trim_end_matches(['.', '-']);
    format!("kprov-cache-{readable}-{}", &hex::encode(hash.finalize())[..10])
}

/// A registry's configuration. Of a cache, it is that by which it serves while its upstream does not answer.
#[must_use]
pub fn registry_alone() -> String {
    yaml::document(&alone())
}

/// A registry's configuration; of a cache, with what its upstream is asked by.
#[must_use]
pub fn registry_config(plan: &RegistryPlan, access: &Access) -> Zeroizing<String> {
    let mut config = alone();
    if let Some(cache) = &plan.cache {
        // Version 3 forgets nothing then; version 2 knows no such field, and forgets what it got a week ago.
        config["proxy"] = json!({"remoteurl": cache.upstream(), "ttl": "0s"});
        if let Some((user, password)) = &access.credentials {
            config["proxy"]["username"] = json!(user);
            config["proxy"]["password"] = json!(password.as_str());
        }
    }
    Zeroizing::new(yaml::document(&config))
}

fn alone() -> serde_json::Value {
    json!({
        "version": "0.1",
        "log": {"accesslog": {"disabled": true}, "level": "warn"},
        "storage": {"filesystem": {"rootdirectory": REGISTRY_DATA}, "delete": {"enabled": true}},
        "http": {
            "addr": format!(":{REGISTRY_PORT}"),
            "tls": {"certificate": format!("{REGISTRY_FILES}/server.crt"), "key": format!("{REGISTRY_FILES}/server.key")},
        },
    })
}

/// What starts a registry.
#[must_use]
pub fn registry_start() -> &'static str {
    include_str!("files/registry.sh")
}

/// What a node's containerd is told of registries and mirrors. `authorities` are the certificates of those that kprov runs, by their
/// names, and `mirrors` what each mirror is asked by.
#[must_use]
pub fn registry_files(
    registry: &Registry,
    base: &Path,
    authorities: &BTreeMap<String, String>,
    mirrors: &[Access],
) -> Vec<FileEntry> {
    let mut files = Vec::new();
    let mut hosts: BTreeMap<String, Zeroizing<String>> = BTreeMap::new();
    let mut add = |of: &str, host: &str, rest: &str| {
        let text = hosts.entry(folder(of).to_owned()).or_default();
        let _ = write!(text, "\n[host.{}]\n{rest}", quoted(host));
    };
    for plan in registries(registry, base) {
        let own = format!("{}:{REGISTRY_PORT}", plan.name);
        let ca = authority_file(&plan.name);
        files.extend(authorities.get(&plan.name).map(|text| FileEntry::new(&ca, 0o644, text.as_bytes())));
        let host = format!("https://{own}");
        let ca = quoted(&ca);
        match (&plan.cache, plan.port) {
            (Some(cache), _) => {
                add(&cache.of, &host, &format!("capabilities = [\"pull\", \"resolve\"]\nca = {ca}\n"));
            }
            (None, port) => {
                let names = [Some(own), port.map(|port| format!("localhost:{port}"))];
                for name in names.into_iter().flatten() {
                    add(&name, &host, &format!("capabilities = [\"pull\", \"resolve\", \"push\"]\nca = {ca}\n"));
                }
            }
        }
    }
    for (number, mirror) in registry.mirrors.iter().enumerate() {
        let access = mirrors.get(number).cloned().unwrap_or_default();
        let mut rest = Zeroizing::new("capabilities = [\"pull\", \"resolve\"]\n".to_owned());
        if let Some(ca) = &access.ca {
            let path = format!("{REGISTRY_FOLDER}/mirror-{}.crt", number + 1);
            let _ = writeln!(rest, "ca = {}", quoted(&path));
            files.push(FileEntry::new(path, 0o644, ca.as_bytes()));
        }
        let endpoint = mirror.endpoint.trim_end_matches('/');
        // containerd would put another one behind it.
        let path = endpoint.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        if path == "v2" || path.starts_with("v2/") || path.ends_with("/v2") {
            rest.push_str("override_path = true\n");
        }
        if let Some((user, password)) = &access.credentials {
            let login = Zeroizing::new(format!("{user}:{}", password.as_str()));
            let header = Zeroizing::new(BASE64.encode(login.as_bytes()));
            let _ = writeln!(rest, "[host.{}.header]\nAuthorization = \"Basic {}\"", quoted(endpoint), *header);
        }
        add(&mirror.of, endpoint, &rest);
    }
    files.extend(hosts.into_iter().map(|(folder, text)| {
        let path = format!("{REGISTRY_FOLDER}/{folder}/hosts.toml");
        // Only containerd reads it, and there may be credentials in it.
        FileEntry::new(path, 0o600, text.trim_start().as_bytes())
    }));
    files
}

/// The folders of what containerd is told, one for each registry that images name.
#[must_use]
pub fn registry_hosts(registry: &Registry) -> Vec<String> {
    let local = registry
        .local
        .iter()
        .flat_map(|local| [format!("{LOCAL}:{REGISTRY_PORT}"), format!("localhost:{}", local.port)]);
    let others = registry.caches.iter().map(|cache| cache.of.clone());
    let mirrors = registry.mirrors.iter().map(|mirror| folder(&mirror.of).to_owned());
    let all: std::collections::BTreeSet<String> = local.chain(others).chain(mirrors).collect();
    all.into_iter().collect()
}

/// The folder of a registry; containerd looks into one of them if there is none for that registry.
fn folder(of: &str) -> &str {
    if of == "*" { "_default" } else { of }
}

/// Where a node has certificates that it trusts besides those of its image: of the profile's first, second file and so on. From there
/// its system would make its bundle anew; kubeadm mounts the folder into static pods.
#[must_use]
pub fn added_authority(number: usize) -> String {
    format!("/usr/local/share/ca-certificates/kprov-{number}.crt")
}

/// Where a node has the certificate of a registry's authority.
#[must_use]
pub fn authority_file(name: &str) -> String {
    format!("{REGISTRY_FOLDER}/{name}.crt")
}

/// The manifest that tells tools of the registry to push to (KEP-1755); `None` if there is none.
#[must_use]
pub fn registry_hosting(registry: &Registry) -> Option<String> {
    let port = registry.local.as_ref()?.port;
    let hosting = json!({
        "host": format!("localhost:{port}"),
        "hostFromContainerRuntime": format!("{LOCAL}:{REGISTRY_PORT}"),
        "hostFromClusterNetwork": format!("{LOCAL}:{REGISTRY_PORT}"),
    });
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "local-registry-hosting", "namespace": "kube-public"},
        "data": {"localRegistryHosting.v1": yaml::document(&hosting)},
    });
    Some(yaml::document(&manifest))
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(value: serde_json::Value) -> Registry {
        serde_json::from_value(value).unwrap()
    }

    fn file<'a>(files: &'a [FileEntry], path: &str) -> (u32, &'a str) {
        let path = format!("{REGISTRY_FOLDER}/{path}");
        let file = files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("no {path} in {files:?}"));
        (file.mode, std::str::from_utf8(&file.content).unwrap())
    }

    #[test]
    fn containerd_is_told_of_each_registry_in_a_folder_of_its_own() {
        let registry = registry(json!({
            "local": {},
            "caches": [{"of": "docker.io"}],
            "mirrors": [
                {"of": "docker.io", "endpoint": "https://m.example/"},
                {"of": "*", "endpoint": "https://h.example/v2/all", "ca": "ca", "credentials": "c"},
            ],
        }));
        let base = Path::new("/home/me");
        let [local, cache] = &registries(&registry, base)[..] else { panic!() };
        let authorities =
            [(local.name.clone(), "L".to_owned()), (cache.name.clone(), "C".to_owned())].into_iter().collect();
        let secret = Zeroizing::new("p\"w".to_owned());
        let mirrors =
            [Access::default(), Access { ca: Some("M".to_owned()), credentials: Some(("me".to_owned(), secret)) }];
        let files = registry_files(&registry, base, &authorities, &mirrors);

        let (mode, docker) = file(&files, "docker.io/hosts.toml");
        assert_eq!(mode, 0o600);
        let cache_host = format!("[host.\"https://{}:5000\"]", cache.name);
        assert!(docker.starts_with(&cache_host), "the cache comes first: {docker}");
        assert!(docker.contains("\n[host.\"https://m.example\"]\n"));
        for host in registry_hosts(&registry) {
            file(&files, &format!("{host}/hosts.toml"));
        }
        assert_eq!(registry_hosts(&registry), ["_default", "docker.io", "kprov-registry:5000", "localhost:5001"]);
        let own = file(&files, "kprov-registry:5000/hosts.toml").1;
        assert_eq!(own, file(&files, "localhost:5001/hosts.toml").1);
        assert!(own.contains("ca = \"/kind/kprov/registries/kprov-registry.crt\""));
        assert_eq!(file(&files, "kprov-registry.crt"), (0o644, "L"));
        assert_eq!(file(&files, "mirror-2.crt"), (0o644, "M"));

        let all: toml::Table = file(&files, "_default/hosts.toml").1.parse().unwrap();
        let host = &all["host"]["https://h.example/v2/all"];
        assert_eq!(host["override_path"].as_bool(), Some(true));
        let header = host["header"]["Authorization"].as_str().unwrap();
        assert_eq!(header, format!("Basic {}", BASE64.encode("me:p\"w")));
        for text in [docker, own] {
            text.parse::<toml::Table>().unwrap();
        }
    }

    #[test]
    fn whoever_asks_for_the_same_cache_gets_the_same_one() {
        let name =
            |value: serde_json::Value, base: &str| cache_name(&serde_json::from_value(value).unwrap(), Path::new(base));
        let plain = name(json!({"of": "docker.io"}), "/a");
        assert_eq!(plain, name(json!({"of": "docker.io", "upstream": "https://registry-1.docker.io/"}), "/b"));
        let own = name(json!({"of": "docker.io", "credentials": "c"}), "/a");
        assert_ne!(plain, own);
        assert_ne!(own, name(json!({"of": "docker.io", "credentials": "c"}), "/b"));
        assert_eq!(own, name(json!({"of": "docker.io", "credentials": "/a/c"}), "/b"));
        let long = name(json!({"of": format!("{}.example:5000", "a".repeat(29))}), "/a");
        assert!(long.len() < 64 && !long.contains(".-") && !long.contains(':'), "{long}");
    }

    #[test]
    fn a_cache_is_told_of_its_upstream_and_a_registry_of_none() {
        let registry = registry(json!({"local": {}, "caches": [{"of": "quay.io", "credentials": "c"}]}));
        let [local, cache] = &registries(&registry, Path::new("/"))[..] else { panic!() };
        let secret = Zeroizing::new("w: x #'".to_owned());
        let access = Access { ca: None, credentials: Some(("me".to_owned(), secret)) };
        let read = |plan| serde_yaml::from_str::<serde_json::Value>(&registry_config(plan, &access)).unwrap();
        assert!(read(local).get("proxy").is_none());
        let proxy = &read(cache)["proxy"];
        assert_eq!((&proxy["remoteurl"], &proxy["password"]), (&json!("https://quay.io"), &json!("w: x #'")));
    }

    #[test]
    fn tools_are_told_of_the_registry_to_push_to() {
        let manifest = registry_hosting(&registry(json!({"local": {"port": 5005}}))).unwrap();
        let manifest: serde_json::Value = serde_yaml::from_str(&manifest).unwrap();
        let hosting: serde_json::Value =
            serde_yaml::from_str(manifest["data"]["localRegistryHosting.v1"].as_str().unwrap()).unwrap();
        assert_eq!(hosting["host"], "localhost:5005");
        assert_eq!(hosting["hostFromContainerRuntime"], "kprov-registry:5000");
        assert_eq!(registry_hosting(&registry(json!({}))), None);
    }
}
