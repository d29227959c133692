//! How the server is reached, and how the plugin logs in.

use std::path::PathBuf;

use serde::Deserialize;

use super::super::super::secret::Source;

/// How a transit key is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Config {
    /// The server, such as `https://vault.example:8200`.
    pub(super) address: String,
    /// The certificates that may have signed the server's, in PEM.
    pub(super) ca_file: PathBuf,
    /// The name in the server's certificate, if not the address's.
    pub(super) server_name: Option<String>,
    pub(super) namespace: Option<String>,
    /// Where the transit engine is mounted.
    #[serde(default = "transit")]
    pub(super) mount: String,
    /// The transit key.
    pub(super) key: String,
    /// For how long the server is awaited. API servers wait for three seconds unless told otherwise.
    #[serde(default = "patience")]
    pub(super) timeout_seconds: u64,
    pub(super) login: Login,
}

/// One way to log in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Login {
    app_role: Option<AppRole>,
    token: Option<Source>,
    certificate: Option<Certificate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AppRole {
    #[serde(default = "approle")]
    pub(super) mount: String,
    pub(super) role_id: Source,
    pub(super) secret_id: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Certificate {
    #[serde(default = "cert")]
    pub(super) mount: String,
    /// The role to log in as; without one the server looks for a role that fits.
    pub(super) role: Option<String>,
    pub(super) certificate_file: PathBuf,
    pub(super) key: Source,
}

/// How the plugin logs in.
#[derive(Debug, Clone)]
pub(super) enum LoginMethod {
    AppRole(AppRole),
    Token(Source),
    Certificate(Certificate),
    /// Nothing is configured; `check` refuses that.
    None,
}

impl Login {
    pub(super) fn method(&self) -> LoginMethod {
        match (&self.app_role, &self.token, &self.certificate) {
            (Some(app_role), None, None) => LoginMethod::AppRole(app_role.clone()),
            (None, Some(token), None) => LoginMethod::Token(token.clone()),
            (None, None, Some(certificate)) => LoginMethod::Certificate(certificate.clone()),
            _ => LoginMethod::None,
        }
    }
}

impl Config {
    /// Checks what the types cannot tell.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.address.starts_with("https://") {
            return Err("address must begin with https://".to_owned());
        }
        self.address.parse::<http::Uri>().map_err(|error| format!("address: {error}"))?;
        // What somebody logs in by is no part of an address, which is told in errors.
        if self.address.contains(['@', '?', '#']) {
            return Err("address is https://HOST:PORT, with a path at most".to_owned());
        }
        // Mounts may have slashes; the key is one component of a path.
        let plain = |text: &str, slash: bool| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte) || slash && byte == b'/';
            !text.is_empty()
                && text.bytes().all(allowed)
                && !text.split('/').any(|part| part.is_empty() || part == "." || part == "..")
        };
        if !plain(&self.mount, true) {
            return Err(format!("mount {:?} is no path", self.mount));
        }
        if !plain(&self.key, false) {
            return Err(format!("key {:?} is no key's name", self.key));
        }
        if self.namespace.as_deref().is_some_and(|namespace| !plain(namespace.trim_end_matches('/'), true)) {
            return Err("namespace is no path".to_owned());
        }
        if !(1..=60).contains(&self.timeout_seconds) {
            return Err("timeoutSeconds is from 1 to 60".to_owned());
        }
        let mount = match self.login.method() {
            LoginMethod::AppRole(app_role) => app_role.mount,
            LoginMethod::Certificate(certificate) => certificate.mount,
            LoginMethod::Token(_) => return Ok(()),
            LoginMethod::None => {
                return Err("login names one way to log in: `appRole`, `token` or `certificate`".to_owned());
            }
        };
        if plain(&mount, true) { Ok(()) } else { Err(format!("login: mount {mount:?} is no path")) }
    }
}

fn transit() -> String {
    "transit".to_owned()
}

fn approle() -> String {
    "approle".to_owned()
}

fn cert() -> String {
    "cert".to_owned()
}

fn patience() -> u64 {
    3
}
