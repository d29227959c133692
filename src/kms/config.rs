//! The plugin's configuration file: YAML or JSON, strict, without a secret in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::KmsError;
use super::provider::{Provider, local, pkcs11, vault};
use super::secret::read_private;

/// Which provider wraps, and how it is reached: exactly one of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Config {
    local: Option<LocalConfig>,
    vault: Option<vault::Config>,
    pkcs11: Option<pkcs11::Config>,
}

/// Keys in a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LocalConfig {
    key_file: PathBuf,
}

impl Config {
    /// Reads a configuration file, which only root and this user may read.
    ///
    /// # Errors
    /// [`KmsError::File`], [`KmsError::Mode`] or [`KmsError::Config`].
    pub fn read(path: &Path) -> Result<Self, KmsError> {
        let fail = |reason: String| KmsError::Config { path: path.to_owned(), reason };
        let bytes = read_private(path)?;
        let config: Self = serde_yaml::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
        let checked = match (&config.local, &config.vault, &config.pkcs11) {
            (Some(_), None, None) => Ok(()),
            (None, Some(vault), None) => vault.check().map_err(|reason| format!("vault: {reason}")),
            (None, None, Some(pkcs11)) => pkcs11.check().map_err(|reason| format!("pkcs11: {reason}")),
            _ => Err("it names one provider: `local`, `vault` or `pkcs11`".to_owned()),
        };
        checked.map(|()| config).map_err(fail)
    }

    /// Sets the provider up. A server or a token that cannot be reached is no error: it may come back.
    pub(super) fn provider(&self) -> Result<Arc<dyn Provider>, KmsError> {
        match (&self.local, &self.vault, &self.pkcs11) {
            (Some(config), ..) => Ok(Arc::new(local::Local::open(&config.key_file)?)),
            (_, Some(config), _) => Ok(vault::Vault::start(config)?),
            (_, _, Some(config)) => pkcs11::start(config),
            (None, None, None) => Err(KmsError::Provider("none is configured".to_owned())),
        }
    }

    /// Makes a new version of the key, by which plugins of this configuration wrap within a minute. Gives its id.
    ///
    /// # Errors
    /// [`KmsError`] if there is no way to, or if it fails.
    pub fn add_key(&self) -> Result<String, KmsError> {
        match (&self.local, &self.pkcs11) {
            (Some(config), _) => local::add_key(&config.key_file),
            (_, Some(config)) => pkcs11::add_key(config),
            (None, None) => {
                let reason = "the server's own tools rotate its key, such as `bao write -f transit/keys/KEY/rotate`";
                Err(KmsError::Provider(reason.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn read(text: &str) -> Result<Config, KmsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        Config::read(&path)
    }

    #[test]
    fn yaml_and_json_are_read() {
        let config = read("local:\n  keyFile: /a").unwrap();
        assert_eq!(config, read(r#"{"local": {"keyFile": "/a"}}"#).unwrap());
        let text = "vault: {address: 'https://vault:8200', caFile: /ca, key: k, login: {appRole: {roleId: {file: /r}, secretId: {env: S}}}}";
        assert!(read(text).is_ok());
        assert!(read("pkcs11: {module: /p11.so, token: t, serial: '1', key: k, pin: {file: /pin}}").is_ok());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, reason) in [
            ("local: {keyFile: /a, keyfile: /b}", "unknown field `keyfile`"),
            ("{}", "it names one provider"),
            (
                "local: {keyFile: /a}\nvault: {address: 'https://v', caFile: /ca, key: k, login: {token: {env: T}}}",
                "it names one provider",
            ),
            (
                "vault: {address: 'http://v:8200', caFile: /ca, key: k, login: {token: {env: T}}}",
                "must begin with https://",
            ),
            ("vault: {address: 'https://v', caFile: /ca, key: ../sys, login: {token: {env: T}}}", "key"),
            ("vault: {address: 'https://v', caFile: /ca, key: k, login: {}}", "one way to log in"),
            ("vault: {address: 'https://v', caFile: /ca, key: k, login: {token: s.secret}}", "invalid type"),
            ("pkcs11: {module: p11.so, token: t, key: k, pin: {env: PIN}}", "module is an absolute path"),
            ("pkcs11: {module: /p11.so, key: k, pin: {env: PIN}}", "it names no token"),
            ("pkcs11: {module: /p11.so, token: t, key: ' ', pin: {env: PIN}}", "key is no name"),
            ("pkcs11: {module: /p11.so, token: t, key: k, pin: '1234'}", "invalid type"),
            ("pkcs11: {module: /p11.so, token: t, key: k, pin: {file: pin}}", "the PIN's file is an absolute path"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_repeated() {
        let text = "vault: {address: 'https://v', caFile: /ca, key: k, login: {token: {value: s.very-secret}}}";
        assert!(!read(text).unwrap_err().to_string().contains("very-secret"));
        let text = "pkcs11: {module: /p11.so, token: t, key: k, pin: {value: very-secret}}";
        assert!(!read(text).unwrap_err().to_string().contains("very-secret"));
        let text = "vault: {address: 'https://a:very-secret@v', caFile: /ca, key: k, login: {token: {env: T}}}";
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains("address is https://HOST:PORT") && !error.contains("very-secret"), "{error}");
    }

    /// A profile's plugin, as its control planes get it.
    fn rendered(kms: serde_json::Value) -> String {
        use crate::documents::profile::Profile;
        use crate::documents::render::{Inputs, Templates, kms_files};
        let profile: Profile = serde_json::from_value(serde_json::json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "p"},
            "spec": {"encryption": {"providers": [{"type": "kms", "kms": kms}]}},
        }))
        .unwrap();
        let ring = profile.spec.encryption.as_ref().unwrap().placeholder();
        let inputs = Inputs {
            profile: &profile,
            cluster: "p",
            image: "i",
            version: &"v1.36.2".parse().unwrap(),
            keys: Some(&ring),
            templates: &Templates::built_in(),
            cgroup_v1: false,
        };
        let files = kms_files(&inputs).unwrap();
        let file = files.iter().find(|file| file.path.ends_with("/config.yaml")).unwrap();
        assert_eq!(file.mode, 0o600);
        // Each file that it names is one that comes along, and private.
        for word in file.content.split(['"', ' ', '\n', '\'']).filter(|word| word.starts_with("/kind/")) {
            let named = files.iter().find(|file| file.path == word);
            assert!(named.is_some_and(|file| file.mode == 0o600) || kms.get("server").is_some(), "{word}");
        }
        file.content.to_string()
    }

    #[test]
    fn what_a_profile_renders_to_is_read() {
        let vault = |auth: serde_json::Value| {
            serde_json::json!({"vault": {
                "address": "https://vault.example:8200", "ca": "ca.pem", "key": "k", "namespace": "team/a", "auth": auth,
            }})
        };
        let secret = serde_json::json!({"env": "S"});
        for kms in [
            serde_json::json!({"local": {}}),
            serde_json::json!({"server": "openbao"}),
            vault(serde_json::json!({"appRole": {"mount": "m", "roleId": secret, "secretId": secret}})),
            vault(serde_json::json!({"token": secret})),
            vault(serde_json::json!({"certificate": {"role": "r", "certificate": "c.pem", "key": secret}})),
        ] {
            let text = rendered(kms);
            read(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
}
