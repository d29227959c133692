//! The KMS plugin: what the EncryptionConfiguration says of it, and its files on control planes.
//!
//! Owns where these lie and how the plugin is started. The program itself comes from the host; see
//! `adapters::program`. What the plugin reads, `kms` owns; a test there reads what is written here.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::documents::encryption::{Kms as ConfigKms, PLUGIN_SOCKET};
use crate::documents::keys::{KeyRing, KmsProtocol, secret};
use crate::documents::profile::{Kms, KmsHolder, VaultAuth, VaultKms};
use crate::documents::yaml;

use super::{Inputs, NodeFile, RenderError};

/// The folder of the plugin on control planes: program, configuration, and what it logs in by. It is in no snapshot.
pub const PLUGIN_FOLDER: &str = "/kind/kprov/kms";
/// What starts the program, with whatever arguments.
pub const PLUGIN_START: &str = "/kind/kprov/kms/start";
/// The folder of the plugin's socket.
pub const PLUGIN_SOCKET_FOLDER: &str = "/run/kprov-kms";
/// The port of a server beside a cluster.
pub const KMS_SERVER_PORT: u16 = 8200;

const UNIT: &str = "/etc/systemd/system/kprov-kms.service";
const KUBELET_UNIT: &str = "/etc/systemd/system/kubelet.service.d/20-kprov-kms.conf";
const CONFIG: &str = "/kind/kprov/kms/config.yaml";
/// The key file of the plugin's provider `local`.
pub const PLUGIN_KEYS: &str = "/kind/kprov/kms/keys.yaml";
/// What a key ring calls it, and where the plugin finds it.
const LOGIN: [(&str, &str); 6] = [
    (secret::CA, "/kind/kprov/kms/ca.crt"),
    (secret::ROLE_ID, "/kind/kprov/kms/role-id"),
    (secret::SECRET_ID, "/kind/kprov/kms/secret-id"),
    (secret::TOKEN, "/kind/kprov/kms/token"),
    (secret::CERTIFICATE, "/kind/kprov/kms/client.crt"),
    (secret::CERTIFICATE_KEY, "/kind/kprov/kms/client.key"),
];

/// The name of the server that kprov runs beside a cluster.
#[must_use]
pub fn kms_server_name(cluster: &str) -> String {
    format!("{cluster}-openbao")
}

/// What the server beside a cluster is set up by.
#[must_use]
pub fn kms_server_config() -> &'static str {
    include_str!("files/openbao.hcl")
}

/// The protocol that API servers talk to the plugin of `kms`.
///
/// # Errors
/// [`RenderError::Unsupported`] if the version does not have the one that is asked for.
pub fn kms_protocol(inputs: &Inputs<'_>, kms: &Kms) -> Result<KmsProtocol, RenderError> {
    let own = inputs.version.kms_protocol();
    match kms.protocol.unwrap_or(own) {
        KmsProtocol::V2 if own == KmsProtocol::V1 => {
            Err(RenderError::unsupported(inputs, "second protocol for KMS plugins", "1.27"))
        }
        protocol => Ok(protocol),
    }
}

/// The KMS provider in the EncryptionConfiguration; `None` if the profile has none.
///
/// # Errors
/// As [`kms_protocol`].
pub(super) fn provider(inputs: &Inputs<'_>) -> Result<Option<ConfigKms>, RenderError> {
    let Some(kms) = inputs.profile.kms() else { return Ok(None) };
    let protocol = kms_protocol(inputs, kms)?;
    let own = format!("unix://{PLUGIN_SOCKET}");
    let endpoint = kms.endpoint.as_deref().unwrap_or(&own);
    Ok(Some(ConfigKms::new(protocol, &kms.name, endpoint, kms.timeout_seconds)))
}

/// The folder of the plugin's socket, which the API server's pod has to see.
pub(super) fn socket_folder(kms: &Kms) -> String {
    let socket = kms.endpoint.as_deref().and_then(|endpoint| endpoint.strip_prefix("unix://")).unwrap_or(PLUGIN_SOCKET);
    socket.rsplit_once('/').map_or_else(|| "/".to_owned(), |(folder, _)| folder.to_owned())
}

