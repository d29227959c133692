//! Where nodes get images from besides the registries that images name: a registry of the user's own, caches, mirrors.
//!
//! Owns how a profile says so, and what it can get wrong about it. What becomes of it on nodes is `render`'s.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::names;
use super::tree::Step;

/// Registries, caches and mirrors. What kprov runs of them are containers that all clusters of an engine share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Registry {
    /// A registry to push to, from the host as `localhost:PORT`, from which pods run `localhost:PORT/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalRegistry>,
    /// Pull-through caches, each of one registry.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<Cache>,
    /// Mirrors that are there already, asked in their order, after caches.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// The image of the registries that kprov runs: of Distribution, version 2 or 3. Default: `registry:3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Whether they stay, with their images, when the last cluster that uses them goes; `kprov down --all` removes them.
    /// Whoever makes one decides.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
}

/// A registry to push to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LocalRegistry {
    /// Its port on the engine's host, at 127.0.0.1.
    #[schemars(range(min = 1))]
    pub port: u16,
}

impl Default for LocalRegistry {
    fn default() -> Self {
        Self { port: 5001 }
    }
}

/// A pull-through cache of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cache {
    /// The registry as images name it: `docker.io`, `quay.io`, `registry.example.org:5000`.
    pub of: String,
    /// Where the cache asks for what it lacks. Default: the registry itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// A file with the certificates that may have signed the upstream's, in PEM; a relative path starts at the profile's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// A file with USER:PASSWORD for the upstream. Whoever uses the cache then reads what that user may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
}

/// A mirror of a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// The registry as images name it; `*` is every registry that no other entry is for.
    pub of: String,
    /// The mirror, such as `https://mirror.example.org`.
    pub endpoint: String,
    /// A file with the certificates that may have signed the mirror's, in PEM; a relative path starts at the profile's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// A file with USER:PASSWORD for the mirror.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
}

impl Cache {
    /// Where the cache asks for what it lacks.
    #[must_use]
    pub fn upstream(&self) -> String {
        match (&self.upstream, self.of.as_str()) {
            (Some(upstream), _) => upstream.trim_end_matches('/').to_owned(),
            // Where images are pulled from that name no registry.
            (None, "docker.io") => "https://registry-1.docker.io".to_owned(),
            (None, of) => format!("https://{of}"),
        }
    }
}

/// The user and the password in a file of credentials; `None` if it is none.
#[must_use]
pub fn user_and_password(text: &str) -> Option<(String, Zeroizing<String>)> {
    let (user, password) = text.trim_end_matches(['\r', '\n']).split_once(':')?;
    let sound =
        !user.is_empty() && !password.is_empty() && !text.trim_end_matches(['\r', '\n']).contains(char::is_control);
    sound.then(|| (user.to_owned(), Zeroizing::new(password.to_owned())))
}

/// What is wrong with a part of it.
pub(super) struct Fault {
    /// Where, below `spec.registry`.
    pub(super) at: Vec<Step>,
    pub(super) message: String,
    pub(super) label: &'static str,
}

fn fault(at: &[Step], message: impl Into<String>, label: &'static str) -> Fault {
    Fault { at: at.to_vec(), message: message.into(), label }
}

/// All that is wrong with it.
pub(super) fn faults(registry: &Registry) -> Vec<Fault> {
    let mut faults = Vec::new();
    if registry.local.as_ref().is_some_and(|local| local.port == 0) {
        faults.push(fault(&["local".into(), "port".into()], "a registry has a port that does not change", "not 0"));
    }
    let local = registry.local.as_ref().map(|local| format!("localhost:{}", local.port));
    for (index, cache) in registry.caches.iter().enumerate() {
        let at = |field: &str| [Step::from("caches"), index.into(), field.into()];
        faults.extend(host_fault(&cache.of).map(|(message, label)| fault(&at("of"), message, label)));
        if local.as_ref() == Some(&cache.of) {
            faults.push(fault(&at("of"), format!("{} is the local registry", cache.of), "needs no cache"));
        }
        if registry.caches[..index].iter().any(|other| other.of == cache.of) {
            faults.push(fault(&at("of"), format!("{} has two caches", cache.of), "again here"));
        }
        if let Some(upstream) = &cache.upstream {
            let wrong = address_fault(upstream, cache.credentials.is_some());
            faults.extend(wrong.map(|(message, label)| fault(&at("upstream"), message, label)));
        }
        faults.extend(file_faults(&at("ca"), &at("credentials"), cache.ca.as_ref(), cache.credentials.as_ref()));
    }
    for (index, mirror) in registry.mirrors.iter().enumerate() {
        let at = |field: &str| [Step::from("mirrors"), index.into(), field.into()];
        if mirror.of != "*" {
            faults.extend(host_fault(&mirror.of).map(|(message, label)| fault(&at("of"), message, label)));
        }
        if local.as_ref() == Some(&mirror.of) {
            faults.push(fault(&at("of"), format!("{} is the local registry", mirror.of), "has no mirror"));
        }
        // Without its last slash, it names a table of containerd's.
        let bare = |mirror: &Mirror| mirror.endpoint.trim_end_matches('/').to_owned();
        let twice = |other: &Mirror| other.of == mirror.of && bare(other) == bare(mirror);
        if registry.mirrors[..index].iter().any(twice) {
            faults.push(fault(&at("endpoint"), format!("{} has this mirror already", mirror.of), "again here"));
        }
        let wrong = address_fault(&mirror.endpoint, mirror.credentials.is_some());
        faults.extend(wrong.map(|(message, label)| fault(&at("endpoint"), message, label)));
        faults.extend(file_faults(&at("ca"), &at("credentials"), mirror.ca.as_ref(), mirror.credentials.as_ref()));
    }
    faults
}

