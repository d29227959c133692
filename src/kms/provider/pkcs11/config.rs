//! The part of the plugin's configuration that says which token, which key, and where the PIN comes from.

use std::path::PathBuf;

use serde::Deserialize;

use super::super::super::secret::Source;

/// A key in a token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Config {
    /// The token's PKCS#11 module, a shared library; an absolute path.
    pub(super) module: PathBuf,
    /// The token's label.
    pub(super) token: Option<String>,
    /// The token's serial number. Where both are given, both have to fit.
    pub(super) serial: Option<String>,
    /// The label of the key, and of its versions.
    pub(super) key: String,
    /// The user's PIN.
    pub(super) pin: Source,
}

impl Config {
    /// What of it makes no sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        // Names without a folder are looked for wherever the loader likes.
        if !self.module.is_absolute() {
            return Err("module is an absolute path, such as /usr/lib/softhsm/libsofthsm2.so".to_owned());
        }
        if self.token.is_none() && self.serial.is_none() {
            return Err("it names no token: by its label (`token`), or by its serial number (`serial`)".to_owned());
        }
        let named = [("token", self.token.as_deref()), ("serial", self.serial.as_deref()), ("key", Some(&*self.key))];
        for (field, value) in named {
            if value.is_some_and(|value| value.trim().is_empty() || value.contains(char::is_control)) {
                return Err(format!("{field} is no name"));
            }
        }
        match &self.pin {
            Source::File(path) if !path.is_absolute() => Err("the PIN's file is an absolute path".to_owned()),
            Source::File(_) | Source::Environment(_) => Ok(()),
        }
    }

    /// The token, in words.
    pub(super) fn token(&self) -> String {
        match (&self.token, &self.serial) {
            (Some(label), None) => format!("the token {label}"),
            (Some(label), Some(serial)) => format!("the token {label} with the serial number {serial}"),
            (None, serial) => format!("the token with the serial number {}", serial.as_deref().unwrap_or_default()),
        }
    }
}