/// The health check of the KMS, by which a probe can leave it out.
pub(super) fn health_check(inputs: &Inputs<'_>) -> Result<Option<&'static str>, RenderError> {
    let Some(kms) = inputs.profile.kms() else { return Ok(None) };
    Ok(Some(inputs.version.kms_health_check(kms_protocol(inputs, kms)?)))
}

/// Everything that kprov's own plugin needs on a control plane but the program; nothing without such a plugin.
///
/// # Errors
/// [`RenderError::NoKeys`] if there are no keys at all.
pub fn kms_files(inputs: &Inputs<'_>) -> Result<Vec<NodeFile>, RenderError> {
    let Some(kms) = inputs.profile.kms().filter(|kms| kms.is_own()) else { return Ok(Vec::new()) };
    if matches!(kms.holder(), Some(KmsHolder::Host(_))) {
        // It runs elsewhere; this asks it.
        return Ok(vec![start_file()]);
    }
    let ring = inputs.keys.ok_or(RenderError::NoKeys)?;
    let mut files = static_files();
    files.push(NodeFile { path: CONFIG, mode: 0o600, content: plugin_config(kms, inputs.cluster).into() });
    files.extend(secret_files(kms, ring));
    Ok(files)
}

/// The plugin's local keys, or what it logs in by.
fn secret_files(kms: &Kms, ring: &KeyRing) -> Vec<NodeFile> {
    let file = |path, content: Zeroizing<String>| NodeFile { path, mode: 0o600, content };
    let mut files = Vec::new();
    if matches!(kms.holder(), Some(KmsHolder::Local(_))) {
        files.push(file(PLUGIN_KEYS, kms_key_file(ring)));
    }
    for (name, path) in LOGIN {
        if let Some(material) = ring.kms_secret(name) {
            files.push(file(path, Zeroizing::new(String::from_utf8_lossy(material.bytes()).into_owned())));
        }
    }
    files
}

/// The folder of a bundle on control planes that kind has made of it.
const BUNDLE_FOLDER: &str = "/kind/kprov/bundle";

/// The plugin's folder in a bundle.
pub const PLUGIN_IN_BUNDLE: &str = "kms";

/// Files of a bundle that are mounted by themselves, and where.
const BUNDLE_UNITS: [(&str, &str, &str); 3] = [
    ("kprov-kms.service", UNIT, include_str!("files/kprov-kms.service")),
    ("kubelet-kms.conf", KUBELET_UNIT, include_str!("files/kubelet-kms.conf")),
    ("bundle.conf", "/etc/systemd/system/kprov-kms.service.d/10-bundle.conf", include_str!("files/kms-bundle.conf")),
];

/// Whether a bundle can hold all that the profile's plugin needs, but for the program. The server that kprov runs beside a
/// cluster is none of what kind makes, and a foreign plugin is its owner's part.
pub(super) fn is_in_bundle(inputs: &Inputs<'_>) -> bool {
    matches!(inputs.profile.kms().and_then(Kms::holder), Some(KmsHolder::Local(_) | KmsHolder::Vault(_)))
}

/// The plugin in a bundle, but for the program: names, texts, and whether they are secret. What is secret is left out where there
/// are no keys.
pub(super) fn bundle_files(inputs: &Inputs<'_>) -> Vec<(String, Zeroizing<String>, bool)> {
    let Some(kms) = inputs.profile.kms().filter(|_| is_in_bundle(inputs)) else { return Vec::new() };
    let named = |name: &str| format!("{PLUGIN_IN_BUNDLE}/{name}");
    // First: their folder is made as closed as they are.
    let secret = inputs.keys.map(|ring| secret_files(kms, ring)).unwrap_or_default().into_iter();
    let mut files: Vec<_> =
        secret.map(|file| (named(file.path.rsplit('/').next().unwrap_or_default()), file.content, true)).collect();
    let plain = |name: &str, text: &str| (named(name), Zeroizing::new(text.to_owned()), false);
    files.push(plain("config.yaml", &plugin_config(kms, inputs.cluster)));
    files.push(plain("start", include_str!("files/kms_plugin.sh")));
    files.push(plain("place.sh", include_str!("files/kms_place.sh")));
    files.extend(BUNDLE_UNITS.map(|(name, _, text)| plain(name, text)));
    files
}

/// Where the plugin of a bundle in the folder `dir` is mounted into control planes.
pub(super) fn bundle_mounts(dir: &str) -> Vec<Value> {
    let folder = format!("{dir}/{PLUGIN_IN_BUNDLE}");
    let mount = |from: String, to: &str| json!({"hostPath": from, "containerPath": to, "readOnly": true});
    let units = BUNDLE_UNITS.map(|(name, at, _)| mount(format!("{folder}/{name}"), at));
    std::iter::once(mount(folder, BUNDLE_FOLDER)).chain(units).collect()
}

/// What is the same on every control plane with kprov's own plugin.
#[must_use]
pub(super) fn static_files() -> Vec<NodeFile> {
    let file = |path, mode, content: &str| NodeFile { path, mode, content: content.to_owned().into() };
    vec![
        start_file(),
        file(UNIT, 0o644, include_str!("files/kprov-kms.service")),
        file(KUBELET_UNIT, 0o644, include_str!("files/kubelet-kms.conf")),
    ]
}

/// What runs the program on a node.
fn start_file() -> NodeFile {
    NodeFile { path: PLUGIN_START, mode: 0o700, content: include_str!("files/kms_plugin.sh").to_owned().into() }
}

/// The plugin's configuration. No secret is in it.
pub(super) fn plugin_config(kms: &Kms, cluster: &str) -> String {
    let at = |name: &str| LOGIN.iter().find(|(known, _)| *known == name).map_or("", |(_, path)| path);
    let file = |name: &str| json!({"file": at(name)});
    let app_role = |mount: Option<&str>| {
        let mut role = json!({"roleId": file(secret::ROLE_ID), "secretId": file(secret::SECRET_ID)});
        if let Some(mount) = mount {
            role["mount"] = mount.into();
        }
        json!({"appRole": role})
    };
    let vault = |vault: &VaultKms| {
        let login = match &vault.auth {
            VaultAuth::AppRole(role) => app_role(role.mount.as_deref()),
            VaultAuth::Token(_) => json!({"token": file(secret::TOKEN)}),
            VaultAuth::Certificate(certificate) => {
                let mut login =
                    json!({"certificateFile": at(secret::CERTIFICATE), "key": file(secret::CERTIFICATE_KEY)});
                for (field, value) in [("mount", &certificate.mount), ("role", &certificate.role)] {
                    if let Some(value) = value {
                        login[field] = value.as_str().into();
                    }
                }
                json!({"certificate": login})
            }
        };
        let mut config = json!({
            "address": vault.address, "caFile": at(secret::CA), "mount": vault.mount, "key": vault.key,
            "timeoutSeconds": kms.timeout_seconds, "login": login,
        });
        for (field, value) in [("serverName", &vault.server_name), ("namespace", &vault.namespace)] {
            if let Some(value) = value {
                config[field] = value.as_str().into();
            }
        }
        json!({"vault": config})
    };
    let config: Value = match kms.holder() {
        Some(KmsHolder::Local(_)) => json!({"local": {"keyFile": PLUGIN_KEYS}}),
        Some(KmsHolder::Vault(config)) => vault(config),
        Some(KmsHolder::Server(_)) => json!({"vault": {
            "address": format!("https://{}:{KMS_SERVER_PORT}", kms_server_name(cluster)),
            "caFile": at(secret::CA), "key": "kprov", "timeoutSeconds": kms.timeout_seconds, "login": app_role(None),
        }}),
        // What its owner starts reads what its owner likes.
        Some(KmsHolder::Host(_) | KmsHolder::Foreign(_)) | None => Value::Null,
    };
    yaml::document(&config)
}

/// The key file of the provider `local`: the first key wraps.
#[must_use]
pub fn kms_key_file(ring: &KeyRing) -> Zeroizing<String> {
    let local = || ring.kms().iter().filter(|(name, _)| name.starts_with(secret::LOCAL));
    // Room for all of it from the start: a buffer that grows leaves copies of keys behind.
    let mut text = Zeroizing::new(String::with_capacity(16 + 64 * local().count()));
    text.push_str("keys:\n");
    for (_, material) in local() {
        text.push_str("- secret: \"");
        text.push_str(&material.to_base64());
        text.push_str("\"\n");
    }
    text
}