fn file_faults(
    at_ca: &[Step],
    at_credentials: &[Step],
    ca: Option<&String>,
    credentials: Option<&String>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    if ca.is_some_and(String::is_empty) {
        faults.push(fault(at_ca, "the file of certificates has no name", "empty"));
    }
    match credentials {
        Some(file) if file.is_empty() => {
            faults.push(fault(at_credentials, "the file of credentials has no name", "empty"));
        }
        // The text itself is left out on purpose.
        Some(file) if file.contains(':') => faults.push(fault(
            at_credentials,
            "`credentials` names a file with USER:PASSWORD; a profile holds neither",
            "not a file's name",
        )),
        _ => {}
    }
    faults
}

/// What is wrong with a registry's name. It becomes a folder's.
fn host_fault(of: &str) -> Option<(String, &'static str)> {
    let (host, port) = of.split_once(':').map_or((of, None), |(host, port)| (host, Some(port)));
    (!names::is_dns_name(host) || port.is_some_and(|port| !is_port(port))).then(|| {
        (
            format!("`{of}` is no name of a registry"),
            "expected HOST or HOST:PORT, without `https://` and without a path",
        )
    })
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// What is wrong with a registry's address. It is not quoted where it may hold a password.
fn address_fault(address: &str, with_credentials: bool) -> Option<(String, &'static str)> {
    if address.contains('@') {
        return Some(("the address has credentials in it".to_owned(), "name a file by `credentials`"));
    }
    let no_address =
        || Some((format!("`{address}` is no address of a registry"), "expected https://HOST[:PORT][/PATH]"));
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest.trim_end_matches('/')),
        _ => return no_address(),
    };
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if host_fault(&host.to_ascii_lowercase()).is_some() || path.is_some_and(|path| !path.split('/').all(part)) {
        return no_address();
    }
    if scheme == "http" && with_credentials {
        return Some(("credentials would go there unencrypted".to_owned(), "expected https://"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(registry: serde_json::Value) -> Vec<String> {
        let registry: Registry = serde_json::from_value(registry).unwrap();
        faults(&registry).into_iter().map(|fault| fault.message).collect()
    }

    #[test]
    fn registries_are_hosts_and_nothing_that_leads_elsewhere() {
        for good in ["docker.io", "localhost:5000", "a-b.c", "10.0.0.1:5000"] {
            assert!(host_fault(good).is_none(), "{good}");
        }
        for bad in [
            "",
            "..",
            "a/..",
            "../x",
            "a..b",
            "a:",
            "a:0",
            "a:99999",
            "a:b",
            "https://a",
            "a/b",
            "*",
            "_default",
            "a b",
            "A",
        ] {
            assert!(host_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn addresses_have_no_credentials_and_no_way_up() {
        for good in ["https://a", "https://a.b:5000/", "http://10.0.0.1:5000", "https://harbor.a/v2/proxy"] {
            assert!(address_fault(good, false).is_none(), "{good}");
        }
        for bad in [
            "a",
            "ftp://a",
            "https://",
            "https:///x",
            "https://a/../b",
            "https://a//b",
            "https://a?b",
            "https://a#b",
            "https://a b",
            "https://a\"",
            "https://a:x",
        ] {
            assert!(address_fault(bad, false).is_some(), "{bad}");
        }
        let (message, _) = address_fault("https://me:hunter2@a", false).unwrap();
        assert!(!message.contains("hunter2"));
        assert!(address_fault("http://a", true).is_some());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let registry = serde_json::json!({
            "local": {"port": 5001},
            "caches": [
                {"of": "docker.io"}, {"of": "docker.io", "credentials": "me:hunter2"}, {"of": "localhost:5001"},
                {"of": "a", "upstream": "http://a", "credentials": "file"}
            ],
            "mirrors": [{"of": "*", "endpoint": "https://m"}, {"of": "*", "endpoint": "https://m", "ca": ""}],
        });
        let messages = messages(registry);
        assert_eq!(
            messages,
            [
                "docker.io has two caches",
                "`credentials` names a file with USER:PASSWORD; a profile holds neither",
                "localhost:5001 is the local registry",
                "credentials would go there unencrypted",
                "* has this mirror already",
                "the file of certificates has no name",
            ]
        );
    }

    #[test]
    fn credentials_are_one_line() {
        let read = |text: &str| user_and_password(text).map(|(user, password)| (user, password.as_str().to_owned()));
        assert_eq!(read("me:a:b\n"), Some(("me".to_owned(), "a:b".to_owned())));
        for bad in ["", "me", ":a", "me:", "me:a\nyou:b\n"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_cache_asks_its_registry() {
        let cache = |of: &str, upstream: Option<&str>| {
            Cache { of: of.to_owned(), upstream: upstream.map(str::to_owned), ca: None, credentials: None }.upstream()
        };
        assert_eq!(cache("docker.io", None), "https://registry-1.docker.io");
        assert_eq!(cache("quay.io", None), "https://quay.io");
        assert_eq!(cache("quay.io", Some("http://up:5000/")), "http://up:5000");
    }
}
